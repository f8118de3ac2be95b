"""What a model can do is tried, not believed: is it causal, may its head be split off, does it
honour a tree mask? Each check runs a few rows and compares with the plain way.
"""  # noqa: D205

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.encode import Span
from harness.engine.forward import Forward
from harness.engine.own_head import OwnHead, watch
from harness.engine.plan import Sharing, TreeRow, arrange, batches
from harness.engine.score import Prefilled, batch_states, lay
from harness.engine.words import Path, branch_states
from harness.errors import CheckpointError

log = logging.getLogger(__name__)

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest state
_HALF_ROUNDING = 3e-2  # bfloat16 has 8 bits
_HEAD_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest logit
_HALF_HEAD_ROUNDING = 2e-2  # of one product, not of a whole pass
# How far logits may move, as a fraction of how much they differ from token to token: a model of
# small weights has flat logits, and a wrong mask moves them little. In float32 rounding alone comes
# to some 1e-5.
_MOVED = {torch.float32: 3e-4, torch.float64: 3e-4}
_HALF_MOVED = 0.1
# Logits so large that any cap is reached, of states that half precision holds.
_LARGE_LOGIT, _LARGEST_STATE = 1e3, 1e4
_STEPS_TO_LOGITS = (  # what configs call steps behind the last product
    "final_logit_softcapping",
    "logits_soft_cap",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier_scale",
)
_ALWAYS = Sharing(pair_cost=0.0, max_row=1 << 20)
SMALL = ((8, 0), (9, 0), (13, 30))  # trees that show most faults, in no time
_SHORT = 8  # tokens of the longest path of a tree at least
_LEAST = 16  # tokens in a vocabulary from which trees are made
_COMPARED = 4096  # logits of a position
_BEGIN = 16  # tokens of a long row whose states are compared with a short row's


def check_model(forward: Forward, name: str) -> None:
    """Find out how the model comes apart in trunk and head, and whether it is causal.

    Raises:
        CheckpointError: a later token changes an earlier state, so the model is not causal.
    """
    ids = torch.tensor([_tokens(forward, 8)], device=forward.device)
    _split(forward, ids)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % forward.vocabulary
    before, after = forward.trunk(ids)[0, :-1], forward.trunk(other)[0, :-1]
    if not _equal(before, after, _rounding(forward)):
        raise CheckpointError(
            f"model {name!r} is not a causal language model: a later token changes the states of "
            "earlier ones; expected a decoder"
        )
    if forward.last_block and not _reads_alone(forward, ids):
        forward.last_block = ()


def _split(forward: Forward, ids: Tensor) -> None:
    """Find the trunk, and how its states become the model's own logits.

    The model's own steps are known to be right if they give its logits. A plain product is cheaper,
    and taken where it gives the same: also for states so large that a cap would be reached, and
    only if the config says nothing of steps behind it. If neither is right, logits are computed
    for every position.
    """
    model = forward.model
    logits, seen = watch(model, ids)
    own: Tensor = logits[0].float()
    trunks = [(model.base_model, None)] if model.base_model is not model else []
    for trunk, output in [*trunks, *seen]:
        forward.split(trunk)
        states = _tried(lambda: forward.trunk(ids)[0])
        if states is None:
            continue
        heads = [OwnHead(model, *pair) for pair in ([(trunk, output)] if output else seen)]
        own_head = next((head for head in heads if _gives(forward, head, states, own)), None)
        if _gives(forward, forward.product, states, own) and _plain(forward, own_head, states):
            return
        if own_head is not None:
            forward.split(trunk, own_head)
            return
    forward.split(model)


def _gives(
    forward: Forward, head: Callable[[Tensor], Tensor], states: Tensor, want: Tensor
) -> bool:
    """Whether a head makes these logits of these states, in any order and number."""
    turned = _tried(lambda: head(states.flip(0)).float().flip(0))
    alone = _tried(lambda: head(states[:1]).float())
    rounding = _HEAD_ROUNDING.get(forward.model.dtype, _HALF_HEAD_ROUNDING)
    return (
        turned is not None
        and alone is not None
        and turned.shape == want.shape
        and _equal(want, turned, rounding)
        and _equal(want[:1], alone, rounding)
    )


def _plain(forward: Forward, own_head: OwnHead | None, states: Tensor) -> bool:
    """Whether nothing but a product makes logits of states, however large they are."""
    config = forward.model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 0, 1) for name in _STEPS_TO_LOGITS):
        return False
    if own_head is None:
        return True
    peak = float(forward.product(states).nan_to_num().abs().max())
    widest = float(states.float().nan_to_num().abs().max())
    factor = min(_LARGE_LOGIT / max(peak, 1e-3), _LARGEST_STATE / max(widest, 1e-3))
    large = states * factor
    return _gives(forward, forward.product, large, own_head(large).float())


