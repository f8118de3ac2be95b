"""NextWord: try the most probable first tokens, extend each to a whole word, judge the word.

`WordSearch` is the state of one search, plain Python over token strings. `run_searches` advances
the searches of a batch in step, and `NextTokens` reads their candidate paths after the batch's
prefilled cache, in one masked forward pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.core import Tokens, Word
from harness.engine.model.forward import Forward
from harness.engine.queries.encode import WORD_TOKENS
from harness.engine.queries.prefix_tree import arrange, batches
from harness.engine.queries.query import Span, SpanScores, WordQuery
from harness.engine.scoring.logprobs import (
    TOP,
    PrefilledBatch,
    check_finite,
    score,
    to_device,
)
from harness.engine.scoring.ties import tie_counts, tied
from harness.errors import NumericsError

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


@dataclass(slots=True)
class WordSearch:
    """The search for one query.

    Attributes:
        query: the context, and which words are accepted.
        first: the most probable first tokens, the best first.
        string: token id -> the text that it adds, with its leading space.
        space_apart: whether a word may begin with a token that is only its leading space.
        result: the word, once it is found; empty if there is none.
    """

    query: WordQuery
    first: Sequence[int]
    string: Callable[[int], str]
    space_apart: bool = False
    result: Word | None = None
    _paths: list[Path] = field(default_factory=list)  # candidates in order of their first token
    _complete: set[Path] = field(default_factory=set)
    _skipped: list[str] = field(default_factory=list)
    _read_lengths: list[int] = field(default_factory=list)  # of the paths that were read

    def __post_init__(self) -> None:
        if self.query.rule == "every-token":
            self._paths = [self._extended((), self.first)]
        else:
            first = self.first[:FIRST_TOKENS]
            self._paths = [(t,) for t in first if self._may_begin(t) and self._first_accepted(t)]
        self._settle()

    def open_paths(self) -> list[Path]:
        """Paths whose next token is needed to go on; none once there is a result."""
        if self.result is not None:
            return []
        return [path for path in self._paths[:CANDIDATES] if path not in self._complete]

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
        allowed = (token for token in following if not self._is_skipped(token))
        return (*path, next(allowed, following[0]))

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


class NextTokens:
    """Finds the most probable tokens after candidate paths of a batch.

    Paths are fed after the batch's cache, or as plain rows with their contexts where they cannot
    follow it. `tokens` is the cost of the calls so far.
    """

    def __init__(
        self,
        forward: Forward,
        spans: Sequence[Span],
        prefilled: PrefilledBatch | None,
        budget: int,
    ) -> None:
        self.tokens = Tokens()
        self._forward, self._spans = forward, spans
        self._prefilled, self._budget = prefilled, budget

    def __call__(self, paths: Sequence[tuple[int, Path]]) -> list[Sequence[int]]:
        """Most probable tokens after each (span, path), the best first."""
        best: dict[tuple[int, Path], Sequence[int]] = {}
        branches = [path for path in paths if self._fits_cache(*path)]
        if self._prefilled is not None and branches:
            self.tokens += Tokens(computed=sum(len(p) for _, p in branches), scored=len(branches))
            states = branch_states(self._forward, self._prefilled, branches)
            best.update(zip(branches, self._best(states, branches), strict=True))
        best.update(self._in_plain_rows([path for path in paths if path not in best]))
        return [best[path] for path in paths]

    def _best(self, states: Tensor, branches: Sequence[tuple[int, Path]]) -> list[list[int]]:
        """Most probable tokens by the hidden states (N, H) of branches."""
        chunks = torch.split(states, self._forward.chunk)
        found: list[Tensor] = []  # (N, K + 1): ids, and whether the highest logit is finite
        ties = torch.zeros((), dtype=torch.long, device=states.device)
        for chunk in chunks:
            logits = self._forward.head(chunk)
            values, ids = logits.topk(min(TOP, logits.shape[1]), dim=-1)
            found.append(torch.cat([ids, values[:, :1].isfinite()], dim=-1))
            ties += tied(logits)
        rows: list[list[int]] = torch.cat(found).tolist()
        self.tokens += tie_counts([len(chunk) for chunk in chunks], ties.item())
        for (s, _), row in zip(branches, rows, strict=True):
            if not row[-1]:
                check_finite(math.nan, self._spans[s])
        return [row[:-1] for row in rows]

    def _fits_cache(self, s: int, path: Path) -> bool:
        """Whether a path may follow the cached keys, which were rotated for the span's length."""
        limit = self._forward.rope_limit
        cached = self._prefilled is not None and s in self._prefilled.last_nodes
        return cached and (limit is None or len(self._spans[s].inputs) + len(path) <= limit)

    def _in_plain_rows(
        self, paths: Sequence[tuple[int, Path]]
    ) -> dict[tuple[int, Path], Sequence[int]]:
        """The same from plain rows of contexts with their paths."""
        plain = [Span((*self._spans[s].inputs, *path), (), top=True) for s, path in paths]
        self.tokens += Tokens(computed=sum(len(s.inputs) for s in plain), scored=len(plain))
        limit = self._forward.rope_limit
        scores: dict[int, SpanScores] = {}
        for batch in batches(arrange(plain, None, limit), self._budget, limit):
            try:
                found, _, ties = score(self._forward, batch, plain)
            except NumericsError as error:
                error.query = self._spans[paths[plain.index(error.query)][0]]
                raise
            scores.update(found)
            self.tokens += ties
        return {path: scores[k].top for k, path in enumerate(paths)}


