"""Linear layers on a CPU, over weights in the layout that oneDNN prefers.

torch multiplies plain float32 matrices with its BLAS, which rearranges weights at every call.
Packing does that once per weight: products of a batch became a third faster, and those of a few
rows, as in decoding, two to four times. Only the model's linear modules are replaced, and only if
it then gives the same logits.
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

_TYPICAL_ROWS = 2048  # of a product, for the choice of the layout
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative to the largest logit
# How many shapes oneDNN, and torch's layer over it, keep compiled code for. One takes 0.6 MB, a
# pass has half a dozen, and a long run meets thousands. Both read this when they are first used.
_CACHED_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


class Packed(nn.Module):
    """A linear layer (N, inner) -> (N, outer) over packed weights.

    Args:
        weight: (outer, inner), float32 or bfloat16, on the CPU.
        bias: (outer,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.then = "none"  # what oneDNN applies to the product: or `gelu`, with tanh
        packed = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach().contiguous(), _TYPICAL_ROWS
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        """The product, plus bias, through `then`."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.weight, self.bias, self.then, [], "tanh"
        )
        return result


def pack(model: Any, before: Tensor | None = None) -> None:
    """Replace the linear layers of a model on the CPU; leave it as it was where that fails.

    `before` is the model's `trial`, if there has been one.
    """
    if model.device.type != "cpu" or model.dtype not in _TOLERANCE:
        return
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for name, capacity in _CACHED_SHAPES.items():
        os.environ.setdefault(name, capacity)
    with torch.no_grad():
        before = trial(model) if before is None else before
        bound = _TOLERANCE[before.dtype] * float(before.float().nan_to_num().abs().max())
        replaced: list[tuple[nn.Module, str, nn.Module]] = []  # owner, name, original
        try:
            _replace_layers(model, replaced)
            same = torch.allclose(before, trial(model), atol=bound, rtol=0, equal_nan=True)
        except Exception as error:
            # The operators belong to torch, but are not documented: whatever they raise on another
            # machine, the model runs without them.
            log.debug("linear layers are not packed: %s", error)
            same = False
        if not same:
            for owner, name, module in replaced:
                _restore(owner, name, module)


def products(model: Any) -> str:
    """What computes a model's matrix products: `onednn` over packed weights, or `torch`.

    `transposed`: torch reads weights where another program has them, as (outer, inner).
    """
    modules = [*model.modules()]
    if any(isinstance(module, Packed) for module in modules):
        return "onednn"
    transposed = any(type(m) is Conv1D and not m.weight.is_contiguous() for m in modules)
    return "torch transposed" if transposed else "torch"


def _replace_layers(model: Any, replaced: list[tuple[nn.Module, str, nn.Module]]) -> None:
    """Put packed layers in the place of linear ones, and free the plain weights."""
    linear = [
        (owner, name, module)
        for owner in model.modules()
        for name, module in owner.named_children()
        if type(module) in (nn.Linear, Conv1D)  # subclasses may compute anything
    ]
    for owner, name, module in linear:
        weight = module.weight.t() if type(module) is Conv1D else module.weight
        setattr(owner, name, Packed(weight, module.bias))
        module.weight = None
        replaced.append((owner, name, module))
    for mlp in model.modules():  # let the product apply GELU, as in GPT-2's feed-forward part
        if isinstance(getattr(mlp, "c_fc", None), Packed) and type(mlp.act) is GELUTanh:
            replaced.append((mlp, "act", mlp.act))
            mlp.c_fc.then, mlp.act = "gelu", nn.Identity()


def _restore(owner: nn.Module, name: str, module: Any) -> None:
    """Undo a replacement; a weight comes back bit by bit."""
    packed: Any = getattr(owner, name)
    if isinstance(packed, Packed):
        weight = packed.weight.to_dense()
        weight = weight.t().contiguous() if type(module) is Conv1D else weight
        module.weight = nn.Parameter(weight, requires_grad=False)
    setattr(owner, name, module)


def trial(model: Any) -> Tensor:
    """Logits (T, V) of a few tokens, the same tokens at every call."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(17 + 7919 * i) % vocabulary for i in range(8)]], device=model.device)
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    logits: Tensor = model(input_ids=ids, **({"use_cache": False} if takes_cache else {})).logits[0]
    return logits
