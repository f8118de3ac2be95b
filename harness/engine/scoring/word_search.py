"""The search for the next word: which tokens are asked for, and which word they make.

The most probable first tokens are tried in order. Each is extended greedily to a whole word, and
the first word that the query accepts is the result. `WordSearch` is plain Python over the texts of
tokens: the most probable ones come from a model in this process, or from a server.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.core import Word
from harness.engine.queries.encode import WORD_TOKENS
from harness.engine.queries.query import WordQuery
from harness.engine.tokenizer.tokenizer import Tokenizer

TOP = 128  # tokens, the most probable ones, that a search is given at each step
FIRST_TOKENS = 50  # tokens that may begin the word; beyond them the probability is negligible
CANDIDATES = 4  # paths extended at the same time: a branch token costs far less than a pass

Path = tuple[int, ...]
"""Tokens after a context: a word, or the beginning of one."""


def ends_word(text: str) -> bool:
    """Whether a token with this text begins something new instead of continuing a word.

    White space and punctuation do. So does a broken UTF-8 sequence (U+FFFD): in practice the
    first bytes of typographic quotes and dashes.
    """
    return not text or not text[0].isalnum()


def may_begin(text: str) -> bool:
    """Whether a token can begin a word: it has a letter or digit and no line break."""
    return any(c.isalnum() for c in text) and not any(c in "\n\r" for c in text)


def first_tokens(query: WordQuery) -> int:
    """How many of the most probable first tokens a search looks at."""
    return TOP if query.rule == "every-token" else FIRST_TOKENS


@dataclass(slots=True)
class WordSearch:
    """The search for one query.

    Attributes:
        query: the context, and which words are accepted.
        first: the most probable first tokens, the best first.
        string: token id -> the text that it adds, with its leading space.
        space_apart: whether a word may begin with a token that is only its leading space.
        result: the word, once it is found; empty if there is none.
        ran_out: whether the search needed a less probable token than those it was given.
    """

    query: WordQuery
    first: Sequence[int]
    string: Callable[[int], str]
    space_apart: bool = False
    result: Word | None = None
    ran_out: bool = False
    _paths: list[Path] = field(default_factory=list)  # candidates in order of their first token
    _complete: set[Path] = field(default_factory=set)
    _skipped: list[str] = field(default_factory=list)
    _read_lengths: list[int] = field(default_factory=list)  # of the paths that were read

    def __post_init__(self) -> None:
        if self.query.rule == "every-token":
            self._paths = [self._extended((), self.first)]
        else:
            first = self.first[: first_tokens(self.query)]
            self._paths = [(t,) for t in first if self._may_begin(t) and self._first_accepted(t)]
        self._settle()

    def open_paths(self, candidates: int = CANDIDATES) -> list[Path]:
        """Paths whose next token is asked for, of the best candidates; none after the result."""
        if self.result is not None:
            return []
        return [path for path in self._paths[:candidates] if path not in self._complete]

    def tokens_fed(self) -> int:
        """Tokens that separate passes would feed: the context, and the context with each path."""
        inputs = len(self.query.inputs)
        return inputs + sum(inputs + length for length in self._read_lengths)

    def extend(self, path: Path, following: Sequence[int]) -> None:
        """Take the most probable tokens after a path, the best first."""
        self._read_lengths.append(len(path))
        if self.result is not None or path not in self._paths:
            return
        longer = self._extended(path, following)
        if not self._ends(path, longer):
            self._paths[self._paths.index(path)] = longer
        elif self._text(path).strip():
            self._complete.add(path)
        else:
            self._paths.remove(path)  # nothing but a space
        self._settle()

    def _ends(self, path: Path, longer: Path) -> bool:
        """Whether a path is a whole word, judged by the token that would follow."""
        if self.query.rule == "every-token":
            return _first_word(self._text(longer)) != self._text(longer).strip()
        # Some vocabularies have the space at a word's end.
        closed = self._text(path).lstrip()[-1:].isspace()
        return closed or ends_word(self.string(longer[-1]))

    def _may_begin(self, token: int) -> bool:
        text = self.string(token)
        return may_begin(text) or (self.space_apart and text == " ")

    def _first_accepted(self, token: int) -> bool:
        return self.query.rule != "first-token" or not self._is_skipped(token)

    def _is_skipped(self, token: int) -> bool:
        return self.string(token).strip().lower() in self.query.skip

    def _extended(self, path: Path, following: Sequence[int]) -> Path:
        """A path with the best following token that the rule allows."""
        if self.query.rule != "every-token":
            return (*path, following[0])
        for token in following:
            if not self._is_skipped(token):
                return (*path, token)
        self.ran_out = True
        return (*path, following[0])

    def _settle(self) -> None:
        """Judge complete candidates in order, until one is accepted or one is incomplete."""
        while self._paths:
            path = self._paths[0]
            if len(path) < WORD_TOKENS and path not in self._complete:
                return
            text = self._text(path).strip()
            word = _first_word(text) if self.query.rule == "every-token" else text
            if self._accepts(word):
                self.result = Word(word, tuple(self._skipped))
                return
            self._skipped.append(word)
            self._paths.pop(0)
        self.result = Word("", tuple(self._skipped))
        self.ran_out |= self.query.rule != "every-token"  # which has one candidate, come what may

    def _accepts(self, word: str) -> bool:
        if self.query.rule == "word" and word.lower() in self.query.skip:
            return False
        return self.query.among is None or word in self.query.among

    def _text(self, path: Path) -> str:
        return "".join(self.string(token) for token in path)


def _first_word(text: str) -> str:
    """The first word as a basic tokenizer splits it: a run of letters and digits, or one sign."""
    text = text.strip()
    stop = next((i for i, c in enumerate(text) if not c.isalnum()), len(text))
    return text[: max(stop, 1)]


class TokenTexts(dict[int, str]):
    """Token id -> the text that it adds, decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def add(self, tokens: Iterable[int]) -> None:
        """Decode those tokens that are new, in one call."""
        new = [token for token in dict.fromkeys(tokens) if token not in self]
        self.update(zip(new, self._tokenizer.token_texts(new), strict=True))

    def __missing__(self, token: int) -> str:
        self.add([token])
        return self[token]