def _tried(action: Callable[[], Tensor]) -> Tensor | None:
    """What an action returns; None if it raises, whatever it raises."""
    try:
        return action()
    except Exception as error:
        log.debug("the model cannot do this: %s", error)
        return None


def _reads_alone(forward: Forward, ids: Tensor) -> bool:
    """Whether states that are read come out the same where no others are computed."""
    places = torch.tensor([2, ids.numel() - 1], device=forward.device)
    all_states = forward.trunk(ids).flatten(0, 1)[places]
    alone = _tried(lambda: forward.trunk(ids, places).flatten(0, 1)[places])
    return alone is not None and _equal(all_states, alone, _rounding(forward))


def reads_ahead(forward: Forward, length: int) -> bool:
    """Whether the first states of a row change with what follows, in a row of `length` tokens.

    Layers that choose the tokens they look at may be causal in short rows only.
    """
    ids = torch.tensor([_tokens(forward, length)], device=forward.device)
    begin = min(_BEGIN, length)
    places = torch.arange(begin, device=forward.device)
    long = forward.trunk(ids, places).flatten(0, 1)[:begin].float()
    short = forward.trunk(ids[:, :begin])[0].float()
    bound = 10 * _rounding(forward) * float(short.nan_to_num().abs().max())
    moved = ~torch.isclose(long, short, atol=bound, rtol=0, equal_nan=True).all(dim=-1)
    return int(moved.sum()) > begin // 4  # not one or two states that an expert's tie moves


def tree_fault(forward: Forward, sizes: Sequence[tuple[int, int]] = SMALL) -> str:
    """What goes wrong with rows that share prefixes, empty if nothing does.

    Branches are compared with their plain rows, and so are tokens fed after kept keys and values.
    The sizes matter: attention windows that the config does not mention go unnoticed in small
    trees.

    Args:
        forward: the model.
        sizes: for each tree of one batch the tokens of its longest path, and its columns.
    """
    if len(_usable(forward)) < _LEAST:
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
    usable = _usable(forward)
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
    moved = (alone - together).square().mean(dim=-1).sqrt().max()
    log.debug("trees of %d tokens: %.1e of %.1e", len(spans[3].inputs), moved, spread)
    return bool(moved <= _MOVED.get(forward.model.dtype, _HALF_MOVED) * spread)


def _plain_logits(forward: Forward, spans: Sequence[Span]) -> list[Tensor]:
    """Logits (N, V) at the targets of each span, from plain rows."""
    limit = forward.rope_limit
    found: dict[int, Tensor] = {}
    for batch in batches(arrange(spans, None, limit), max(len(s.inputs) for s in spans), limit):
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
    parts = logits.split([len(mine) for _, mine in nodes.values()])
    ends = {s: (r, mine[-1]) for s, (r, mine) in nodes.items()}
    return dict(zip(nodes, parts, strict=True)), Prefilled(cache, laid.ends, laid.positions, ends)


def _logits(forward: Forward, states: Tensor) -> Tensor:
    """Logits (N, some of V) of states (N, H), from all over the vocabulary."""
    step = -(-forward.vocabulary // _COMPARED)
    return torch.cat(
        [forward.head(part)[:, ::step].clone() for part in states.split(forward.chunk)]
    )


def _centred(logits: Tensor) -> Tensor:
    """Logits without what they have in common, which no probability depends on."""
    logits = logits.nan_to_num(0.0, 0.0, 0.0)
    return logits - logits.mean(dim=-1, keepdim=True)


def _equal(one: Tensor, two: Tensor, rounding: float) -> bool:
    """Whether two tensors differ by rounding only, measured against their largest entry.

    NaN equals NaN here: that is found, and its item named, where scores are checked.
    """
    one, two = one.float(), two.float()
    bound = rounding * float(one.nan_to_num().abs().max())
    return torch.allclose(one, two, atol=bound, rtol=0, equal_nan=True)


def _rounding(forward: Forward) -> float:
    """What states may differ by, as a fraction of the largest."""
    return _ROUNDING.get(forward.model.dtype, _HALF_ROUNDING)


def _tokens(forward: Forward, count: int) -> tuple[int, ...]:
    """Token ids from all over the vocabulary, the same at every call."""
    drawn = np.random.default_rng(0).choice(_usable(forward), count)
    return tuple(drawn.tolist())


def _usable(forward: Forward) -> NDArray[np.int64]:
    """Token ids, ascending, without those that stand for something else: padding, images."""
    config = forward.model.config
    named = {
        value
        for part in (config, config.get_text_config())
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= 0
    }
    return np.delete(np.arange(forward.vocabulary), [t for t in named if t < forward.vocabulary])
