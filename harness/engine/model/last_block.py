"""The end of a model's last block at the positions that are read, and at no others.

After its keys and values a block goes position by position: the projection that leaves attention,
and the feed-forward part. In the last block nobody looks at a position that is not read. That is
most of one block's products, 6 % of GPT-2's of 12 blocks, where few positions are read.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

_POSITION_WISE = ("mlp", "attn.c_proj", "self_attn.o_proj")  # as GPT-2's and Llama's families say
Modules = tuple[nn.Module, ...]


def position_wise(base: Any, layers: int) -> Modules:
    """The modules of the last block that take positions one by one; none where names differ.

    Args:
        base: a model without its head.
        layers: how many blocks it has.
    """
    lists = [m for m in base.children() if isinstance(m, nn.ModuleList) and len(m) == layers]
    if len(lists) != 1:
        return ()
    inside = dict(lists[0][-1].named_modules())
    return tuple(inside[name] for name in _POSITION_WISE if name in inside)


@contextmanager
def only(modules: Modules, places: Tensor) -> Iterator[None]:
    """Let modules compute some positions; what comes out of them elsewhere is zero.

    Args:
        modules: as `position_wise` gives them.
        places: (N,) among the B * T positions of the pass, at least one.
    """
    with ExitStack() as handles:
        for module in modules:
            exchange = _Exchange(places)
            handles.callback(module.register_forward_pre_hook(exchange.take).remove)
            handles.callback(module.register_forward_hook(exchange.put).remove)
        yield


class _Exchange:
    """Positions out of a tensor before a module, and back into one of its shape after it."""

    def __init__(self, places: Tensor) -> None:
        self._places = places
        self._shape: tuple[int, ...] = ()

    def take(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(B, T, H) -> (1, N, H)."""
        states, *rest = inputs
        self._shape = tuple(states.shape[:-1])
        return states.flatten(0, -2)[self._places][None], *rest

    def put(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """(1, N, H) -> (B, T, H); what a module returns beside its states stays as it is."""
        if isinstance(output, tuple):  # as a mixture of experts does with its choices
            return self.put(module, inputs, output[0]), *output[1:]
        whole = output.new_zeros(*self._shape, output.shape[-1])
        whole.flatten(0, -2)[self._places] = output[0]
        return whole
