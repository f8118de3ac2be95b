"""NextWord: walk the most probable first tokens, extend each to a whole word, judge the word.

`WordSearch` is one request's state, plain Python over token strings; `search_all` runs those of
a batch in step. `expand` feeds their candidate branches after the batch's prefilled cache, in one
masked forward pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.core import Tokens, Word
from harness.engine.model.forward import Forward
from harness.engine.queries.encode import WORD_TOKENS
from harness.engine.queries.prefix_tree import arrange, batches
from harness.engine.queries.query import Span, SpanScores, WordQuery
from harness.engine.scoring.logprobs import TOP, Prefilled, score, to_device

FIRST_TOKENS = 50  # protocols walk this many; beyond them the mass is negligible
WIDTH = 4  # candidates extended at the same time: a branch token costs far less than a pass

Path = tuple[int, ...]


def ends_word(text: str) -> bool:
    """Whether a token with this text begins something new rather than going on with a word.

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
        query: what is sought.
        first: the most probable first tokens, the best first.
        string: token id -> the text that it adds, with its leading space.
        space_apart: whether a word may begin with a token that is its leading space alone.
    """

    query: WordQuery
    first: Sequence[int]
    string: Callable[[int], str]
    space_apart: bool = False
    result: Word | None = None
    _paths: list[Path] = field(default_factory=list)  # candidates in order of their first token
    _complete: dict[Path, bool] = field(default_factory=dict)
    _skipped: list[str] = field(default_factory=list)
    _fed: list[int] = field(default_factory=list)  # lengths of the paths that were asked about

    def __post_init__(self) -> None:
        if self.query.rule == "every-token":
            self._paths = [self._best_allowed((), self.first)]
        else:
            walk = self.first[:FIRST_TOKENS]
            self._paths = [(t,) for t in walk if self._may_begin(t) and self._first_ok(t)]
        self._settle()

    def wants(self) -> list[Path]:
        """Paths whose next token must be known to go on; none once there is a result."""
        if self.result is not None:
            return []
        return [p for p in self._paths[:WIDTH] if not self._complete.get(p)]

    def asked(self, inputs: int) -> int:
        """Tokens that separate runs would feed: of the context alone, then behind each path."""
        return inputs + sum(inputs + length for length in self._fed)

    def tell(self, path: Path, following: Sequence[int]) -> None:
        """Take the most probable tokens after a path, the best first."""
        self._fed.append(len(path))
        if self.result is not None or path not in self._paths:
            return
        longer = self._best_allowed(path, following)
        if not self._ends(path, longer):
            self._paths[self._paths.index(path)] = longer
        elif self._text(path).strip():
            self._complete[path] = True
        else:
            self._paths.remove(path)  # nothing but a space
        self._settle()

    def _ends(self, path: Path, longer: Path) -> bool:
        """Whether a path is a whole word, as the token that would follow shows."""
        if self.query.rule == "every-token":
            return _first_word(self._text(longer)) != self._text(longer).strip()
        # Some vocabularies have the space at a word's end.
        closed = self._text(path).lstrip()[-1:].isspace()
        return closed or ends_word(self.string(longer[-1]))

    def _may_begin(self, token: int) -> bool:
        text = self.string(token)
        return may_begin(text) or (self.space_apart and text == " ")

    def _first_ok(self, token: int) -> bool:
        if self.query.rule != "first-token":
            return True
        return self.string(token).strip().lower() not in self.query.skip

    def _best_allowed(self, path: Path, tokens: Sequence[int]) -> Path:
        if self.query.rule != "every-token":
            return (*path, tokens[0])
        allowed = (t for t in tokens if self.string(t).strip().lower() not in self.query.skip)
        return (*path, next(allowed, tokens[0]))

    def _settle(self) -> None:
        """Judge complete candidates in order, until one is accepted or one is incomplete."""
        while self._paths:
            path = self._paths[0]
            if len(path) < WORD_TOKENS and not self._complete.get(path):
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


class Following:
    """The most probable tokens after candidate paths of a batch.

    Args:
        forward: the model.
        spans: of the run.
        kept: the batch's prefilled cache; without one, paths are fed as plain rows.
        budget: padded tokens a batch, for those.

    Attributes:
        tokens: what the calls so far have cost.
    """

    def __init__(
        self, forward: Forward, spans: Sequence[Span], kept: Prefilled | None, budget: int
    ) -> None:
        self.tokens = Tokens()
        self._forward, self._spans, self._kept, self._budget = forward, spans, kept, budget

    def __call__(self, wanted: Sequence[tuple[int, Path]]) -> list[Sequence[int]]:
        """Most probable tokens after each (span, path), the best first."""
        after = [pair for pair in wanted if self._fits_cache(*pair)]
        found: dict[tuple[int, Path], Sequence[int]] = {}
        if self._kept is not None and after:
            self.tokens += Tokens(computed=sum(len(p) for _, p in after), scored=len(after))
            found.update(zip(after, expand(self._forward, self._kept, after), strict=True))
        found.update(self._plain([pair for pair in wanted if pair not in found]))
        return [found[pair] for pair in wanted]

    def _fits_cache(self, s: int, path: Path) -> bool:
        """Whether a path may follow the kept keys: they were rotated for the span's own length."""
        limit = self._forward.rope_limit
        known = self._kept is not None and s in self._kept.places
        return known and (limit is None or len(self._spans[s].inputs) + len(path) <= limit)

    def _plain(self, wanted: Sequence[tuple[int, Path]]) -> dict[tuple[int, Path], Sequence[int]]:
        """The same from plain rows of contexts with their paths."""
        plain = [Span((*self._spans[s].inputs, *path), (), top=True) for s, path in wanted]
        self.tokens += Tokens(computed=sum(len(s.inputs) for s in plain), scored=len(plain))
        limit = self._forward.rope_limit
        found: dict[int, SpanScores] = {}
        for batch in batches(arrange(plain, None, limit), self._budget, limit):
            found.update(score(self._forward, batch, plain)[0])
        return {pair: found[k].top for k, pair in enumerate(wanted)}


