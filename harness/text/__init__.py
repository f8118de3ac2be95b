"""Detokenisers: turn tokenised benchmark text back into natural English, line by line.

Source: the GPT-2 paper scores WikiText, PTB, 1BW and LAMBADA with "invertible de-tokenizers"
(section 3.1) but does not publish them. These follow the paper's description and the conventions
of the tokenisers that made the files: Moses for WikiText and 1BW, Penn Treebank for PTB, LAMBADA
and CBT. Two lossy ones follow the rules published with Megatron-LM, which comparable perplexities
depend on.

Departure: `Detokeniser.checked` verifies that each line can be inverted, and keeps the original
line otherwise. The bit per line that says which form was used is not charged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.text.megatron import megatron_ptb, megatron_wikitext, megatron_wikitext_line
from harness.text.moses import moses, moses_back, wikitext, wikitext_back
from harness.text.penn import penn, penn_back, ptb, ptb_back

__all__ = ["DETOKENISERS", "Detokeniser", "detokenise_lines", "megatron_wikitext"]


@dataclass(frozen=True, slots=True)
class Detokeniser:
    """A named pair of functions over one line without its line end."""

    name: str
    detokenise: Callable[[str], str]  # tokenised line -> natural text
    retokenise: Callable[[str], str] | None  # the inverse; None if the mapping is lossy

    def checked(self, line: str) -> tuple[str, bool]:
        """Return (detokenised line, True) if the original can be recovered, else (line, False).

        A lossy detokeniser, which has no inverse, returns (detokenised line, False).
        `" it did n't "` under `ptb` gives `("it didn't", True)`.
        """
        text = self.detokenise(line)
        if self.retokenise is None:
            return text, False
        return (text, True) if self.retokenise(text) == line else (line, False)


def detokenise_lines(
    lines: Sequence[str], name: str, mode: Literal["checked", "lossy"] = "checked"
) -> tuple[list[str], int]:
    """Detokenise lines with `DETOKENISERS[name]`; also return how many were kept as they were.

    Mode `checked` keeps lines that cannot be inverted; `lossy` keeps none, nor does a lossy
    detokeniser in either mode. `([" it 's ", "it 's"], "ptb")` gives `(["it's", "it 's"], 1)`: the
    second line lacks the outer spaces of the file.
    """
    detokeniser = DETOKENISERS[name]
    if mode == "lossy" or detokeniser.retokenise is None:
        return [detokeniser.detokenise(line) for line in lines], 0
    results = [detokeniser.checked(line) for line in lines]
    return [text for text, _ in results], sum(not inverted for _, inverted in results)


def _lambada_quotes(text: str) -> str:
    """Straighten curly double quotes; OpenAI's file needs nothing else."""
    return text.replace("“", '"').replace("”", '"')


def _same(line: str) -> str:
    return line


_ALL = (
    Detokeniser("none", _same, _same),
    Detokeniser("ptb", ptb, ptb_back),
    Detokeniser("wikitext", wikitext, wikitext_back),
    Detokeniser("1bw", moses, moses_back),
    Detokeniser("lambada", penn, lambda text: penn_back(text, upper=False)),
    Detokeniser("cbt", penn, lambda text: penn_back(text, upper=True)),
    Detokeniser("lambada-quotes", _lambada_quotes, None),
    Detokeniser("ptb-megatron", megatron_ptb, None),
    Detokeniser("wikitext-megatron", megatron_wikitext_line, None),
)
DETOKENISERS: Mapping[str, Detokeniser] = {entry.name: entry for entry in _ALL}


def common_prefix_length(texts: Sequence[str]) -> int:
    """The number of characters that all texts have in common at their beginning."""
    first, last = min(texts), max(texts)  # of all pairs, these two have the shortest common prefix
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(first))
