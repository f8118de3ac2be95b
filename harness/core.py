"""The values that flow through the harness: rows, examples, requests, responses, scores.

All are frozen. This module needs the standard library only, so every other module and every plugin
may import it.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

Fields = Mapping[str, Any]


class Row(NamedTuple):
    """One row of a data file."""

    number: int  # place in the file, from 0; examples take their ids from it
    fields: Fields


@dataclass(frozen=True, slots=True)
class Hub:
    """One file of a data set on the Hugging Face hub, at a fixed commit."""

    repo: str  # owner/name
    file: str  # path inside the repository
    revision: str  # 40 hexadecimal digits, or a ref if the commit is not known
    restore: Callable[[Iterable[Fields]], bytes | tuple[bytes, ...]] | None = None
    """Parquet rows -> the bytes of the original file or files; None if the hub has the original."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from: the original file, the hub or the built-in sample."""

    title: str  # what the rows are, for people
    files: tuple[str, ...]  # name patterns of the original file, the preferred one first
    parse: Callable[..., Sequence[Fields]]
    """The bytes of the file, and of its companion if there is one -> fields of each row. Raises
    DataError for the first bad line."""
    sample: str  # path of the built-in sample inside `package`
    origin: str  # where to download the original file
    sha256: tuple[str, ...] = ()  # published checksums of the original file
    rows: int | None = None  # published number of rows
    hub: Hub | None = None
    package: str = "harness.tasks"
    companion: Callable[[str], str] | None = None
    """Name of the file -> name of a second file that has the other half of every row."""


class Pool(NamedTuple):
    """Rows that example pairs are drawn from."""

    rows: tuple[Row, ...]
    sample: bool  # whether they are the built-in sample


@dataclass(frozen=True, slots=True)
class Example:
    """What a task asks about and scores: one passage, question or text."""

    id: str
    fields: Fields
    references: tuple[str, ...] = ()


# --- requests ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """How probable is `continuation` after `context`?

    A space between the two belongs to the continuation, because GPT-2's vocabulary has " word" as
    one token. If the context is empty, the start token is the only context.
    """

    kind: ClassVar[str] = "loglikelihood"

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class RollingLoglikelihood:
    """How probable is a text? Every token is scored exactly once.

    The text comes in pieces, such as lines, that are joined before tokenising. The response has
    one part per piece. Bytes that are not valid UTF-8 are encoded one by one.
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
    """What is the best word after `context` that is not in `skip`?

    Candidates start with the most probable first tokens, in order; each is completed greedily.
    """

    kind: ClassVar[str] = "next_word"

    context: str
    skip: frozenset[str]  # lower-case words to pass over
    among: frozenset[str] | None = None  # if given, the only words to accept
    rule: WordRule = "word"
    """What is looked up in `skip`: the completed word, its first token, or each of its tokens."""


@dataclass(frozen=True, slots=True)
class Generate:
    """What does the model write after a prompt?

    The prompt comes in parts that are joined before tokenising. `overflow` says what is dropped if
    the prompt and the new tokens do not fit the context.
    """

    kind: ClassVar[str] = "generate"

    parts: tuple[str, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    top_k: int = 1  # 1 is greedy; otherwise the number of tokens to sample from, at temperature 1
    seed: tuple[int, ...] = (0,)  # of the sample; greedy decoding ignores it
    overflow: Literal["left", "turns", "right"] = "left"
    """`left`: the beginning; `turns`: middle parts, the oldest first, then the beginning; `right`:
    the end of the first part."""

    @property
    def prompt(self) -> str:
        """The joined parts."""
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
    """The log-probability of each scored token, in nats, and whether it is the argmax."""

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]

    @cached_property
    def logprob(self) -> float:
        """Sum over the tokens, in nats."""
        return math.fsum(self.logprobs)

    @property
    def num_tokens(self) -> int:
        """The number of scored tokens."""
        return len(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would produce these tokens."""
        return all(self.greedy)


@dataclass(frozen=True)
class Rolled:
    """The response to `RollingLoglikelihood`: one `Scored` per piece.

    A token belongs to the piece that contains its first character.
    """

    pieces: tuple[Scored, ...]

    @cached_property
    def logprob(self) -> float:
        """Sum over all tokens of the text, in nats."""
        return math.fsum(piece.logprob for piece in self.pieces)

    @property
    def num_tokens(self) -> int:
        """The number of scored tokens."""
        return sum(piece.num_tokens for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Word:
    """The response to `NextWord`: the word without outer white space; empty if there is none."""

    text: str
    skipped: tuple[str, ...]  # candidates that were passed over


@dataclass(frozen=True)
class Generated:
    """The response to `Generate`.

    Log-probabilities are over the whole vocabulary, in nats, even if sampling was restricted.
    """

    text: str  # the new text, cut before the stop string
    tokens: tuple[int, ...]  # all decoded tokens, including those of the stop string
    logprobs: tuple[float, ...]  # one per token
    num_tokens: int  # number of tokens that make up the text
    ended: Literal["stop", "end", "length"]  # by a stop string, the end-of-text token, the limit

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
    """How requests become tokens: the part of a protocol that concerns the engine."""

    bos: Bos = "auto"
    """Start token: the tokenizer's own (`auto`), the end-of-text token (`eot`), what the
    tokenizer adds by default (`tokenizer`), or `none`."""
    stride: int | None = None
    """Number of tokens that a rolling window advances; None for disjoint windows."""
    windows: Windows = "plain"
    """`plain`; `lm-eval` (the last window is filled up to the left); `hf` (the first token of a
    window is context only)."""


# --- scores -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """One number of a run, with its 95 % interval."""

    metric: str
    value: float
    unit: str
    higher_is_better: bool
    stderr: float | None  # None if there are too few outcomes
    low: float | None
    high: float | None
    totals: Mapping[str, float]  # the sums behind the value, such as nats and words
    column: str | None = None  # the column of the paper's tables that it fills
    baseline: str | None = None  # the model-free system that is scored, if it is not the model


@dataclass(frozen=True, slots=True)
class Tokens:
    """The cost of a run in tokens, without padding."""

    asked: int = 0  # fed if every request were answered on its own
    computed: int = 0  # fed to the model
    scored: int = 0  # positions whose logits were read
    cached: int = 0  # fed for the requests that the cache answered
    checked: int = 0  # positions at which it was checked whether several tokens tie for the first
    tied: int = 0  # those where they do, so that the lowest token id decides

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(*map(operator.sub, astuple(self), astuple(other)))
