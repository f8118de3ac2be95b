"""Buffers of keys and values that are written in place."""

from collections.abc import Sequence

from torch import Tensor


def empty_buffers(like: Sequence[Tensor], rows: int, columns: int) -> list[Tensor]:
    """One buffer (rows, heads, columns, D) per tensor (B, heads, T, D); nothing is in it yet.

    Buffers of one shape on one device share a block of memory: the system gets a block back as soon
    as it is free, while many small ones leave holes.
    """
    shapes = [(rows, x.shape[1], columns, x.shape[3]) for x in like]
    if len(set(shapes)) == 1 and len({x.device for x in like}) == 1:
        return [*like[0].new_empty((len(like), *shapes[0]))]
    return [x.new_empty(shape) for x, shape in zip(like, shapes, strict=True)]
