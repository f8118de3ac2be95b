"""Leave a model, its random numbers and torch's settings as they were before it was lent."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PRECISE = ("none", "ieee")  # float32 products that are computed in float32


@contextmanager
def left_as_it_was(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Put back, at the end, what a forward pass or the caller changes in modules.

    That is every attribute of every module (training flags, hooks, caches), the values of buffers
    and other tensors that are no parameters, the attributes of configs, and random states. Weights
    are not copied: nothing here writes to them.
    """
    with ExitStack() as restoring:
        restoring.enter_context(_random_states(device))
        seen: set[int] = set()
        for module in modules:
            for value in (module, *_configs(module)):
                if id(value) not in seen:
                    seen.add(id(value))
                    restoring.callback(_restorer(value))
        yield


def _configs(module: nn.Module) -> list[Any]:
    """The config objects of a module."""
    own = vars(module)
    configs: list[Any] = [own.get(name) for name in ("config", "generation_config")]
    texts = [config.get_text_config() for config in configs if hasattr(config, "get_text_config")]
    return [config for config in (*configs, *texts) if hasattr(config, "__dict__")]


def _restorer(value: Any) -> Callable[[], None]:
    """A function that gives an object its present attributes back."""
    attributes = dict(vars(value))
    containers = [(a, a.copy()) for a in attributes.values() if type(a).__name__ in _CONTAINERS]
    parts = [*attributes.values()]
    for _, content in containers:
        parts += content.values() if isinstance(content, dict) else content
    tensors = [
        (part, part.detach().clone())
        for part in parts
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter)
    ]

    def restore() -> None:
        vars(value).clear()
        vars(value).update(attributes)
        for container, content in containers:
            container.clear()
            container.extend(content) if isinstance(content, list) else container.update(content)
        with torch.no_grad():
            for tensor, content in tensors:
                # Writing where nothing has changed would still count as a change for autograd.
                if not torch.equal(tensor, content):
                    tensor.copy_(content)

    return restore


_CONTAINERS = ("dict", "OrderedDict", "list", "set")


@contextmanager
def _random_states(device: torch.device) -> Iterator[None]:
    """Put the states of all random number generators back."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002  # the user's
    torchs = torch.get_rng_state()
    place = () if device.type in ("cpu", "mps") else (device,)
    of_device: Any = None if device.type == "cpu" else torch.get_device_module(device.type)
    devices = of_device and of_device.get_rng_state(*place)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002
        torch.set_rng_state(torchs)
        if of_device:
            of_device.set_rng_state(devices, *place)


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in the format of the weights: no autocast, no TF32, nothing compiled."""
    with ExitStack() as restoring:
        restoring.enter_context(torch.autocast(device.type, enabled=False))
        if device.type != "cpu":
            restoring.enter_context(torch.autocast("cpu", enabled=False))
        for backend, attribute, before in use_full_precision():
            restoring.callback(setattr, backend, attribute, before)
        if "torch._dynamo" in sys.modules:  # otherwise nothing has been compiled
            restoring.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def use_full_precision() -> list[tuple[Any, str, Any]]:
    """Let products and convolutions of float32 be computed in float32.

    By default convolutions on NVIDIA GPUs are not, and in some containers nothing is.

    Returns what was changed in torch: (object, attribute, its value before).
    """
    backends: Any = torch.backends
    changed = [
        (backend, "fp32_precision", precision)
        for backend in (backends.cuda.matmul, backends.mkldnn.matmul)
        if (precision := backend.fp32_precision) not in _PRECISE
    ]
    try:  # the older switch first: once the newer ones differ from it, torch refuses to read it
        changed += [(backends.cudnn, "allow_tf32", True)] * backends.cudnn.allow_tf32
    except RuntimeError:
        changed += [
            (backend, "fp32_precision", precision)
            for backend in (backends.cudnn.conv, backends.cudnn.rnn)
            if (precision := backend.fp32_precision) not in _PRECISE
        ]
    for backend, attribute, _ in changed:
        setattr(backend, attribute, "ieee" if attribute == "fp32_precision" else False)
    return changed
