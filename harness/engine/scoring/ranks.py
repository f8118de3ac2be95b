"""How high each target stands in the vocabulary: for looking at single items, not for scores."""

import torch

from harness.engine.model.forward import Forward
from harness.engine.queries.query import Span


def ranks(forward: Forward, span: Span) -> tuple[int, ...]:
    """Rank of each target of a span, 1 for the most probable token.

    Equal logits are ranked by token id, as an argmax would.
    """
    targets = torch.tensor(span.targets, device=forward.device)  # (N,)
    ids = torch.tensor([span.inputs], device=forward.device)  # (1, T)
    places = torch.arange(forward.vocabulary, device=forward.device)  # (V,)
    found: list[int] = []
    with torch.inference_mode():
        states = forward.trunk(ids)[0, len(span.inputs) - len(span.targets) :]  # (N, H)
        chunk = forward.chunk
        for begin in range(0, len(states), chunk):
            wanted = targets[begin : begin + chunk]
            logits = forward.head(states[begin : begin + chunk])[:, : len(places)]  # (C, V)
            own = logits.gather(1, wanted[:, None])
            above = (logits > own) | ((logits == own) & (places < wanted[:, None]))
            found += (1 + above.sum(dim=1)).tolist()
    return tuple(found)
