"""What a model can do is tried, not believed: is it causal, may its head be split off, does it
honour a tree mask? Each check runs a few rows and compares with the plain way.
"""  # noqa: D205

from collections.abc import Callable

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
_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # of the largest state
_HALF_ROUNDING = 3e-2
Check = Callable[[Forward, int], bool]
_ALWAYS = Sharing(pair_cost=0.0, max_row=1 << 20)


def check_model(forward: Forward, name: str) -> None:
    """Find out whether trunk and head give the model's own logits; set `forward.whole` if not.

    The same for a last block that computes only what is read.

    Raises:
        CheckpointError: a later token changes an earlier state, so the model is not causal.
    """
    ids = _tokens(forward, 8)
    first = torch.tensor([ids], device=forward.device)
    second = first.clone()
    second[0, -1] = (first[0, -1] + 1) % forward.vocabulary
    before = forward.trunk(first)[0, :-1]
    after = forward.trunk(second)[0, :-1]
    if not _equal(before, after, _ROUNDING.get(forward.model.dtype, _HALF_ROUNDING)):
        raise CheckpointError(
            f"model {name!r} is no causal language model: a later token changes the states of "
            "earlier ones; expected a decoder"
        )
    own: Tensor = forward.model(input_ids=first).logits[0].float()
    split = forward.head(forward.trunk(first)[0])
    rounding = 10 * _ROUNDING.get(forward.model.dtype, _HALF_ROUNDING)
    if own.shape != split.shape or not _equal(own, split, rounding):
        forward.whole = True
    if forward.last_block and not _reads_alone(forward, first):
        forward.last_block = ()


def _reads_alone(forward: Forward, ids: Tensor) -> bool:
    """Whether states that are read come out the same where no others are computed."""
    places = torch.tensor([2, ids.numel() - 1], device=forward.device)
    all_states = forward.trunk(ids).flatten(0, 1)[places]
    try:
        alone = forward.trunk(ids, places).flatten(0, 1)[places]
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return _equal(all_states, alone, _ROUNDING.get(forward.model.dtype, _HALF_ROUNDING))


def honours_trees(forward: Forward, length: int) -> bool:
    """Whether rows with branches of `length` tokens score as separate rows do.

    The length matters: attention windows that the config does not mention go unnoticed in
    shorter rows.
    """
    trunk, branch = _forked(forward, length)
    spans = [_span(trunk + branch), _span(trunk + branch[::-1])]
    joined, _ = score(forward, arrange(spans, _ALWAYS), spans)
    alone, _ = score(forward, arrange(spans[:1], None), spans[:1])
    return _close(forward, joined[0].logprobs, alone[0].logprobs)


def honours_cache(forward: Forward, length: int) -> bool:
    """Whether a branch fed after a kept prefix ranks next tokens as the plain row does."""
    trunk, branch = _forked(forward, length)
    head, rest = Span(trunk, (), top=True), Span(trunk + branch, (), top=True)
    _, kept = score(forward, arrange([head], None), [head], keep=True)
    assert kept is not None
    fed = expand(forward, kept, [(0, branch[::-1]), (0, branch)])[1]
    plain = score(forward, arrange([rest], None), [rest])[0][0].top
    return len(set(fed[:20]) & set(plain[:20])) >= 15  # the order within a tie may differ


def _forked(forward: Forward, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A trunk and a branch, `length` tokens together."""
    ids = _tokens(forward, max(length, 8))
    return ids[:-6], ids[-6:]


def _span(tokens: tuple[int, ...]) -> Span:
    return Span(tokens[:-1], tokens[-4:])


def _close(forward: Forward, one: object, two: object) -> bool:
    tolerance = _TOLERANCE.get(forward.model.dtype, _HALF_TOLERANCE)
    pair = torch.as_tensor(one), torch.as_tensor(two)
    return torch.allclose(*pair, atol=tolerance, rtol=0, equal_nan=True)


def _equal(one: Tensor, two: Tensor, rounding: float) -> bool:
    """Whether two tensors differ by rounding only, measured against their largest entry.

    NaN equals NaN here: that is found, and its item named, where scores are checked.
    """
    one, two = one.float(), two.float()
    bound = rounding * float(one.nan_to_num().abs().max())
    return torch.allclose(one, two, atol=bound, rtol=0, equal_nan=True)


def _tokens(forward: Forward, count: int) -> tuple[int, ...]:
    """Token ids spread over the vocabulary, the same at every call."""
    vocabulary = forward.vocabulary
    return tuple((17 + 7919 * i) % vocabulary for i in range(count))
