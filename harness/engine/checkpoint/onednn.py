"""Linear layers on a CPU, over weights in the layout that oneDNN prefers.

torch multiplies plain float32 matrices with its BLAS, which rearranges weights at every call.
Packing does that once per weight: products of a batch became a third faster, and those of a few
rows, as in decoding, two to four times. Only the model's linear modules are replaced, and only if
it then gives the same logits.

On a CPU with instructions for bfloat16, products of a float32 model can be computed in it, with
sums in float32, in half the time. Everything between the products stays in float32: it would not be
faster in bfloat16, and less exact.
"""

import inspect
import logging
import os
import platform
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh
from transformers.pytorch_utils import Conv1D

log = logging.getLogger(__name__)

_TYPICAL_ROWS = 2048  # of a product, for the choice of the layout
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative to the largest logit
_MOST = 0.9  # of the weights must be in packed layers of a model said to multiply in bfloat16
# How many shapes oneDNN, and torch's layer over it, keep compiled code for. One takes 0.6 MB, a
# pass has half a dozen, and a long run meets thousands. Both read this when they are first used.
_CACHED_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
Replaced = list[tuple[nn.Module, str, nn.Module]]  # owner, name, original


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
        return self.multiply(states)

    def multiply(self, states: Tensor) -> Tensor:
        """The same, of states in the format of the weights."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.weight, self.bias, self.then, [], "tanh"
        )
        return result

    def plain_weight(self) -> Tensor:
        """(outer, inner), as before it was packed."""
        plain: Tensor = self.weight.to_dense()
        return plain


class Bfloat16Product(Packed):
    """A linear layer of a float32 model, multiplied in bfloat16 with sums in float32.

    oneDNN returns the sums in bfloat16, which has 8 significant bits: logits near -100, as GPT-2
    has, would be a quarter off. So the weights of a head are `centred`, without their mean over the
    vocabulary, whose product is added in float32. What is rounded is then the distance to the mean
    logit.

    Args:
        weight: (outer, inner), on the CPU.
        bias: (outer,) or None.
        centred: whether the mean of the weights is multiplied apart.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, centred: bool = False) -> None:
        weight = weight.detach()
        mean = weight.float().mean(0) if centred else None
        weight = weight if mean is None else weight.float() - mean
        super().__init__(weight.bfloat16(), None if bias is None else bias.detach().bfloat16())
        self.mean = mean  # (inner,)
        self.feeds_product = False  # whether the next layer takes the result in bfloat16

    def forward(self, states: Tensor) -> Tensor:
        """The product in float32, plus bias, through `then`."""
        product = self.multiply(states.bfloat16())
        if self.mean is not None:
            return product.float().add_((states.float() @ self.mean)[..., None])
        return product if self.feeds_product else product.float()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Stays as it is where the model is converted: its layout is that of this machine."""
        return self


def pack(model: Any, before: Tensor | None = None) -> None:
    """Replace the linear layers of a model on the CPU; leave it as it was where that fails.

    `before` is the model's `trial`, if there has been one.
    """
    if model.device.type != "cpu" or model.dtype not in _TOLERANCE or not _has_onednn():
        return
    before = trial(model) if before is None else before
    replaced: Replaced = []
    if not _packs(model, before, _TOLERANCE[before.dtype], Packed, replaced):
        _restore(replaced)


def pack_in_bfloat16(model: Any, before: Tensor | None = None) -> bool:
    """Let a model on the CPU multiply in bfloat16 and compute everything else in float32.

    Returns whether it does. If not, all of it is in bfloat16, for which its other layers are made.
    The model may come in float32 or bfloat16; `before` is its `trial`, if there has been one.
    """
    before = trial(model) if before is None else before
    replaced: Replaced = []
    bound = _TOLERANCE[torch.bfloat16]
    if (
        _packs(model, before, bound, Bfloat16Product, replaced)
        and model.dtype is torch.float32
        and _packed_share(model) >= _MOST
    ):
        return True
    _restore(replaced)
    model.to(torch.bfloat16)
    return False


def should_keep_float32(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a model that is asked for in bfloat16 is for `pack_in_bfloat16`.

    Says so where bfloat16 is slow.
    """
    if dtype is not torch.bfloat16 or device.type != "cpu":
        return False
    if lack := lacking_instructions():
        log.warning("%s; --dtype float32 is faster and more exact", lack)
    return multiplies_bfloat16()


def loading_dtype(config: Any) -> torch.dtype:
    """The format in which to load weights for `pack_in_bfloat16`, as exact as they are stored."""
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return torch.bfloat16 if stored == "bfloat16" else torch.float32


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 that oneDNN uses: AVX-512 BF16 or AMX."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return known is not None and bool(known()) and _has_onednn()


