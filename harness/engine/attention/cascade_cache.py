"""Let a model of transformers attend to levels of keys and values in a step of decoding.

The model's attention is replaced for the time of a pass only, so that all others stay as they are.
The levels travel through the model's own arguments: as the cache that it updates layer by layer,
and as a keyword that it passes on to its attention function. A model that does not, or whose
attention does more than scale and add up, fails its self-test.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, Cache, DynamicLayer

from harness.engine.attention.cascade import Cascade

_NAME = "harness_cascade"
_PLAIN = "sdpa"
# What transformers calls the steps of an attention that is not plain.
_OTHER_STEPS = ("softcap", "s_aux", "position_bias", "cache", "head_mask")


def takes_cascade(model: Any) -> bool:
    """Whether the attention of all layers can be replaced."""
    return {config._attn_implementation for config in attention_configs(model)} == {_PLAIN}


@contextmanager
def cascading(configs: Sequence[Any]) -> Iterator[None]:
    """A context in which the model of these configs attends to the levels that a pass is given."""
    try:
        for config in configs:
            config._attn_implementation = _NAME
        yield
    finally:
        for config in configs:
            config._attn_implementation = _PLAIN


def attention_configs(model: Any) -> list[Any]:
    """The distinct configs that modules of a model read their kind of attention from."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return [*{id(c): c for c in found if hasattr(c, "_attn_implementation")}.values()]


class CascadeCache(Cache):
    """A cascade as a cache of transformers, for one pass over rows of one token each."""

    def __init__(self, cascade: Cascade, layers: int) -> None:
        super().__init__(layers=[_Layer(cascade, index) for index in range(layers)])


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer of the cascade."""

    def __init__(self, cascade: Cascade, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cascade, self._index = cascade, index
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values (R, heads, 1, D); the attention function reads the rest."""
        del args, kwargs
        self._cascade.own.write(self._index, key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """A positive number: there is a past, whose length only the levels know."""
        return max(self._cascade.own.lengths)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **others: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers: (R, heads, 1, D) -> (R, 1, heads, D)."""
    del key, value, mask  # the levels hold all keys, and only what is seen
    cascade, scale = others.get("cascade"), others.get("scaling")
    steps = [name for name in _OTHER_STEPS if others.get(name) is not None]
    if not isinstance(cascade, Cascade) or steps:
        raise TypeError(f"cascade attention has no {', '.join(steps) or 'cascade'}")
    if scale is None:
        scale = query.shape[-1] ** -0.5
    layer: Any = module.layer_idx
    return cascade.attend(layer, query, scale).transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)
