"""Test how a model splits into trunk and head, and whether it is causal.

Its config is not trusted: each test runs a few rows and compares them with a plain pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.engine.model.forward import Forward
from harness.engine.model.head import OwnHead, watch
from harness.engine.model.self_test import (
    Tolerance,
    all_close,
    attempt,
    largest,
    made_up_tokens,
)
from harness.errors import CheckpointError

STATES = Tolerance(1e-4, 3e-2)  # relative to the largest state
LOGITS = Tolerance(1e-4, 2e-2)  # relative to the largest logit; of one product, not a whole pass
# Logits so large that any cap is reached, of states that half precision represents.
_LARGE_LOGIT, _MAX_STATE = 1e3, 1e4
_STEPS_TO_LOGITS = (  # config entries that speak of steps after the last product
    "final_logit_softcapping",
    "logits_soft_cap",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier_scale",
)


def check_model(forward: Forward, name: str) -> None:
    """Split the model into trunk and head, and check that it is causal.

    Raises:
        CheckpointError: a later token changes an earlier state, so the model is not causal.
    """
    ids = torch.tensor([made_up_tokens(forward, 8)], device=forward.device)
    _split(forward, ids)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % forward.vocabulary
    before, after = forward.trunk(ids)[0, :-1], forward.trunk(other)[0, :-1]
    if not all_close(before, after, STATES.of(forward)):
        raise CheckpointError(
            f"model {name!r} is not a causal language model: a later token changes the states of "
            "earlier ones; expected a decoder"
        )
    if forward.last_block and not _last_block_is_position_wise(forward, ids):
        forward.last_block = ()


def _split(forward: Forward, ids: Tensor) -> None:
    """Find the trunk, and how its states become the model's own logits.

    The model's own steps are correct if they give its logits. A plain product is cheaper, and taken
    if it gives the same, also for states so large that a cap would be reached, and if the config
    mentions no further steps. If neither is correct, logits are computed for every position.
    """
    model = forward.model
    logits, trunks = watch(model, ids)
    expected = logits[0].float()
    candidates = [(model.base_model, None)] if model.base_model is not model else []
    for trunk, output in [*candidates, *trunks]:
        forward.split(trunk)
        states = attempt(lambda: forward.trunk(ids)[0])
        if states is None:
            continue
        heads = [OwnHead(model, *pair) for pair in ([(trunk, output)] if output else trunks)]
        own_head = next((head for head in heads if _gives(forward, head, states, expected)), None)
        if _gives(forward, forward.product, states, expected) and _is_plain_product(
            forward, own_head, states
        ):
            return
        if own_head is not None:
            forward.split(trunk, own_head)
            return
    forward.split(model)


def _gives(
    forward: Forward, head: Callable[[Tensor], Tensor], states: Tensor, expected: Tensor
) -> bool:
    """Whether a head gives these logits for these states, in any order and number."""
    flipped = attempt(lambda: head(states.flip(0)).float().flip(0))
    first = attempt(lambda: head(states[:1]).float())
    tolerance = LOGITS.of(forward)
    return (
        flipped is not None
        and first is not None
        and all_close(expected, flipped, tolerance)
        and all_close(expected[:1], first, tolerance)
    )


def _is_plain_product(forward: Forward, own_head: OwnHead | None, states: Tensor) -> bool:
    """Whether logits are a plain product of states, however large they are."""
    config = forward.model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 0, 1) for name in _STEPS_TO_LOGITS):
        return False
    if own_head is None:
        return True
    peak = max(largest(forward.product(states)), 1e-3)
    factor = min(_LARGE_LOGIT / peak, _MAX_STATE / max(largest(states), 1e-3))
    scaled = states * factor
    return _gives(forward, forward.product, scaled, own_head(scaled).float())


def _last_block_is_position_wise(forward: Forward, ids: Tensor) -> bool:
    """Whether states that are read are the same if the last block computes no others."""
    reads = torch.tensor([2, ids.numel() - 1], device=forward.device)
    all_states = forward.trunk(ids).flatten(0, 1)[reads]
    alone = attempt(lambda: forward.trunk(ids, reads).flatten(0, 1)[reads])
    return alone is not None and all_close(all_states, alone, STATES.of(forward))


def reads_ahead(forward: Forward, length: int) -> bool:
    """Whether states depend on later tokens in a row of `length` tokens.

    Layers that choose the tokens they attend to may be causal in short rows only. A row that the
    model cannot run gives False: the run itself will fail on it with an error.
    """
    ids = torch.tensor([made_up_tokens(forward, length)], device=forward.device)
    prefix = length * 7 // 8  # choices differ where a token has many before it
    in_long_row = attempt(lambda: forward.trunk(ids)[0, :prefix].float())
    if in_long_row is None:
        return False
    in_short_row = forward.trunk(ids[:, :prefix])[0].float()
    tolerance = 10 * STATES.of(forward) * largest(in_short_row)
    close = torch.isclose(in_long_row, in_short_row, atol=tolerance, rtol=0, equal_nan=True)
    moved = int((~close.all(dim=-1)).sum())
    return moved > prefix // 32  # not single states, which a tie between experts moves
