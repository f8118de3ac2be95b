"""Prepare a model that is a Python object for the engine: how it is run, and what identifies it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from harness.engine.checkpoint.config import check_end_tokens, context_length
from harness.engine.checkpoint.from_pretrained import one_line_errors
from harness.engine.checkpoint.identity import digest_in_memory
from harness.engine.checkpoint.own.adapter import OwnModel
from harness.engine.checkpoint.own.context import own_context
from harness.engine.checkpoint.own.digest import (
    is_patched,
    own_digest,
    source_digests,
    unknown_digest,
)
from harness.engine.checkpoint.own.gpt2 import as_gpt2
from harness.engine.checkpoint.settings import Identity
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError

# Classes that run a module under another name, by name: most of them are seldom installed.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "DeepSpeedEngine": "module",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model as the engine runs it."""

    model: Any  # of transformers, or an `OwnModel`
    identity: Identity
    end_tokens: frozenset[int]  # tokens that end a generated text, by the model's own config


def prepare(
    model: Any,
    tokenizer: Tokenizer,
    *,
    name: str,
    context: int | None,
    step: int | None = None,
    options: Mapping[str, str] | None = None,
) -> Prepared:
    """Prepare a model in evaluation mode, in the place and number format in which it is.

    Args:
        model: of transformers, or any function from token ids (B, T) to logits (B, T, V).
        tokenizer: its tokenizer.
        name: for records and messages.
        context: tokens fed at most; None: the smaller of 1,024 and the model's maximum.
        step: of the training.
        options: model options that it was made with.

    Raises:
        CheckpointError: it cannot be called, does not return logits, or cannot read `context`
            tokens.
    """
    ends: frozenset[int] = frozenset()
    with one_line_errors(name):
        if not is_of_transformers(model):
            own = OwnModel(model, name)
            own.try_out(len(tokenizer))
            length = own_context(own, context, name)
            model = as_gpt2(own, length, name) or own
        if isinstance(model, OwnModel):
            digest = own_digest(model.call)
        else:
            length = context_length(model.config, context)
            digest = _digest(model)
            stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
            ends = check_end_tokens(stated, "eos_token_id", name)
    identity = Identity(
        name=name,
        revision=None,
        digest=digest,
        tokenizer=tokenizer.digest,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        context=length,
        trust_remote_code=False,
        threads=torch.get_num_threads(),
        step=step,
        options=dict(options or {}),
    )
    return Prepared(model, identity, ends)


def unwrapped(model: Any) -> Any:
    """The model itself, without what runs it in parallel or compiled.

    Raises:
        CheckpointError: it cannot be called.
    """
    while inner := _WRAPPERS.get(type(model).__name__):
        model = getattr(model, inner)
    if not callable(model):
        raise CheckpointError(
            f"a value of type {type(model).__name__} is no model; expected a function from token "
            "ids (B, T) to logits (B, T, V), such as an nn.Module"
        )
    return model


def is_of_transformers(model: Any) -> bool:
    """Whether a model has the parts by which the engine runs models of transformers.

    Raises:
        CheckpointError: it reads its text with an encoder.
    """
    if not isinstance(model, PreTrainedModel):
        return False
    if model.config.is_encoder_decoder:
        raise CheckpointError(
            f"a {type(model).__name__} is an encoder-decoder; expected a causal language model"
        )
    try:
        embeddings: Any = model.get_input_embeddings()
    except NotImplementedError:
        return False
    return isinstance(getattr(embeddings, "weight", None), torch.Tensor)


def _digest(model: nn.Module) -> str:
    """The digest of the saved checkpoint, unless the model is more than that checkpoint."""
    if is_patched(model):
        return unknown_digest()
    own_code = source_digests({type(module) for module in model.modules()})
    return own_digest(model) if own_code else digest_in_memory(model)
