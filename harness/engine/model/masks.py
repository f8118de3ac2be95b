"""Masks of rows that are trees, one for each kind of layer.

A token sees its ancestors; in a layer with a sliding window or with chunks it sees those within the
window or in its own chunk. Both count positions, as a plain row has them, not columns of the tree.

Letters: B rows of a batch of T padded tokens, M queries, N columns of the cache.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Mask = Tensor | dict[str, Tensor]
"""One mask for all layers, or one for each kind of layer, as a model takes them."""

# Kinds of layers, as `layer_types` of a config calls them.
_WHOLE, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def tree_allowed(ends: Tensor, begin: int = 0) -> Tensor:
    """(B, T - begin, T) boolean: whether token i sees token j, its ancestor or itself.

    `ends` (B, T) is where the subtree of each token ends (see `prefix_tree`); rows begin with
    token i = `begin`.
    """
    j = torch.arange(ends.shape[1], device=ends.device)
    i = j[begin:, None]
    return (j <= i) & (i < ends[:, None, :])


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a layer sees: everything, `window` tokens with itself, or its chunk."""

    window: int | None = None
    chunk: int | None = None

    def within(self, columns: int) -> "Reach":
        """The same over so many columns: no path is longer."""
        size = self.window or self.chunk
        return Reach() if size is None or size >= columns else self

    def seen(self, allowed: Tensor, positions: Tensor, key_positions: Tensor) -> Tensor:
        """(B, M, N) boolean: which of the `allowed` columns are within reach."""
        if self.window is not None:
            first = positions - (self.window - 1)
            return allowed & (key_positions[:, None, :] >= first[:, :, None])
        if self.chunk is not None:
            mine, theirs = positions // self.chunk, key_positions // self.chunk
            return allowed & (mine[:, :, None] == theirs[:, None, :])
        return allowed


def reaches(config: Any) -> Mapping[str, Reach]:
    """Kind of layer -> how far back it sees, from the config of a model's text half.

    A config that names no kinds has one, under an empty name.

    Raises:
        ValueError: the model has layers of another kind, or a window without a size.
    """
    window, chunk = _size(config, "sliding_window"), _size(config, "attention_chunk_size")
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if not kinds and window and getattr(config, "use_sliding_window", True):
        return {"": Reach(window=window)}
    if not kinds:
        return {"": Reach(chunk=chunk)}
    known = {_WHOLE: Reach()}
    known |= {_SLIDING: Reach(window=window)} if window else {}
    known |= {_CHUNKED: Reach(chunk=chunk)} if chunk else {}
    if unknown := [kind for kind in kinds if kind not in known]:
        raise ValueError(f"the model has layers of kind {', '.join(unknown)}")
    return {kind: known[kind] for kind in kinds}


def _size(config: Any, name: str) -> int | None:
    size = getattr(config, name, None)
    return size if isinstance(size, int) and size > 0 else None


def masks(
    layers: Mapping[str, Reach],
    allowed: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    additive: Callable[[Tensor], Tensor],
) -> Mask:
    """The mask that a model takes for rows that are trees.

    Layers that see the same share one mask. If all do, that is the mask of every layer, also for a
    model that takes a mapping.

    Args:
        layers: as `reaches` returns them.
        allowed: (B, M, N) boolean, which columns are ancestors of a query, or the query itself.
        positions: (B, M) position ids of the queries.
        key_positions: (B, N) position ids of the columns.
        additive: the form in which a model takes a boolean mask.
    """
    of_kind = {kind: reach.within(allowed.shape[2]) for kind, reach in layers.items()}
    made = {
        reach: additive(reach.seen(allowed, positions, key_positions))
        for reach in dict.fromkeys(of_kind.values())
    }
    if len(made) == 1:
        [mask] = made.values()
        return mask
    return {kind: made[reach] for kind, reach in of_kind.items()}
