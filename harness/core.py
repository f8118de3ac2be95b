"""The values that flow through the harness: rows, examples, requests, responses, scores.

Everything is frozen; each stage makes new values out of the ones before. Standard library
only, so that every module and every plugin may import it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

Fields = Mapping[str, Any]


class Row(NamedTuple):
    """One row of a benchmark's file."""

    number: int  # place in the file, from 0; what an example's id is made of
    fields: Fields


@dataclass(frozen=True, slots=True)
class Hub:
    """One file of a data set on the Hugging Face hub, pinned to a commit."""

    repo: str  # owner/name
    file: str  # path inside the repository
    revision: str  # 40 hexadecimal digits, or a ref where the commit is not known
    restore: Callable[[Iterable[Fields]], bytes | tuple[bytes, ...]] | None = None
    """Parquet rows -> the bytes of the original file, or of each where there are two; None where
    the hub has that file itself."""


@dataclass(frozen=True, slots=True)
class Source:
    """Three roads to the same rows: original file, hub, built-in sample."""

    title: str  # what the rows are, for people
    files: tuple[str, ...]  # name patterns of the original file, the best first
    parse: Callable[..., Sequence[Fields]]
    """The file's bytes -> fields; gets those of the companion too, if there is one. Raises
    DataError with the first bad line."""
    sample: str  # path of the built-in sample inside `package`
    origin: str  # where a person gets the original file
    sha256: tuple[str, ...] = ()  # published checksums of the original file
    rows: int | None = None  # published number of rows
    hub: Hub | None = None
    package: str = "harness.tasks"
    companion: Callable[[str], str] | None = None
    """Name of the file -> name of the one beside it that has the other half of every row."""


class Pool(NamedTuple):
    """Rows to draw example pairs from."""

    rows: tuple[Row, ...]
    sample: bool  # whether they are the built-in ones


@dataclass(frozen=True, slots=True)
class Example:
    """What a benchmark asks about: one passage, one question, one text."""

    id: str
    fields: Fields
    references: tuple[str, ...] = ()


