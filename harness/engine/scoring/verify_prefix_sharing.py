"""Test whether a model scores rows that share prefixes as it scores plain rows.

Small trees of every shape are tested, several in a batch, and trees as large as those of the run.
Every branch is compared with its plain row, over the whole distribution of the next token.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.engine.model.forward import Forward
from harness.engine.model.self_test import Tolerance, failure, made_up_tokens, usable_tokens
from harness.engine.model.self_test_results import NotStored
from harness.engine.queries.prefix_tree import TreeRow, arrange, batches
from harness.engine.queries.query import Sharing, Span
from harness.engine.scoring.logprobs import PrefilledBatch, batch_states, to_device_batch
from harness.engine.scoring.next_word import branch_states
from harness.engine.scoring.word_search import Path

log = logging.getLogger(__name__)

# Relative to how much logits differ from token to token: a model of small weights has flat logits,
# and a wrong mask moves them little. In float32, rounding alone moves them by some 1e-5.
TOLERANCE = Tolerance(3e-4, 0.1)
# A trained model amplifies rounding at single positions, in half precision to other logits. So the
# tolerance holds for this share of the positions, and a multiple of it for all.
_QUANTILE, _OUTLIER_FACTOR = 0.7, 30
_ALWAYS_SHARE = Sharing(pair_cost=0.0, max_row=1 << 20)
SMALL_TREES = ((8, 0), (9, 0), (13, 30))  # show most errors at little cost
_MIN_LENGTH = 8  # tokens of the longest path of a tree
_MIN_VOCABULARY = 16  # usable tokens
_PLAIN_BUDGET = 256  # padded tokens of plain rows per batch, in tests of small trees
_LOGITS_COMPARED = 4096  # per position


def tree_fault(forward: Forward, sizes: Sequence[tuple[int, int]] = SMALL_TREES) -> str:
    """What is wrong with rows that share prefixes; empty if nothing is.

    Branches are compared with their plain rows, and so are tokens fed after kept keys and values.
    `sizes` are, for each tree of one batch, the tokens of its longest path and its columns. They
    matter: attention windows that the config does not mention show only in larger trees.
    """
    if len(usable_tokens(forward)) < _MIN_VOCABULARY:
        return "this model has too few tokens to test it"
    try:
        trees = [_tree(forward, *size, main_last=k % 2 == 1) for k, size in enumerate(sizes)]
        same = _scored_as_plain_rows(forward, trees)
    except Exception as error:  # a model that was not made for such masks may raise anything
        return NotStored(f"this model cannot run rows with branches ({failure(error)})")
    return "" if same else "this model scores rows with branches differently from separate rows"


@dataclass(frozen=True, slots=True)
class _Tree:
    """Spans of one row; those with targets are compared with their plain rows.

    `paths` are fed after kept keys and values, each after the span with that index.
    """

    spans: list[Span]
    paths: list[tuple[int, Path]]


def _tree(forward: Forward, length: int, width: int, *, main_last: bool = False) -> _Tree:
    r"""A tree with branches of different lengths, before and after each other, and nested ones.

        1 2 - 3 ..... 4 - 5 6 7     the longest path, `length` tokens
         \     \       \
          \     \        8 9 10
           \      11 12 13        before or after its rest
            \- 14 ...             so long that the row has `width` columns
             \- 15 16 17
              \   \
               \   18
                19

    A branch of three tokens is read at these and at the one that it parts from, which must not
    change with what follows it. If `main_last`, the longest path comes after the others. A window
    that is shorter than the longest path ends within it: for 8, and for 11, whose columns are not
    next to those of their ancestors.
    """
    usable = usable_tokens(forward)
    length = min(max(length, _MIN_LENGTH), forward.rope_limit or length)
    forks = usable[np.linspace(0, len(usable) - 1, 10).astype(int)].tolist()  # ascending
    main = forks[8 if main_last else 0]
    tokens = made_up_tokens(forward, length + 8, seed=length + main_last)
    root, tail = tokens[:2], tokens[2:10]
    trunk = (*root, main, *tokens[10 : length + 4])  # length - 3
    short = [
        Span((*root, forks[4], forks[3], tail[0]), (0,) * 4),
        Span((*root, forks[4], forks[7]), (0,)),
        Span((*root, forks[6]), (0,)),
    ]
    paths: list[tuple[int, Path]] = [
        (0, (forks[2], *tail[1:3])),
        (0, (forks[5],)),
        (2, (tail[3], forks[1])),
    ]
    deep = [
        Span((*trunk, forks[2], *tail[4:6]), (0,) * (4 if main_last else 0)),
        Span((*trunk, forks[5], *tail[6:8]), (0,) * 4),
        Span((*trunk[: 3 * length // 4], forks[9 if main_last else 0], *tail[:2]), (0,) * 4),
    ]
    if length + 2 <= min(forward.context, forward.rope_limit or forward.context):
        paths.append((4, (forks[1], forks[3])))
    missing, at_most = width - length - 11, max(length - 4, 1)  # columns, tokens per branch
    fillers = [
        Span((*root, forks[1], int(usable[k]), *tokens[2 : 2 + min(at_most, missing - begin)]), ())
        for k, begin in enumerate(range(0, missing, at_most))
    ]
    return _Tree([*short, *deep, *fillers], paths)


def _scored_as_plain_rows(forward: Forward, trees: Sequence[_Tree]) -> bool:
    """Whether trees, in one batch, give the logits of plain rows."""
    spans: list[Span] = []
    paths: list[tuple[int, Path]] = []
    for tree in trees:
        paths += [(len(spans) + s, path) for s, path in tree.paths]
        spans += tree.spans
    read = [s for s, span in enumerate(spans) if span.targets]
    plain = [spans[s] for s in read]
    plain += [Span((*spans[s].inputs, *path), (0,)) for s, path in paths]
    expected = torch.cat(_plain_logits(forward, plain))
    actual = torch.cat(_tree_logits(forward, spans, read, paths))
    if not torch.equal(expected.isfinite(), actual.isfinite()):
        return False
    expected, actual = _centred(expected), _centred(actual)
    spread = (expected - expected.mean(dim=0)).square().mean().sqrt()
    moved = (expected - actual).square().mean(dim=-1).sqrt() / spread.clamp(min=1e-30)
    usual, worst = float(moved.quantile(_QUANTILE)), float(moved.max())
    depth = len(spans[3].inputs)
    log.debug("trees of %d tokens: most logits move by %.1e, the worst %.1e", depth, usual, worst)
    tolerance = TOLERANCE.of(forward)
    return usual <= tolerance and worst <= _OUTLIER_FACTOR * tolerance


def _plain_logits(forward: Forward, spans: Sequence[Span]) -> list[Tensor]:
    """Logits (N, V) at the targets of each span, from plain rows."""
    limit = forward.rope_limit
    logits: dict[int, Tensor] = {}
    budget = max(_PLAIN_BUDGET, *(len(span.inputs) for span in spans))
    for batch in batches(arrange(spans, None, limit), budget, limit):
        logits |= _read(forward, batch, None)[0]
    return [logits[s] for s in range(len(spans))]


def _tree_logits(
    forward: Forward, spans: Sequence[Span], read: Iterable[int], paths: Sequence[tuple[int, Path]]
) -> list[Tensor]:
    """The same from trees in one batch, and after each of the paths; one of these is fed again."""
    rows = arrange(spans, _ALWAYS_SHARE, forward.rope_limit)
    logits, prefilled = _read(forward, rows, forward.full_cache())
    after = _logits(forward, branch_states(forward, prefilled, paths))
    after[:1] = _logits(forward, branch_states(forward, prefilled, paths[:1]))
    return [*(logits[s] for s in read), after]


def _read(
    forward: Forward, rows: Sequence[TreeRow], cache: object
) -> tuple[dict[int, Tensor], PrefilledBatch]:
    """Logits (N, V) of each span that is read, and the prefilled batch."""
    width = max(len(row) for row in rows)
    nodes = {s: (r, row.nodes[s]) for r, row in enumerate(rows) for s in row.nodes if row.nodes[s]}
    reads = [r * width + node for r, of_span in nodes.values() for node in of_span]
    batch, _ = to_device_batch(forward, rows, np.array(reads))
    logits = _logits(forward, batch_states(forward, batch, cache))
    by_span = torch.split(logits, [len(of_span) for _, of_span in nodes.values()])
    last_nodes = {s: (r, of_span[-1]) for s, (r, of_span) in nodes.items()}
    prefilled = PrefilledBatch(cache, batch.ends, batch.positions, last_nodes)
    return dict(zip(nodes, by_span, strict=True)), prefilled


def _logits(forward: Forward, states: Tensor) -> Tensor:
    """Logits (N, some of V) of states (N, H), from all over the vocabulary."""
    step = -(-forward.vocabulary // _LOGITS_COMPARED)
    return torch.cat(
        [forward.head(part)[:, ::step].clone() for part in torch.split(states, forward.chunk)]
    )


def _centred(logits: Tensor) -> Tensor:
    """Logits without their mean, on which no probability depends."""
    logits = logits.nan_to_num(0.0, 0.0, 0.0)
    return logits - logits.mean(dim=-1, keepdim=True)
