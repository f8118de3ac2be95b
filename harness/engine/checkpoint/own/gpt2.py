"""Run a model of nanoGPT's kind as the GPT-2 of transformers that it is, on the same weights.

Then prefixes are shared and keys and values kept, and its digest is that of the saved checkpoint.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.checkpoint.config import with_fused_activation
from harness.engine.checkpoint.formats.gpt2.convert import (
    gpt2_config,
    read_sizes,
    read_state,
    transformers_tensors,
)
from harness.engine.checkpoint.own.adapter import OwnModel
from harness.engine.checkpoint.own.digest import is_patched
from harness.errors import CheckpointError, in_one_line

log = logging.getLogger(__name__)

_ACTIVATIONS = {"none": "gelu", "tanh": "gelu_new"}  # by `approximate` of torch's GELU
_HALF = (torch.bfloat16, torch.float16)
_TOLERANCE, _TOLERANCE_OF_HALF = 2e-5, 5e-2  # of a difference, relative to the spread of logits
_SHORT = (2, 8)  # rows and tokens of the first comparison
_COMPARED = 64  # positions of a row of the whole context


def as_gpt2(model: OwnModel, context: int, name: str) -> Any:
    """A GPT2LMHeadModel over the tensors of a model, none of them copied; None for another model.

    It computes what the model computes, as far as two comparisons on made-up tokens can tell.

    Args:
        model: tried out, in evaluation mode.
        context: tokens fed at most.
        name: for messages.
    """
    call = model.call
    if not isinstance(call, nn.Module) or is_patched(call):
        return None
    try:
        gpt2 = _gpt2(call, name)
        with torch.no_grad():
            same = all(_same_logits(model, gpt2, shape) for shape in (_SHORT, (1, context)))
    except CheckpointError as error:
        log.debug("%s is run as it is: %s", name, error)
        return None
    except Exception as error:  # such as too little memory for a comparison
        log.info("%s is run as it is, not as a GPT-2: %s", name, in_one_line(error))
        return None
    if not same:
        log.info("%s is run as it is: a GPT-2 with its weights has other logits", name)
    return gpt2 if same else None


def _gpt2(model: nn.Module, name: str) -> Any:
    """A GPT2LMHeadModel whose parameters are views of those of a model.

    Raises:
        CheckpointError: sizes, tensors or activation are not those of a GPT-2.
    """
    from transformers import GPT2LMHeadModel

    config = getattr(model, "config", None)
    stated = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    sizes = read_sizes(name, stated)
    tensors = transformers_tensors(name, read_state(name, model.state_dict()), sizes)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    activations = {m.approximate for m in model.modules() if type(m) is nn.GELU}
    if len(dtypes) != 1 or len(activations) != 1:
        raise CheckpointError(f"{name}: expected one number format, and one kind of nn.GELU")
    activation = _ACTIVATIONS[activations.pop()]
    fused = with_fused_activation(gpt2_config(sizes, activation, dtypes.pop()))
    with torch.device("meta"):  # without numbers
        gpt2: Any = GPT2LMHeadModel(fused)
    gpt2.requires_grad_(False)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    gpt2.load_state_dict(tensors, assign=True)
    gpt2.tie_weights()
    gpt2.config.activation_function = activation  # as a saved checkpoint states it
    return gpt2.eval()


def _same_logits(model: OwnModel, gpt2: Any, shape: tuple[int, int]) -> bool:
    """Whether two models have the same logits up to rounding on made-up ids (B, T)."""
    made_up = torch.Generator().manual_seed(0)
    ids = torch.randint(gpt2.config.vocab_size, shape, generator=made_up).to(gpt2.device)
    kept = torch.linspace(0, shape[1] - 1, min(shape[1], _COMPARED)).long().to(gpt2.device)
    expected = _centred(model(ids).logits[:, kept])
    found = _centred(gpt2(ids, use_cache=False, logits_to_keep=kept).logits)
    tolerance = _TOLERANCE_OF_HALF if gpt2.dtype in _HALF else _TOLERANCE
    return bool((found - expected).norm() <= tolerance * expected.norm())


def _centred(logits: Tensor) -> Tensor:
    """Logits (B, T, V) less the mean at each position, which changes no probability."""
    logits = logits.float()
    return logits - logits.mean(-1, keepdim=True)
