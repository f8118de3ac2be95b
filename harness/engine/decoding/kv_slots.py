"""Keys and values of rows that are being decoded, in buffers that are written in place.

A cache that grows by concatenation copies everything at every step. Here each row has a slot of
fixed width: its prefilled tokens first, then one column for each token fed later. Slots in use
are always the first ones, so that a pass reads a view and never a copy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer


class Slots:
    """Buffers for `rows` rows of `columns` columns; allocated when the first row comes.

    The last column is for padding: it is written, but no mask lets it be read.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._target = _Target()
        self._layers: list[Any] = []  # a `_Layer` wherever the model keeps keys and values

    def put(self, slot: int, prefilled: Any, row: int, length: int) -> None:
        """Copy the first `length` columns of a row of a prefilled cache into a slot.

        Raises:
            TypeError: a layer of the cache keeps something else than a column for each token.
        """
        if not self._layers:
            self._layers = self._empty_layers(prefilled.layers)
        for layer, source in zip(self._layers, prefilled.layers, strict=True):
            if isinstance(layer, _Layer):
                layer.keys[slot, :, :length] = source.keys[row, :, :length]
                layer.values[slot, :, :length] = source.values[row, :, :length]

    def _empty_layers(self, sources: Sequence[Any]) -> list[Any]:
        """Buffers like these layers; one that keeps nothing, as where layers share, stays it is."""
        filled = [x for x in sources if not _keeps_nothing(x)]
        for layer in filled:
            if type(layer) is not DynamicLayer:
                kind = type(layer).__name__
                raise TypeError(f"a cache layer of type {kind} cannot be kept in slots")
        keys = self._buffers([x.keys for x in filled])
        values = self._buffers([x.values for x in filled])
        made = iter([_Layer(self._target, k, v) for k, v in zip(keys, values, strict=True)])
        return [next(made) if x in filled else x for x in sources]

    def _buffers(self, like: Sequence[Tensor]) -> list[Tensor]:
        """A buffer for each layer, (rows, heads, columns, size), zero where nothing was written.

        All in one block where they are alike: the system gets a block back as soon as it is free,
        while many smaller ones leave holes.
        """
        shapes = [(self.rows, x.shape[1], self.columns, x.shape[3]) for x in like]
        if len(set(shapes)) == 1:
            return [*like[0].new_zeros((len(like), *shapes[0]))]
        return [x.new_zeros(shape) for x, shape in zip(like, shapes, strict=True)]

    @property
    def _buffered(self) -> list["_Layer"]:
        return [layer for layer in self._layers if isinstance(layer, _Layer)]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot over another."""
        for layer in self._buffered:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def pick(self, slot: int, columns: Sequence[int]) -> None:
        """Keep some columns of a slot, as its first ones in this order."""
        for layer in self._buffered:
            for buffer in (layer.keys, layer.values):
                index = torch.tensor(columns, device=buffer.device)
                buffer[slot, :, : len(columns)] = buffer[slot].index_select(1, index)

    def at(self, columns: Tensor, width: int) -> Cache:
        """The cache for one pass: token (b, m) goes to slot b, column `columns[b, m]`.

        Args:
            columns: (B, M) for the first B slots.
            width: how many columns are in use; the pass sees those alone.
        """
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        self._target.places = rows, columns, width
        return Cache(layers=[*self._layers])


def _keeps_nothing(layer: Any) -> bool:
    """Whether a prefilled layer holds neither keys and values nor the state of a linear layer."""
    return getattr(layer, "keys", None) is None and not hasattr(layer, "conv_states")


class _Target:
    """Where the tokens of the present pass go; all that a layer knows of its slots.

    Layers that held their slots would make a circle, and hundreds of megabytes would wait for the
    garbage collector.
    """

    def __init__(self) -> None:
        self.places: tuple[Tensor, Tensor, int] | None = None

    def write(self, buffer: Tensor, states: Tensor) -> Tensor:
        """Put new states (B, heads, M, size) in their places; the view (B, heads, width, size)."""
        assert self.places is not None, "`at` comes before a pass"
        rows, columns, width = self.places
        buffer.transpose(1, 2)[rows, columns] = states.transpose(1, 2)
        return buffer[: len(rows), :, :width]


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's buffers."""

    keys: Tensor
    values: Tensor

    def __init__(self, target: _Target, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._write, self.keys, self.values = target.write, keys, values
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention with the new tokens' states."""
        del args, kwargs
        return self._write(self.keys, key_states), self._write(self.values, value_states)