# --- requests ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """How probable is `continuation` after `context`?

    The space of a word boundary opens the continuation: GPT-2's vocabulary has " word" as
    one token. An empty context leaves the start token as the only context.
    """

    kind: ClassVar[str] = "loglikelihood"

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class RollingLoglikelihood:
    """How probable is a whole text? Every token is scored exactly once.

    The text comes in pieces (lines, say) that are joined before tokenising; the response
    keeps them apart, so that statistics can be taken over them. Bytes are encoded byte by
    byte where they are no valid UTF-8.
    """

    kind: ClassVar[str] = "rolling"

    pieces: tuple[str, ...] | tuple[bytes, ...]

    @property
    def text(self) -> str:
        r"""The joined pieces; bytes that are not valid UTF-8 become \xNN."""
        joined = b"".join(p if isinstance(p, bytes) else p.encode() for p in self.pieces)
        return joined.decode("utf-8", "backslashreplace")


WordRule = Literal["word", "first-token", "every-token"]


@dataclass(frozen=True, slots=True)
class NextWord:
    """What is the best whole word after `context` that is not in `skip`?

    First tokens are taken in order of probability, each extended greedily to a whole word.
    """

    kind: ClassVar[str] = "next_word"

    context: str
    skip: frozenset[str]  # lower-cased words that are passed over
    among: frozenset[str] | None = None  # if given, only these words are accepted
    rule: WordRule = "word"
    """What `skip` is held against: the completed word, the first token, or each token."""


@dataclass(frozen=True, slots=True)
class Generate:
    """What does the model write after a prompt?

    The prompt comes in parts, which are joined before tokenising; `overflow` says what gives way
    where prompt and new tokens do not fit the context together.
    """

    kind: ClassVar[str] = "generate"

    parts: tuple[str, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    top_k: int = 1  # 1 is greedy; else sampled among so many, at temperature 1
    seed: tuple[int, ...] = (0,)  # of a sample; greedy answers do not depend on it
    overflow: Literal["left", "turns", "right"] = "left"
    """`left`: the beginning; `turns`: whole middle parts, the oldest first, then the beginning;
    `right`: the end of the first part."""

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return "".join(self.parts)


Request = Loglikelihood | RollingLoglikelihood | NextWord | Generate


def request_text(request: Request) -> str:
    """The text before what is scored or generated; all of a rolling text."""
    match request:
        case RollingLoglikelihood():
            return request.text
        case Generate():
            return request.prompt
    return request.context


# --- responses --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of the tokens asked about, in nats, and whether each was the argmax."""

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]

    @cached_property
    def logprob(self) -> float:
        """Sum over the tokens, in nats."""
        return math.fsum(self.logprobs)

    @property
    def num_tokens(self) -> int:
        """How many tokens were scored."""
        return len(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would have produced exactly these tokens."""
        return all(self.greedy)


@dataclass(frozen=True)
class Rolled:
    """The response to a rolling request: one `Scored` a piece.

    A token belongs to the piece that its first character is in.
    """

    pieces: tuple[Scored, ...]

    @cached_property
    def logprob(self) -> float:
        """Sum over all tokens of the text, in nats."""
        return math.fsum(piece.logprob for piece in self.pieces)

    @property
    def num_tokens(self) -> int:
        """How many tokens were scored."""
        return sum(piece.num_tokens for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Word:
    """The word found by `NextWord`, without outer white space; empty if none was found."""

    text: str
    skipped: tuple[str, ...]  # candidates passed over before it


@dataclass(frozen=True)
class Generated:
    """The response to `Generate`.

    Log-probabilities are the model's own over its whole vocabulary, in nats, also where only
    the best few tokens were drawn from.
    """

    text: str  # new text only, cut before the stop
    tokens: tuple[int, ...]  # all that were decoded, those of the stop included
    logprobs: tuple[float, ...]  # one a token
    num_tokens: int  # how many of them the text is made of
    ended: Literal["stop", "end", "length"]  # a stop string, the end-of-text token, the limit

    @cached_property
    def logprob(self) -> float:
        """Sum over the tokens of the text, in nats."""
        return math.fsum(self.logprobs[: self.num_tokens])


Response = Scored | Rolled | Word | Generated


# --- how requests become tokens ---------------------------------------------------------

Bos = Literal["auto", "eot", "tokenizer", "none"]
Windows = Literal["plain", "lm-eval", "hf"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """The part of a protocol that the engine must know."""

    bos: Bos = "auto"
    """Start token: the tokenizer's own (`auto`), the end-of-text token (`eot`), what the
    tokenizer adds by itself (`tokenizer`), or `none`."""
    stride: int | None = None
    """By how many tokens a rolling window advances; None: the context, which means disjoint."""
    windows: Windows = "plain"
    """`plain`; `lm-eval` (last window filled up to the left); `hf` (no target beyond a window's
    own tokens, so that its first token is context only)."""


# --- scores -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a run, with its 95 % interval."""

    metric: str
    value: float
    unit: str
    higher_is_better: bool
    stderr: float | None  # None where there are too few outcomes to tell
    low: float | None
    high: float | None
    totals: Mapping[str, float]  # the sums behind it, e.g. nats and words: renormalise at will
    column: str | None = None  # the column of the paper's tables that this score fills
    baseline: str | None = None  # the model-free system whose score this is, if it is not ours


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a run cost, in tokens; padding is not counted."""

    asked: int = 0  # what separate requests would have fed the model
    computed: int = 0  # what was fed
    scored: int = 0  # positions whose logits were read
    cached: int = 0  # what was answered without the model

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.asked + other.asked,
            self.computed + other.computed,
            self.scored + other.scored,
            self.cached + other.cached,
        )

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.asked - other.asked,
            self.computed - other.computed,
            self.scored - other.scored,
            self.cached - other.cached,
        )
