"""The rank of each target in the vocabulary: for inspecting single examples, not for scores."""

import torch

from harness.engine.model.forward import Forward
from harness.engine.queries.query import Span


def ranks(forward: Forward, span: Span) -> tuple[int, ...]:
    """Rank of each target of a span, 1 for the most probable token.

    Equal logits are ranked by token id, as an argmax would.
    """
    targets = torch.tensor(span.targets, device=forward.device)  # (N,)
    inputs = torch.tensor([span.inputs], device=forward.device)  # (1, T)
    ids = torch.arange(forward.vocabulary, device=forward.device)  # (V,)
    result: list[int] = []
    with forward.inference():
        states = forward.trunk(inputs)[0, len(span.inputs) - len(span.targets) :]  # (N, H)
        chunk = forward.chunk
        for begin in range(0, len(states), chunk):
            target = targets[begin : begin + chunk, None]  # (C, 1)
            logits = forward.head(states[begin : begin + chunk])[:, : len(ids)]  # (C, V)
            own = logits.gather(1, target)
            above = (logits > own) | ((logits == own) & (ids < target))
            result += (1 + above.sum(dim=1)).tolist()
    return tuple(result)
