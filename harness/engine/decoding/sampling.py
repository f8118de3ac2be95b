"""Logits -> the next token of each answer: greedy, or drawn among the best few.

A draw depends on its request alone: the numbers come from a hash of the seed and the prompt's
tokens, so that order, batch and resuming cannot change a sample.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def draws(seed: Sequence[int], prompt: Sequence[int], count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for a prompt's tokens; more of them begin with the same ones."""
    text = f"{','.join(map(str, seed))}|{','.join(map(str, prompt))}"
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).random(count)


def choose(logits: Tensor, top_k: Sequence[int], draw: Sequence[float]) -> Tensor:
    """(2, N) float32: the chosen tokens and their log-probabilities over the whole vocabulary.

    Args:
        logits: (N, V) float32.
        top_k: among how many tokens each may be drawn; 1 takes the best, ties the lowest id.
        draw: where in the distribution over those each falls, in [0, 1).

    Float32 holds token ids exactly (below 2^24), so that one copy brings both to the host.
    """
    best, tokens = logits.max(dim=-1)
    if max(top_k) > 1:
        tokens = _draw(logits, tokens, top_k, draw)
    total = (logits - best[:, None]).exp_().sum(dim=-1).log_().add_(best)  # log-sum-exp
    chosen = logits.gather(1, tokens[:, None]).squeeze(1)
    return torch.stack([tokens.float(), chosen - total])


def _draw(logits: Tensor, greedy: Tensor, top_k: Sequence[int], draw: Sequence[float]) -> Tensor:
    """Tokens drawn by the probabilities of the best `top_k`; the best where that is 1."""
    widest = min(max(top_k), logits.shape[1])
    values, ids = logits.topk(widest, dim=-1)  # (N, K), the best first
    limits = torch.tensor(top_k, device=logits.device)
    places = torch.arange(widest, device=logits.device)
    values = values.masked_fill(places >= limits[:, None], -torch.inf)
    # The sum is taken in float64, so that rounding moves no draw across an edge.
    edges = values.double().softmax(dim=-1).cumsum(dim=-1)
    point = torch.tensor(draw, dtype=torch.float64, device=logits.device)[:, None]
    index = (edges <= point).sum(dim=-1, keepdim=True).clamp_(max=widest - 1)
    drawn = ids.gather(1, torch.minimum(index, limits[:, None] - 1)).squeeze(1)
    return torch.where(limits > 1, drawn, greedy)
