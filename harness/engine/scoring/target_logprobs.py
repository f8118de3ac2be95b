"""Logits -> log-probabilities of given tokens, in two passes over the vocabulary and one sum.

Powers of two take a CPU less than half the time of powers of e, with the same precision.
"""

import math

import torch
from torch import Tensor

_BITS, _NATS = math.log2(math.e), math.log(2)  # of one nat, of one bit


def target_logprobs(logits: Tensor, peak: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities (R,) in nats; overwrites the logits.

    Args:
        logits: (N, V), float32.
        peak: (N,), the highest logit of each row.
        row: (R,) indices of rows.
        target: (R,) token ids.
    """
    bits = torch.add(peak[:, None] * -_BITS, logits, alpha=_BITS, out=logits)  # at most 0
    chosen = bits[row, target]
    return (chosen - bits.exp2_().sum(dim=-1).log2_()[row]) * _NATS
