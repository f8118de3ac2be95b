"""Run any function from token ids to logits the way the engine runs a transformers model.

    ids (B, T) int64 --model--> logits (B, T, V): a tensor, `.logits`, or the first of a tuple

Such a model has no trunk, KV cache or mask that the engine knows of: it is asked for the logits at
every position, and nothing else.
"""

import inspect
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from harness.errors import CheckpointError, short_reason

# A model that returns the last position only, unless it is to compute a loss, takes one of these.
_TARGETS = ("targets", "labels")
_TRIAL_ROWS, _TRIAL_TOKENS = 2, 8


class Output(NamedTuple):
    """What an adapted model returns."""

    logits: Tensor  # (B, T, V)


class OwnModel(nn.Module):
    """A model that is called with token ids and returns logits at every position.

    Args:
        call: the model, an `nn.Module` or any other function.
        name: for messages.

    Attributes:
        vocabulary: number of tokens that it gives logits for; known after `try_out`.
    """

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        super().__init__()
        self.training = False  # of this module alone; the model has been put in evaluation mode
        self.call = call  # a module is registered, so that its parameters are this one's
        self.config = PretrainedConfig()  # says nothing: everything is found out by trying
        self.vocabulary = 0
        self.modules_behind = nn.ModuleList(modules_behind(call))
        parameters = [*self.parameters()]
        self.device = parameters[0].device if parameters else torch.device("cpu")
        self.dtype = _common_dtype(parameters)
        sizes = [p.shape[-1] for p in parameters if p.dim()]
        self.width = statistics.mode(sizes) if sizes else 0  # of the hidden states, a guess
        self._name = name
        self._targets: str | None = None  # an argument to pass the ids as, besides the first

    @property
    def base_model(self) -> "OwnModel":
        """The model itself, as transformers has it for a model without a trunk."""
        return self

    def forward(self, input_ids: Tensor) -> Output:
        """Logits (B, T, V) of ids (B, T).

        Raises:
            CheckpointError: the model returns something else.
        """
        more = {self._targets: input_ids} if self._targets else {}
        logits = _logits(self.call(input_ids, **more))
        if logits is None or logits.shape[:-1] != input_ids.shape:
            raise CheckpointError(
                f"model {self._name!r} returns {_seen(logits)} for token ids (B, T) = "
                f"{tuple(input_ids.shape)}; expected logits (B, T, V) at every position"
            )
        return Output(logits)

    def try_out(self, tokens: int) -> None:
        """Find out how the model is called and the size of its vocabulary, on made-up ids.

        Args:
            tokens: number of ids that the model surely knows.

        Raises:
            CheckpointError: it raises an error, or returns anything but finite logits.
        """
        size = min(tokens, _TRIAL_TOKENS)
        ids = torch.arange(_TRIAL_ROWS * _TRIAL_TOKENS).view(_TRIAL_ROWS, -1) % size
        with torch.no_grad():
            try:
                self._targets = self._targets_argument(ids.to(self.device))
                logits = self(ids.to(self.device)).logits
            except (torch.OutOfMemoryError, CheckpointError):
                raise
            except Exception as error:  # the model may raise anything
                raise CheckpointError(
                    f"model {self._name!r} cannot be called with token ids (B, T): "
                    f"{type(error).__name__}: {short_reason(error)}"
                ) from error
        self.device, self.vocabulary = logits.device, int(logits.shape[-1])
        if not logits.is_floating_point() or self.vocabulary < size:
            raise CheckpointError(
                f"model {self._name!r} returns {_seen(logits)}; expected logits as floating-point "
                "numbers, one per token of the vocabulary"
            )
        if logits.isnan().any() or (logits == torch.inf).any():
            raise CheckpointError(
                f"model {self._name!r} returns logits that are NaN or infinite; expected numbers"
            )

    def _targets_argument(self, ids: Tensor) -> str | None:
        """The argument without which the model returns the logits of the last position only."""
        logits = _logits(self.call(ids))
        rows, length = ids.shape
        if logits is None or logits.shape[:-1] not in ((rows, 1), (rows,)):
            return None
        function = self.call.forward if isinstance(self.call, nn.Module) else self.call
        parameters = inspect.signature(function).parameters
        name = next((name for name in _TARGETS if name in parameters), None)
        if name is None:
            raise CheckpointError(
                f"model {self._name!r} returns logits {tuple(logits.shape)} of one position for "
                f"{length} tokens; expected logits (B, T, V) at every position"
            )
        return name


def vocabulary(model: Any) -> int:
    """Number of tokens that a model can choose from."""
    if isinstance(model, OwnModel):
        return model.vocabulary
    return int(model.get_input_embeddings().weight.shape[0])


def owner_of(call: Any) -> nn.Module | None:
    """The module that a call runs: itself, or the one whose method it is."""
    owner = getattr(call, "__self__", call)
    return owner if isinstance(owner, nn.Module) else None


def modules_behind(call: Any) -> list[nn.Module]:
    """The modules that a call runs, as far as they can be found: also those that a function uses.

    A function is free to use others, which are then not in evaluation mode.
    """
    if (owner := owner_of(call)) is not None:
        return [owner]
    values = [*getattr(call, "__dict__", {}).values()]
    if isinstance(call, partial):
        return [m for part in (call.func, *call.args) for m in modules_behind(part)]
    if isinstance(call, FunctionType):
        values += [cell.cell_contents for cell in call.__closure__ or ()]
        values += [call.__globals__.get(name) for name in call.__code__.co_names]
    return [value for value in values if isinstance(value, nn.Module)]


def _logits(output: Any) -> Tensor | None:
    """The logits in what a model returned; None if it returned no tensor of that kind."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    output = getattr(output, "logits", output)
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.dim() >= 1 else None


def _seen(logits: Tensor | None) -> str:
    if logits is None:
        return "no tensor"
    return f"a tensor {tuple(logits.shape)} of {str(logits.dtype).removeprefix('torch.')}"


def _common_dtype(parameters: list[nn.Parameter]) -> torch.dtype:
    """The number format of most parameters."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in parameters:
        if parameter.is_floating_point():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