def lacking_instructions() -> str:
    """What an x86 CPU lacks for bfloat16; empty if nothing, or if it is another kind of CPU."""
    if multiplies_bfloat16() or platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    return "this CPU has no instructions for bfloat16 (AVX-512 BF16 or AMX)"


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@torch.no_grad()
def _packs(
    model: Any, before: Tensor, tolerance: float, kind: type[Packed], replaced: Replaced
) -> bool:
    """Replace linear layers, noting them in `replaced`; whether the trial's logits are the same."""
    for name, capacity in _CACHED_SHAPES.items():
        os.environ.setdefault(name, capacity)
    bound = tolerance * float(before.float().nan_to_num().abs().max())
    try:
        _replace_layers(model, kind, replaced)
        if kind is Bfloat16Product:
            model.float()
        after = trial(model).to(before.dtype)
        return torch.allclose(before, after, atol=bound, rtol=0, equal_nan=True)
    except Exception as error:
        # The operators belong to torch, but are not documented: whatever they raise on another
        # machine, the model runs without them.
        log.debug("linear layers are not packed: %s", error)
        return False


def _packed_share(model: Any) -> float:
    """The share of a model's weights, but for its embeddings, that packed layers hold."""
    modules = [*model.modules()]
    looked_up = {id(m.weight) for m in modules if isinstance(m, nn.Embedding)}
    packed = sum(m.weight.numel() for m in modules if isinstance(m, Packed))
    weights = sum(p.numel() for p in model.parameters() if id(p) not in looked_up)
    return float(packed / max(1, weights))


def products(model: Any) -> str:
    """What computes a model's matrix products: `onednn` over packed weights, or `torch`.

    `bfloat16`: those of a float32 model are computed in it. `transposed`: torch reads weights where
    another program has them, as (outer, inner).
    """
    if products_in_bfloat16(model):
        return "onednn bfloat16"
    modules = [*model.modules()]
    if any(isinstance(module, Packed) for module in modules):
        return "onednn"
    transposed = any(type(m) is Conv1D and not m.weight.is_contiguous() for m in modules)
    return "torch transposed" if transposed else "torch"


def products_in_bfloat16(model: Any) -> bool:
    """Whether a float32 model multiplies in bfloat16."""
    return any(isinstance(module, Bfloat16Product) for module in model.modules())


def _replace_layers(model: Any, kind: type[Packed], replaced: Replaced) -> None:
    """Put packed layers in the place of linear ones, and free the plain weights."""
    head = model.get_output_embeddings()
    linear = [
        (owner, name, module)
        for owner in model.modules()
        for name, module in owner.named_children()
        if type(module) in (nn.Linear, Conv1D)  # subclasses may compute anything
    ]
    for owner, name, module in linear:
        weight = module.weight.t() if type(module) is Conv1D else module.weight
        centred = kind is Bfloat16Product and module is head
        setattr(owner, name, kind(weight, module.bias, **({"centred": True} if centred else {})))
        if not centred:  # whose weights cannot be restored bit by bit
            module.weight = None
        replaced.append((owner, name, module))
    for mlp in model.modules():  # let the product apply GELU, as in GPT-2's feed-forward part
        if isinstance(getattr(mlp, "c_fc", None), Packed) and type(mlp.act) is GELUTanh:
            replaced.append((mlp, "act", mlp.act))
            mlp.c_fc.then, mlp.act = "gelu", nn.Identity()
            mlp.c_fc.feeds_product = isinstance(getattr(mlp, "c_proj", None), Packed)


def _restore(replaced: Replaced) -> None:
    """Undo replacements; a weight comes back bit by bit, in the format in which it was packed."""
    for owner, name, module in replaced:
        packed: Any = getattr(owner, name)
        if isinstance(packed, Packed) and module.weight is None:
            weight = packed.plain_weight()
            weight = weight.t().contiguous() if type(module) is Conv1D else weight
            module.weight = nn.Parameter(weight, requires_grad=False)
        setattr(owner, name, module)


@torch.no_grad()
def trial(model: Any, device: torch.device | None = None) -> Tensor:
    """Logits (T, V) of a few tokens, the same tokens at every call, put on a device."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor(
        [[(17 + 7919 * i) % vocabulary for i in range(8)]], device=device or model.device
    )
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    logits: Tensor = model(input_ids=ids, **({"use_cache": False} if takes_cache else {})).logits[0]
    return logits
