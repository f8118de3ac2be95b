"""Test how a model splits into trunk and head, and whether it is causal.

Its config is not trusted: each test runs a few rows and compares them with a plain pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.engine.checkpoint.own.adapter import OwnModel
from harness.engine.model.forward import Forward
from harness.engine.model.head import OwnHead, watch
from harness.engine.model.self_test import (
    Tolerance,
    all_close,
    attempt,
    largest,
    made_up_tokens,
)
from harness.engine.model.self_test_results import NotStored
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
    trunk = forward.self_tests.get("trunk", lambda: _causal_trunk(forward, name))
    if not isinstance(trunk, NotStored):
        forward.split(forward.model.get_submodule(trunk))
    if forward.last_block:
        fault = forward.self_tests.get("last block", lambda: _last_block_fault(forward))
        if fault:
            forward.last_block = ()


def _causal_trunk(forward: Forward, name: str) -> str:
    """Split the model and check that it is causal; see `_split`."""
    ids = _made_up_row(forward)
    trunk = _split(forward, ids)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % forward.vocabulary
    before, after = forward.trunk(ids)[0, :-1], forward.trunk(other)[0, :-1]
    if not all_close(before, after, STATES.of(forward)):
        raise CheckpointError(
            f"model {name!r} is not a causal language model: a later token changes the states of "
            "earlier ones; expected a decoder"
        )
    return trunk


def _made_up_row(forward: Forward, length: int = 8) -> Tensor:
    return torch.tensor([made_up_tokens(forward, length)], device=forward.device)


def _split(forward: Forward, ids: Tensor) -> str:
    """Find the trunk, and how its states become the model's own logits.

    Returns the trunk's name among the model's modules, which is stored if a plain product suffices.

    The model's own steps are correct if they give its logits. A plain product is cheaper, and taken
    if it gives the same, also for states so large that a cap would be reached, and if the config
    mentions no further steps. If neither is correct, logits are computed for every position.
    """
    model = forward.model
    if isinstance(model, OwnModel):
        return NotStored()
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
            names = {module: name for name, module in model.named_modules()}
            return names.get(trunk) or NotStored()
        if own_head is not None:
            forward.split(trunk, own_head)
            return NotStored()
    forward.split(model)
    return NotStored()


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


def _last_block_fault(forward: Forward) -> str:
    """What is wrong with states that are read if the last block computes no others."""
    ids = _made_up_row(forward)
    reads = torch.tensor([2, ids.numel() - 1], device=forward.device)
    all_states = forward.trunk(ids).flatten(0, 1)[reads]
    alone = attempt(lambda: forward.trunk(ids, reads).flatten(0, 1)[reads])
    if alone is None:
        return NotStored("it cannot compute some positions alone")
    return "" if all_close(all_states, alone, STATES.of(forward)) else "its positions interact"


def causal_fault(forward: Forward, length: int) -> str:
    """How states depend on later tokens in a row of `length` tokens; empty if they do not.

    Layers that choose the tokens they attend to may be causal in short rows only. A row that the
    model cannot run is not a fault here: the run itself will fail on it with an error.
    """
    ids = _made_up_row(forward, length)
    prefix = length * 7 // 8  # choices differ where a token has many before it
    in_long_row = attempt(lambda: forward.trunk(ids)[0, :prefix].float())
    if in_long_row is None:
        return NotStored()
    in_short_row = forward.trunk(ids[:, :prefix])[0].float()
    tolerance = 10 * STATES.of(forward) * largest(in_short_row)
    close = torch.isclose(in_long_row, in_short_row, atol=tolerance, rtol=0, equal_nan=True)
    moved = int((~close.all(dim=-1)).sum())
    if moved <= prefix // 32:  # single states, which a tie between experts moves
        return ""
    return "tokens depend on later ones"
