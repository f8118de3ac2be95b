"""What a model can do is tried, not believed: is it causal, may its head be split off, does it
honour a tree mask? Each check runs a few rows and compares with the plain way.
"""  # noqa: D205

import torch
from torch import Tensor

from harness.engine.encode import Span
from harness.engine.forward import Forward
from harness.engine.plan import Sharing, arrange
from harness.engine.score import score
from harness.engine.words import expand
from harness.errors import CheckpointError

_TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3}  # nats; rounding alone gives some 3e-5
_HALF_TOLERANCE = 0.25  # bfloat16 has 8 bits
_ALWAYS = Sharing(pair_cost=0.0, max_row=1 << 20)


def check_model(forward: Forward, name: str) -> None:
    """Find out whether trunk and head give the model's own logits; set `forward.whole` if not.

    Raises:
        CheckpointError: a later token changes an earlier state, so the model is not causal.
    """
    ids = _tokens(forward, 8)
    first = torch.tensor([ids], device=forward.device)
    second = first.clone()
    second[0, -1] = (first[0, -1] + 1) % _vocabulary(forward)
    before = forward.trunk(first)[0, :-1]
    after = forward.trunk(second)[0, :-1]
    if not torch.allclose(before.float(), after.float(), atol=1e-2, rtol=1e-2):
        raise CheckpointError(
            f"model {name!r} is no causal language model: a later token changes the states of "
            "earlier ones; expected a decoder"
        )
    own: Tensor = forward.model(input_ids=first).logits[0].float()
    split = forward.head(forward.trunk(first)[0])
    bound = 10 * _tolerance(forward)
    if own.shape != split.shape or not torch.allclose(own, split, atol=bound, rtol=1e-3):
        forward.whole = True


def honours_trees(forward: Forward, length: int) -> bool:
    """Whether rows with branches of `length` tokens score as separate rows do.

    The length matters: attention windows that the config does not mention go unnoticed in
    shorter rows.
    """
    ids = _tokens(forward, max(length, 8))
    cut = max(1, len(ids) - 6)
    trunk = ids[:cut]
    one, two = ids[cut:], ids[cut:][::-1]
    spans = [_span(trunk + one), _span(trunk + two)]
    joined, _ = score(forward, arrange(spans, _ALWAYS), spans)
    alone, _ = score(forward, arrange(spans[:1], None), spans[:1])
    if not _close(forward, joined[0].logprobs, alone[0].logprobs):
        return False
    return _honours_cache(forward, trunk, one)


def _honours_cache(forward: Forward, trunk: tuple[int, ...], branch: tuple[int, ...]) -> bool:
    """Whether a branch fed after a kept prefix ranks next tokens as the plain row does."""
    head, rest = Span(trunk, (), top=True), Span(trunk + branch, (), top=True)
    _, kept = score(forward, arrange([head], None), [head], keep=True)
    assert kept is not None
    fed = expand(forward, kept, [(0, branch[::-1]), (0, branch)])[1]
    plain = score(forward, arrange([rest], None), [rest])[0][0].top
    return len(set(fed[:20]) & set(plain[:20])) >= 15  # the order within a tie may differ


def _span(tokens: tuple[int, ...]) -> Span:
    return Span(tokens[:-1], tokens[-4:])


def _close(forward: Forward, one: object, two: object) -> bool:
    return torch.allclose(
        torch.as_tensor(one), torch.as_tensor(two), atol=_tolerance(forward), rtol=0
    )


def _tolerance(forward: Forward) -> float:
    return _TOLERANCE.get(forward.model.dtype, _HALF_TOLERANCE)


def _vocabulary(forward: Forward) -> int:
    return int(forward.model.get_input_embeddings().weight.shape[0])


def _tokens(forward: Forward, count: int) -> tuple[int, ...]:
    """Token ids spread over the vocabulary, the same at every call."""
    vocabulary = _vocabulary(forward)
    return tuple((17 + 7919 * i) % vocabulary for i in range(count))
