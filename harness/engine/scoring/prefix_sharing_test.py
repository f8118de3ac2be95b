"""Whether a model scores rows that share prefixes as it scores plain rows.

Small trees of every shape are tried, several in a batch, and trees as large as those of the run.
Every branch is compared with its plain row, by all that it says of the next token.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.engine.model.capabilities import usable_tokens
from harness.engine.model.forward import Forward
from harness.engine.queries.prefix_tree import TreeRow, arrange, batches
from harness.engine.queries.query import Sharing, Span
from harness.engine.scoring.logprobs import Prefilled, batch_states, lay
from harness.engine.scoring.next_word import Path, branch_states

log = logging.getLogger(__name__)

# How far logits may move, as a fraction of how much they differ from token to token: a model of
# small weights has flat logits, and a wrong mask moves them little. In float32 rounding alone comes
# to some 1e-5.
_MOVED = {torch.float32: 3e-4, torch.float64: 3e-4}
_HALF_MOVED = 0.1
# At single places a trained model blows rounding up, in half precision to other logits altogether.
_MOST, _OUTLIER = 0.7, 30
_ALWAYS = Sharing(pair_cost=0.0, max_row=1 << 20)
SMALL = ((8, 0), (9, 0), (13, 30))  # trees that show most faults, in no time
_SHORT = 8  # tokens of the longest path of a tree at least
_LEAST = 16  # tokens in a vocabulary from which trees are made
_AT_ONCE = 256  # padded tokens of plain rows, in tests of small trees
_COMPARED = 4096  # logits of a position


def tree_fault(forward: Forward, sizes: Sequence[tuple[int, int]] = SMALL) -> str:
    """What goes wrong with rows that share prefixes, empty if nothing does.

    Branches are compared with their plain rows, and so are tokens fed after kept keys and values.
    The sizes matter: attention windows that the config does not mention go unnoticed in small
    trees.

    Args:
        forward: the model.
        sizes: for each tree of one batch the tokens of its longest path, and its columns.
    """
    if len(usable_tokens(forward)) < _LEAST:
        return "this model has too few tokens to test it"
    try:
        trees = [_tree(forward, *size, last=k % 2 == 1) for k, size in enumerate(sizes)]
        right = _as_alone(forward, trees)
    except Exception as error:  # a model that was not made for such masks may raise anything
        reason = str(error).strip().split("\n")[0][:100]
        return f"this model cannot run rows with branches ({type(error).__name__}: {reason})"
    return "" if right else "this model scores rows with branches differently from separate rows"


@dataclass(frozen=True, slots=True)
class _Tree:
    """Spans of one row; those with targets are compared with their plain rows.

    `paths` are fed after kept keys and values, each behind the span with that index.
    """

    spans: list[Span]
    paths: list[tuple[int, Path]]


def _tree(forward: Forward, length: int, width: int, *, last: bool = False) -> _Tree:
    r"""A tree with branches of different lengths, before and after each other, and nested ones.

        1 2 - 3 ... 4 - 5 6 7       the longest path, `length` tokens
         \           \
          \            8 9 10
           \- 11 ...              so long that the row has `width` columns
            \- 12 13 14
             \   \
              \   15
               16

    A branch of three tokens is read at these and at the one that it parts from, which must not
    change with what follows it.

    Args:
        forward: for the vocabulary and the longest row.
        length: tokens of the longest path.
        width: columns of the row, if that is more.
        last: whether the longest path comes after the others.
    """
    usable = usable_tokens(forward)
    length = min(max(length, _SHORT), forward.rope_limit or length)
    forks = usable[np.linspace(0, len(usable) - 1, 10).astype(int)].tolist()  # ascending
    main = forks[8 if last else 0]
    drawn = np.random.default_rng(length + last).choice(usable, length + 8).tolist()
    root, tail = tuple(drawn[:2]), drawn[2:10]
    trunk = (*root, main, *drawn[10 : length + 4])  # length - 3
    short = [
        Span((*root, forks[4], forks[3], tail[0]), (0,) * 4),
        Span((*root, forks[4], forks[7]), (0,)),
        Span((*root, forks[6]), (0,)),
    ]
    paths = [(0, (forks[2], *tail[1:3])), (0, (forks[5],)), (2, (tail[3], forks[1]))]
    deep = [
        Span((*trunk, forks[2], *tail[4:6]), (0,) * (4 if last else 0)),
        Span((*trunk, forks[5], *tail[6:8]), (0,) * 4),
    ]
    if length + 2 <= min(forward.context, forward.rope_limit or forward.context):
        paths.append((4, (forks[1], forks[3])))
    sizes = _parts(width - length - 8, length - 4)
    long = [
        Span((*root, forks[1], int(usable[k]), *drawn[2 : 2 + size]), ())
        for k, size in enumerate(sizes)
    ]
    return _Tree([*short, *deep, *long], paths)


def _parts(total: int, most: int) -> list[int]:
    """`total` tokens in branches of at most `most`."""
    return [min(most, total - begin) for begin in range(0, total, max(most, 1))]


def _as_alone(forward: Forward, trees: Sequence[_Tree]) -> bool:
    """Whether trees, in one batch, give the logits of plain rows."""
    spans = [span for tree in trees for span in tree.spans]
    offsets = np.cumsum([0, *(len(tree.spans) for tree in trees)])
    paths = [(int(o) + s, path) for o, tree in zip(offsets, trees) for s, path in tree.paths]  # noqa: B905
    read = [s for s, span in enumerate(spans) if span.targets]
    plain = [spans[s] for s in read]
    plain += [Span((*spans[s].inputs, *path), (0,)) for s, path in paths]
    alone = torch.cat(_plain_logits(forward, plain))
    together = torch.cat(_tree_logits(forward, spans, read, paths))
    if not torch.equal(alone.isfinite(), together.isfinite()):
        return False
    alone, together = _centred(alone), _centred(together)
    spread = (alone - alone.mean(dim=0)).square().mean().sqrt()
    moved = (alone - together).square().mean(dim=-1).sqrt() / spread.clamp(min=1e-30)
    most, worst = float(moved.quantile(_MOST)), float(moved.max())
    deepest = len(spans[3].inputs)
    log.debug("trees of %d tokens: most logits move by %.1e, %.1e", deepest, most, worst)
    bound = _MOVED.get(forward.model.dtype, _HALF_MOVED)
    return most <= bound and worst <= _OUTLIER * bound


def _plain_logits(forward: Forward, spans: Sequence[Span]) -> list[Tensor]:
    """Logits (N, V) at the targets of each span, from plain rows."""
    limit = forward.rope_limit
    found: dict[int, Tensor] = {}
    budget = max(_AT_ONCE, *(len(span.inputs) for span in spans))
    for batch in batches(arrange(spans, None, limit), budget, limit):
        found |= _read(forward, batch, None)[0]
    return [found[s] for s in range(len(spans))]


def _tree_logits(
    forward: Forward, spans: Sequence[Span], read: Sequence[int], paths: Sequence[tuple[int, Path]]
) -> list[Tensor]:
    """The same from trees in one batch, and after each of the paths; one of these is fed again."""
    rows = arrange(spans, _ALWAYS, forward.rope_limit)
    found, kept = _read(forward, rows, forward.full_cache())
    after = _logits(forward, branch_states(forward, kept, paths))
    after[:1] = _logits(forward, branch_states(forward, kept, paths[:1]))
    return [*(found[s] for s in read), after]


def _read(
    forward: Forward, rows: Sequence[TreeRow], cache: object
) -> tuple[dict[int, Tensor], Prefilled]:
    """Logits (N, V) of each span that is read, and what was kept."""
    width = max(len(row) for row in rows)
    nodes = {s: (r, row.nodes[s]) for r, row in enumerate(rows) for s in row.nodes if row.nodes[s]}
    flat = [r * width + node for r, mine in nodes.values() for node in mine]
    laid, places, _ = lay(forward, rows, np.array(flat))
    logits = _logits(forward, batch_states(forward, laid, places, cache))
    parts = torch.split(logits, [len(mine) for _, mine in nodes.values()])
    ends = {s: (r, mine[-1]) for s, (r, mine) in nodes.items()}
    return dict(zip(nodes, parts, strict=True)), Prefilled(cache, laid.ends, laid.positions, ends)


def _logits(forward: Forward, states: Tensor) -> Tensor:
    """Logits (N, some of V) of states (N, H), from all over the vocabulary."""
    step = -(-forward.vocabulary // _COMPARED)
    return torch.cat(
        [forward.head(part)[:, ::step].clone() for part in torch.split(states, forward.chunk)]
    )


def _centred(logits: Tensor) -> Tensor:
    """Logits without what they have in common, which no probability depends on."""
    logits = logits.nan_to_num(0.0, 0.0, 0.0)
    return logits - logits.mean(dim=-1, keepdim=True)
