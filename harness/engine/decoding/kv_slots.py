"""Keys and values of rows that are being decoded, in buffers that are written in place.

A cache that grows by concatenation copies everything at every step. Here each row has a slot of
fixed width: its prefilled tokens first, then one column per token that is fed later. The slots in
use are always the first ones, so that a pass reads a view and never a copy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

from harness.engine.attention.buffers import empty_buffers


class Slots:
    """Buffers for `rows` rows of `columns` columns, allocated for the first row.

    The last column is for padding: it is written, but every mask hides it.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        # Rows, columns and width of the present pass. A list of its own, because layers that
        # referred to their slots would form a reference cycle, and hundreds of megabytes would
        # wait for the garbage collector.
        self._target: list[Any] = []
        self._layers: list[Any] = []  # a `_Layer` wherever the model keeps keys and values

    def put(self, slot: int, prefilled: Any, row: int, length: int) -> None:
        """Copy the first `length` columns of a row of a prefilled cache into a slot.

        Raises:
            TypeError: a layer of the cache does not keep one column per token.
        """
        if not self._layers:
            self._layers = self._empty_layers(prefilled.layers)
        for layer, source in zip(self._layers, prefilled.layers, strict=True):
            if isinstance(layer, _Layer):
                layer.keys[slot, :, :length] = source.keys[row, :, :length]
                layer.values[slot, :, :length] = source.values[row, :, :length]

    def _empty_layers(self, sources: Sequence[Any]) -> list[Any]:
        """Buffers like these layers. Layers that keep nothing stay, as where layers share keys."""
        keeping = [x for x in sources if not _keeps_nothing(x)]
        for layer in keeping:
            if type(layer) is not DynamicLayer:
                kind = type(layer).__name__
                raise TypeError(f"a cache layer of type {kind} cannot be kept in slots")
        keys = self._buffers([x.keys for x in keeping])
        values = self._buffers([x.values for x in keeping])
        layers = iter([_Layer(self._target, k, v) for k, v in zip(keys, values, strict=True)])
        return [next(layers) if x in keeping else x for x in sources]

    def _buffers(self, like: Sequence[Tensor]) -> list[Tensor]:
        return [buffer.zero_() for buffer in empty_buffers(like, self.rows, self.columns)]

    def _all_buffers(self) -> list[Tensor]:
        layers = [layer for layer in self._layers if isinstance(layer, _Layer)]
        return [buffer for layer in layers for buffer in (layer.keys, layer.values)]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot over another."""
        for buffer in self._all_buffers():
            buffer[target, :, :length] = buffer[source, :, :length]

    def pick(self, slot: int, columns: Sequence[int]) -> None:
        """Keep some columns of a slot, as its first ones in this order."""
        for buffer in self._all_buffers():
            index = torch.tensor(columns, device=buffer.device)
            buffer[slot, :, : len(columns)] = buffer[slot].index_select(1, index)

    def at(self, columns: Tensor, width: int) -> Cache:
        """The cache for one pass over `width` columns of the first B slots.

        Token (b, m) goes to slot b, column `columns[b, m]`.
        """
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        self._target[:] = rows, columns, width
        return Cache(layers=[*self._layers])


def _keeps_nothing(layer: Any) -> bool:
    """Whether a prefilled layer has neither keys and values nor the state of a linear layer."""
    return getattr(layer, "keys", None) is None and not hasattr(layer, "conv_states")


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's buffers."""

    keys: Tensor
    values: Tensor

    def __init__(self, target: list[Any], keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._target, self.keys, self.values = target, keys, values
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new states (B, heads, M, size); return all, as views (B, heads, width, size)."""
        del args, kwargs
        rows, columns, width = self._target
        rows, columns = rows.to(self.keys.device), columns.to(self.keys.device)
        for buffer, states in ((self.keys, key_states), (self.values, value_states)):
            buffer.transpose(1, 2)[rows, columns] = states.transpose(1, 2)
        return self.keys[: len(rows), :, :width], self.values[: len(rows), :, :width]
