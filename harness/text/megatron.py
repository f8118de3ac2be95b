"""The detokenisers published with Megatron-LM, mistakes included: published results use them."""

import re

from harness.text.splitting import Rules, apply

_PTB_MEGATRON: Rules = (
    (" '", "'"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" n't", "n't"),
    (" N ", "1 "),
    (r"\$ 1", "$1"),
    ("# 1", "#1"),
)


# lm-eval copied these too. The mistakes: the first rule also removes the space before an opening
# quote; the second has literal slashes and matches hardly anything; pairs may span lines;
# apostrophes form pairs; the letter N becomes 1.
_WIKITEXT_MEGATRON: Rules = (
    ("s '", "s'"),
    ("/' [0-9]/", "/'[0-9]/"),
    *((re.escape(f" @{mark}@ "), mark) for mark in "-,."),
    *((re.escape(f" {mark} "), f"{mark} ") for mark in ":;.!?,"),
    # The published rules for pairs, such as `\(\s*([^\)]*?)\s*\)`, come next: see `_closed_up`.
)
_PAIRS = ("()", "[]", "{}", '""', "''")
_AFTER_PAIRS: Rules = (
    *((" ".join("=" * count), "=" * count) for count in (4, 3, 2)),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def megatron_wikitext(text: str) -> str:
    """Detokenise a document; the rules apply across lines.

    `" yes` / `she said " no "` gives `"yes` / `she said" no "`: one unbalanced quote shifts all
    later ones, so the result depends on whether a line, a page or a file is detokenised.
    """
    text = apply(text, _WIKITEXT_MEGATRON)
    for pair in _PAIRS:
        text = _closed_up(text, pair[0], pair[1])
    return apply(text, _AFTER_PAIRS)


def _closed_up(text: str, first: str, last: str) -> str:
    """Remove white space inside pairs: `( a ) (b` gives `(a) (b`.

    Equal to the published pattern, which is slow on text that never closes the pair.
    """
    parts: list[str] = []
    done = 0
    while (start := text.find(first, done)) >= 0 and (stop := text.find(last, start + 1)) >= 0:
        parts += text[done:start], first, text[start + 1 : stop].strip(), last
        done = stop + 1
    return "".join([*parts, text[done:]])


def megatron_wikitext_line(line: str) -> str:
    """Detokenise one line; it gets line ends for the two rules that look for them."""
    return megatron_wikitext(f"\n{line}\n")[1:-1]


def megatron_ptb(line: str) -> str:
    """Detokenise a line of PTB: ` or N cents ` gives `or1 cents`.

    The space before N is lost, and in `at N N yield` only the first N changes (`at1 N yield`),
    since the two share a space. The line gets line ends for the two rules that look for them.
    """
    return apply(f"\n{line}\n", _PTB_MEGATRON)[1:-1]
