"""Logits -> the next token of each completion: greedy, or sampled from the top k.

A sample depends on its request alone: the random numbers come from a hash of the seed and the
prompt's tokens, so that order, batches and resuming cannot change it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.scoring.target_logprobs import target_logprobs


def draws(seed: Sequence[int], prompt: Sequence[int], count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for a prompt; a larger count begins with the same numbers."""
    text = f"{','.join(map(str, seed))}|{','.join(map(str, prompt))}"
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).random(count)


def choose(logits: Tensor, top_k: Sequence[int], draw: Sequence[float]) -> Tensor:
    """(2, N) float32: the chosen tokens and their log-probabilities over the whole vocabulary.

    Args:
        logits: (N, V) float32; they are overwritten.
        top_k: how many tokens each is sampled from; 1 takes the best, with ties to the lowest id.
        draw: a number in [0, 1) for each, its place in the distribution over those tokens.

    Float32 represents token ids exactly (below 2^24), so that one copy brings both to the host.
    """
    tokens = best = logits.argmax(dim=-1)
    if max(top_k) > 1:
        tokens = _sample(logits, best, top_k, draw)
    rows = torch.arange(len(logits), device=logits.device)
    logprobs = target_logprobs(logits, logits[rows, best], rows, tokens)
    return torch.stack([tokens.float(), logprobs])


def _sample(logits: Tensor, greedy: Tensor, top_k: Sequence[int], draw: Sequence[float]) -> Tensor:
    """Tokens sampled by the probabilities of the best `top_k`; the best where that is 1."""
    width = min(max(top_k), logits.shape[1])
    values, ids = logits.topk(width, dim=-1)  # (N, K), the best first
    limits = torch.tensor(top_k, device=logits.device)
    ranks = torch.arange(width, device=logits.device)
    values = values.masked_fill(ranks >= limits[:, None], -torch.inf)
    # The sum is in float64, so that rounding moves no draw across an edge.
    edges = values.double().softmax(dim=-1).cumsum(dim=-1)
    point = torch.tensor(draw, dtype=torch.float64, device=logits.device)[:, None]
    index = (edges <= point).sum(dim=-1, keepdim=True).clamp_(max=width - 1)
    drawn = ids.gather(1, torch.minimum(index, limits[:, None] - 1)).squeeze(1)
    return torch.where(limits > 1, drawn, greedy)
