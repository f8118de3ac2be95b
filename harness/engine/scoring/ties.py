"""Ties: positions at which several tokens share the highest logit, so that the lowest id wins.

Half-precision heads have few distinct logits, so their ties are frequent; in float32 there are
next to none. A sample of the positions is checked, which costs far less than computing them.
"""

from collections.abc import Sequence

from torch import Tensor

from harness.core import Tokens

_FEW, _STRIDE = 8, 16  # at least so many positions of a chunk are checked, or one in so many


def checked(count: int) -> slice:
    """Which of `count` positions are checked: all of a few, one in 16 of many."""
    return slice(None, None, max(1, min(count // _FEW, _STRIDE)))


def tied(logits: Tensor) -> Tensor:
    """The number of ties at the checked positions of `logits` (N, V), as a tensor of one number."""
    sample = logits[checked(len(logits))]
    return ((sample == sample.amax(dim=-1, keepdim=True)).sum(dim=-1) > 1).sum()


def tie_counts(chunks: Sequence[int], ties: float) -> Tokens:
    """The counters of a run for chunks of so many positions, in which so many ties were found."""
    return Tokens(checked=sum(len(range(n)[checked(n)]) for n in chunks), tied=int(ties))
