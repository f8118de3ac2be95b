"""Linear layers on a CPU, over weights that oneDNN has laid out for its own float32 products.

torch multiplies plain float32 matrices with its BLAS, which lays weights out anew at every call.
Packing does that once per weight: here, products of a batch became a third faster, those of a few
rows, as in decoding, two to four times. The model's code stays as it is; only its linear modules
are exchanged, and only if the model then gives the same logits.
"""

import inspect
import logging
import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh
from transformers.pytorch_utils import Conv1D

log = logging.getLogger(__name__)

_ROWS = 2048  # of a typical product, for the choice of the layout
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest logit
# How many shapes oneDNN, and torch's layer over it, remember the code for: one needs 0.6 MB, a pass
# has half a dozen, and a long run meets thousands. Both read this when they are first used.
_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
_Exchanged = tuple[nn.Module, str, nn.Module]  # owner, name, what was there


class Packed(nn.Module):
    """A linear layer (N, inner) -> (N, outer) over packed weights.

    Args:
        weight: (outer, inner), float32 or bfloat16, on the CPU.
        bias: (outer,) or None.

    Attributes:
        then: `none`, or `gelu` (its tanh approximation) for the function that follows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.then = "none"  # what oneDNN applies to the product while it is at hand
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.weight = nn.Parameter(laid_out, requires_grad=False)
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        """The product, plus bias."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.weight, self.bias, self.then, [], "tanh"
        )
        return found


def pack(model: Any, before: Tensor | None = None) -> None:
    """Exchange the linear layers of a model on the CPU; leave it as it is where that fails.

    Args:
        model: a causal language model.
        before: its `trial`, if there has been one.
    """
    if model.device.type != "cpu" or model.dtype not in _TOLERANCE:
        return
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for name, capacity in _SHAPES.items():
        os.environ.setdefault(name, capacity)
    with torch.no_grad():
        before = trial(model) if before is None else before
        exchanged: list[_Exchanged] = []
        try:
            for owner, name in _linear(model):
                exchanged.append(_exchange(owner, name))
            exchanged += [_fuse(mlp) for mlp in model.modules() if _fusible(mlp)]
            same = _close(before, trial(model))
        except Exception as error:
            # The operators are torch's own, but not documented: whatever they raise on another
            # machine, the model runs without them.
            log.debug("linear layers are not packed: %s", error)
            same = False
        if not same:
            for owner, name, module in exchanged:
                _restore(owner, name, module)


def products(model: Any) -> str:
    """Who multiplies a model's matrices: `onednn` over packed weights, or `torch`."""
    return "onednn" if any(isinstance(m, Packed) for m in model.modules()) else "torch"


def _linear(model: Any) -> list[tuple[nn.Module, str]]:
    """Owner and name of every linear layer. Subclasses may compute anything: they stay."""
    return [
        (owner, name)
        for owner in model.modules()
        for name, module in owner.named_children()
        if type(module) in (nn.Linear, Conv1D)
    ]


def _exchange(owner: nn.Module, name: str) -> _Exchanged:
    """Put a packed layer in a linear one's place, and free the plain weight."""
    module: Any = getattr(owner, name)
    weight = module.weight.t() if type(module) is Conv1D else module.weight
    setattr(owner, name, Packed(weight, module.bias))
    module.weight = None
    return owner, name, module


def _restore(owner: nn.Module, name: str, module: Any) -> None:
    """Undo an exchange; a weight comes back bit by bit."""
    packed: Any = getattr(owner, name)
    if isinstance(packed, Packed):
        weight = packed.weight.to_dense()
        weight = weight.t().contiguous() if type(module) is Conv1D else weight
        module.weight = nn.Parameter(weight, requires_grad=False)
    setattr(owner, name, module)


def _fusible(mlp: Any) -> bool:
    """Whether GELU follows a packed layer, as in GPT-2's feed-forward part."""
    return isinstance(getattr(mlp, "c_fc", None), Packed) and type(mlp.act) is GELUTanh


def _fuse(mlp: Any) -> _Exchanged:
    """Let the product apply GELU."""
    activation = mlp.act
    mlp.c_fc.then, mlp.act = "gelu", nn.Identity()
    return mlp, "act", activation


def trial(model: Any) -> Tensor:
    """Logits (T, V) of a few tokens that are the same at every call."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(17 + 7919 * i) % vocabulary for i in range(8)]], device=model.device)
    cache = "use_cache" in inspect.signature(model.forward).parameters
    logits: Tensor = model(input_ids=ids, **({"use_cache": False} if cache else {})).logits[0]
    return logits


def _close(before: Tensor, after: Tensor) -> bool:
    bound = _TOLERANCE[before.dtype] * float(before.float().nan_to_num().abs().max())
    return torch.allclose(before, after, atol=bound, rtol=0, equal_nan=True)