def search_all(
    searches: Mapping[int, tuple[int, WordSearch]], following: Following
) -> dict[int, Word]:
    """Run searches, each for a span, to their ends in step; the words found."""
    while True:
        wanted = dict.fromkeys(
            (s, path) for s, search in searches.values() for path in search.wants()
        )
        if not wanted:
            return {i: search.result for i, (_, search) in searches.items() if search.result}
        told = dict(zip(wanted, following(list(wanted)), strict=True))
        for s, search in searches.values():
            for path in search.wants():
                search.tell(path, told[s, path])


def expand(
    forward: Forward, kept: Prefilled, branches: Sequence[tuple[int, Path]]
) -> list[list[int]]:
    """Most probable tokens after each branch, the best first; see `branch_states`."""
    last = branch_states(forward, kept, branches)
    parts = [_best(forward.head(part)) for part in torch.split(last, forward.chunk)]
    found: list[list[int]] = torch.cat(parts).tolist()
    return found


def branch_states(
    forward: Forward, kept: Prefilled, branches: Sequence[tuple[int, Path]]
) -> Tensor:
    """Hidden states (N, H) of the last tokens of branches that are fed after a kept batch.

    Args:
        forward: the model.
        kept: the prefilled batch (B rows of T tokens).
        branches: (span, path): `path` continues the last input of `span`.

    Rows without a branch are let go for good; of the others the cache is cropped back, so that
    the next call may name them again.
    """
    kept.keep({span for span, _ in branches})
    rows, past = kept.ends.shape
    laid: list[list[tuple[int, int, int, int]]] = [
        [] for _ in range(rows)
    ]  # token, node, depth, branch
    lasts: list[tuple[int, int]] = []
    for b, (span, path) in enumerate(branches):
        row, node = kept.places[span]
        laid[row] += [(token, node, depth, b) for depth, token in enumerate(path)]
        lasts.append((row, len(laid[row]) - 1))
    width = max(len(tokens) for tokens in laid)
    fill = (0, 0, 0, -1)
    table = np.array([[*tokens, *[fill] * (width - len(tokens))] for tokens in laid], np.int64)
    read = np.array([row * width + m for row, m in lasts], np.int64)
    d_table, d_read = to_device([table, read], forward.device)
    ids, nodes, depth, branch = d_table.unbind(-1)  # (B, M) each

    columns = torch.arange(past, device=ids.device)
    ends = kept.ends[:, None, :]
    trunk = (columns <= nodes[:, :, None]) & (nodes[:, :, None] < ends)  # (B, M, T)
    same = (branch[:, :, None] == branch[:, None, :]) & (branch[:, None, :] >= 0)
    own = same & (depth[:, :, None] >= depth[:, None, :])  # (B, M, M)
    states = forward.trunk(
        ids,
        position_ids=kept.positions.gather(1, nodes) + 1 + depth,
        attention_mask=forward.mask(torch.cat([trunk, own], dim=2)),
        past_key_values=kept.cache,
    )
    kept.cache.crop(-width)  # negative: remove so many
    return states.reshape(-1, states.shape[-1])[d_read]


def _best(logits: Tensor) -> Tensor:
    """Most probable tokens (N, TOP) by logits (N, V), the best first."""
    found: Tensor = logits.topk(min(TOP, logits.shape[1]), dim=-1).indices
    return found