def run_searches(searches: Sequence[tuple[int, WordSearch]], next_tokens: NextTokens) -> None:
    """Run searches, given with the spans of their contexts, in step until all have a result."""
    while any(search.open_paths() for _, search in searches):
        open_paths = ((s, path) for s, search in searches for path in search.open_paths())
        paths = list(dict.fromkeys(open_paths))
        following = dict(zip(paths, next_tokens(paths), strict=True))
        for s, search in searches:
            for path in search.open_paths():
                search.extend(path, following[s, path])


def branch_states(
    forward: Forward, prefilled: PrefilledBatch, branches: Sequence[tuple[int, Path]]
) -> Tensor:
    """Hidden states (N, H) of the last tokens of branches that are fed after a prefilled batch.

    Args:
        forward: the model.
        prefilled: B rows of T tokens. Rows without a branch are dropped for good; the cache of the
            others is cropped back, so that the next call may feed them again.
        branches: (span, path): `path` continues the last input of `span`.
    """
    prefilled.keep_rows_of({span for span, _ in branches})
    rows, past = prefilled.ends.shape
    # Per row: (token, node of the context, depth in the branch, branch)
    fed: list[list[tuple[int, int, int, int]]] = [[] for _ in range(rows)]
    reads: list[tuple[int, int]] = []
    for b, (span, path) in enumerate(branches):
        row, node = prefilled.last_nodes[span]
        fed[row] += [(token, node, depth, b) for depth, token in enumerate(path)]
        reads.append((row, len(fed[row]) - 1))
    width = max(len(tokens) for tokens in fed)
    padding = (0, 0, 0, -1)
    table = np.array([[*tokens, *[padding] * (width - len(tokens))] for tokens in fed], np.int64)
    flat_reads = np.array([row * width + m for row, m in reads], np.int64)
    d_table, d_reads = to_device([table, flat_reads], forward.device)
    ids, nodes, depth, branch = d_table.unbind(-1)  # (B, M) each

    columns = torch.arange(past, device=ids.device)
    ends = prefilled.ends[:, None, :]
    on_path = (columns <= nodes[:, :, None]) & (nodes[:, :, None] < ends)  # (B, M, T)
    same = (branch[:, :, None] == branch[:, None, :]) & (branch[:, None, :] >= 0)
    in_branch = same & (depth[:, :, None] >= depth[:, None, :])  # (B, M, M)
    states = forward.trunk(
        ids,
        position_ids=prefilled.positions.gather(1, nodes) + 1 + depth,
        attention_mask=forward.mask(torch.cat([on_path, in_branch], dim=2)),
        past_key_values=prefilled.cache,
    )
    prefilled.cache.crop(-width)  # negative: remove the last columns
    return states.reshape(-1, states.shape[-1])[d_reads]
