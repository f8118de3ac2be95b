"""Attention over a part of the columns that queries see, and the sum of two such parts.

Letters: B rows, M queries of a row, N columns, D size of a head.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Attention over some columns as if there were no others."""

    output: Tensor  # (B, heads, M, D)
    total: Tensor  # (B, heads, M), log-sum-exp of the scores, in float32


def attend(
    query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scale: float
) -> Part:
    """Attention of queries (B, heads, M, D) over keys (B, key heads, N, D).

    Args:
        query: its heads come in groups that share a head of the keys.
        keys: of all columns of this part.
        values: likewise.
        hidden: (B, M, N) or (B, 1, N), added to the scores: 0, or -inf where a column is not seen;
            at least one is. None: all are seen.
        scale: factor of the scores.
    """
    b, heads, m, size = query.shape
    groups, n = keys.shape[1], keys.shape[2]
    packed = query.reshape(b, groups, heads // groups * m, size)
    if hidden is not None:
        shape = (b, heads // groups, m, n)
        hidden = hidden[:, None].expand(shape).reshape(b, 1, heads // groups * m, n)
    one = _by_products if query.dtype == torch.float32 else _by_kernel
    output, total = one(packed, keys, values, hidden, scale)
    return Part(output.reshape(b, heads, m, -1), total.reshape(b, heads, m))


def _by_products(
    query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """For few queries, where two products are faster than a kernel made for many."""
    scores = (query * scale) @ keys.transpose(-1, -2)
    if hidden is not None:
        scores += hidden
    weights = scores.softmax(dim=-1)
    # The largest weight is exp(largest score - log-sum-exp), and never so small that it is 0.
    total = scores.amax(dim=-1) - weights.amax(dim=-1).log_()
    return weights @ values, total


def _by_kernel(
    query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """For half precision on a CPU: scores stay in float32."""
    output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, False, attn_mask=hidden, scale=scale
    )
    return output, total


def merge(one: Part, two: Part) -> Tensor:
    """Attention (B, heads, M, D) over the columns of both parts, which share none."""
    weight = (one.total - two.total).sigmoid_().unsqueeze(-1)
    return torch.lerp(two.output, one.output, weight.to(one.output.dtype))
