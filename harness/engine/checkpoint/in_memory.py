"""Lend a model in memory to the engine, which leaves no trace in it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from harness.engine.checkpoint.load import Checkpoint, given_tokenizer, lent_checkpoint
from harness.engine.checkpoint.own.adapter import modules_behind, owner_of
from harness.engine.checkpoint.own.prepare import prepare, unwrapped
from harness.engine.checkpoint.own.restore import left_as_it_was, plain_arithmetic
from harness.errors import CheckpointError


@contextmanager
def borrowed(
    model: Any,
    tokenizer: Any = None,
    *,
    name: str | None = None,
    context: int | None = None,
    step: int | None = None,
) -> Iterator[Checkpoint]:
    """A checkpoint over a model in memory, on the device where it is and with its dtype.

    When the block ends, for whatever reason, the model is what it was: training flags, hooks,
    buffers, configs, gradients, weights and where they are stored, and so are the states of all
    random number generators and the tokenizer. Within the block nothing may train the model.

    Args:
        model: a causal language model of transformers, or any function from token ids (B, T) to
            logits (B, T, V); one of nanoGPT's kind is run as GPT-2. What torch.compile,
            DistributedDataParallel or accelerate put around it is taken off.
        tokenizer: of transformers or tokenizers, which is copied, or by name, as `--tokenizer`.
        name: for records; default: the name of the model's class.
        context: tokens fed at most; default: the smaller of 1,024 and the model's maximum.
        step: of the training.

    Raises:
        CheckpointError: the model is divided among processes, does not run, or has no tokenizer.
    """
    model = unwrapped(model)
    name = name or type(model if (owner := owner_of(model)) is None else owner).__name__
    modules = [part for module in modules_behind(model) for part in module.modules()]
    device = _device(modules, name)
    with left_as_it_was(modules, device), plain_arithmetic(device):
        for module in modules:
            vars(module).update(training=False)
            vars(module).pop("_compiled_call_impl", None)
            _without_autocast(module)
        yield _checkpoint(model, tokenizer, name=name, context=context, step=step)


def _checkpoint(model: Any, tokenizer: Any, *, name: str, **options: Any) -> Checkpoint:
    if isinstance(model, PreTrainedModel):  # the engine reads outputs by name
        model.config.return_dict = model.config.get_text_config().return_dict = True
    copied = given_tokenizer(
        copy.deepcopy(tokenizer), name
    )  # ours changes the one that it is given
    prepared = prepare(model, copied, name=name, **options)
    return lent_checkpoint(prepared, copied)


def _device(modules: Sequence[nn.Module], name: str) -> torch.device:
    """Where a model is; refuses one that is not whole in one place."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in modules):
        raise _divided(name, "FullyShardedDataParallel")
    devices: dict[str, torch.device] = {}
    for parameter in (p for module in modules for p in module.parameters(recurse=False)):
        if type(parameter.data).__name__ == "DTensor":
            raise _divided(name, "DTensor")
        if hasattr(parameter, "ds_id") and not parameter.numel():
            raise _divided(name, "DeepSpeed ZeRO-3")
        devices[str(parameter.device)] = parameter.device
    if "meta" in devices:
        raise CheckpointError(f"model {name!r} has parameters without numbers (device meta)")
    if len(devices) > 1:
        raise CheckpointError(
            f"model {name!r} is spread over {', '.join(devices)}; expected all of it on one device"
        )
    return next(iter(devices.values()), torch.device("cpu"))


def _divided(name: str, how: str) -> CheckpointError:
    return CheckpointError(
        f"model {name!r} is divided among processes ({how}); save it and evaluate the saved "
        "checkpoint, or gather it on one process"
    )


def _without_autocast(module: nn.Module) -> None:
    """Take off the `forward` with which accelerate runs a model in mixed precision."""
    own = vars(module)
    if "_original_forward" in own and "forward" in own:
        function = getattr(own["_original_forward"], "__func__", None)
        del own["forward"]
        if function is not type(module).forward:
            own["forward"] = (
                own["_original_forward"] if function is None else MethodType(function, module)
            )
