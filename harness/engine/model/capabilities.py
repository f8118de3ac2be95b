"""What a model can do is tried, not believed: how does it come apart, and is it causal?

Each check runs a few rows and compares with the plain way. `prefix_sharing_test` tries rows
that share prefixes.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.model.forward import Forward
from harness.engine.model.head import OwnHead, watch
from harness.errors import CheckpointError

log = logging.getLogger(__name__)

_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest state
_HALF_ROUNDING = 3e-2  # bfloat16 has 8 bits
_HEAD_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest logit
_HALF_HEAD_ROUNDING = 2e-2  # of one product, not of a whole pass
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
    """Whether states change with what follows, or how much, in a row of `length` tokens.

    Layers that choose the tokens they look at may be causal in short rows only. A row that the
    model cannot run says nothing; the run will meet it, and report it.
    """
    ids = torch.tensor([_tokens(forward, length)], device=forward.device)
    most = length * 7 // 8  # what is chosen differs where a token has many before it
    long = _tried(lambda: forward.trunk(ids)[0, :most].float())
    if long is None:
        return False
    short = forward.trunk(ids[:, :most])[0].float()
    bound = 10 * _rounding(forward) * float(short.nan_to_num().abs().max())
    moved = ~torch.isclose(long, short, atol=bound, rtol=0, equal_nan=True).all(dim=-1)
    return int(moved.sum()) > most // 32  # not single states that an expert's tie moves


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
    drawn = np.random.default_rng(0).choice(usable_tokens(forward), count)
    return tuple(drawn.tolist())


def usable_tokens(forward: Forward) -> NDArray[np.int64]:
    """Token ids, ascending, without those that stand for something else: padding, images."""
    config = forward.model.config
    named = {
        value
        for part in (config, config.get_text_config())
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= 0
    }
    return np.delete(np.arange(forward.vocabulary), [t for t in named if t < forward.vocabulary])
