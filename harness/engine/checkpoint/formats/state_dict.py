"""The bare state dict of a transformers model, in a torch file or a safetensors file.

The user names its config.json. This format is tried after all others: many of those are torch
files with tensors too.
"""

from collections.abc import Mapping
from pathlib import Path

from harness.engine.checkpoint.formats.beside import config_file, config_in, tokenizer_beside
from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    Tensors,
    without_wrappers,
)
from harness.engine.checkpoint.formats.weights import (
    fitted,
    is_optimizer_state,
    is_state_dict,
    state_dict,
)
from harness.errors import CheckpointError, short_reason

_LENGTH = 8  # bytes at the start of a safetensors file; a JSON object follows


class StateDict:
    """The weights of a transformers model without its config."""

    name = "state dict"
    options: Mapping[str, tuple[str, ...]] = {}
    takes_config = True

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a file is of safetensors, or a torch file of tensors or an optimizer's state."""
        content = candidate.pickle
        return _is_safetensors(candidate) or is_state_dict(content) or is_optimizer_state(content)

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """Read the tensors."""
        path = candidate.path
        if _is_safetensors(candidate):
            tensors = _from_safetensors(path)
        else:
            tensors = state_dict(candidate.pickle, path)
        config_path = config_file(options, path, "a bare state dict")
        config = config_in(config_path)
        tensors = fitted(without_wrappers(tensors, path), config, path)
        tokenizer = tokenizer_beside([path.parent, config_path.parent], options)
        return TensorCheckpoint(
            description=f"a state dict, with the config {config_path}",
            config=config,
            tensors=tensors,
            tokenizer=tokenizer.write,
            tokenizer_key=tokenizer.key,
        )

    def is_complete(self, path: Path) -> bool | None:
        """There is no marker."""
        return None


def _is_safetensors(candidate: Candidate) -> bool:
    start = candidate.start
    return start[_LENGTH : _LENGTH + 1] == b"{" and start[_LENGTH - 2 : _LENGTH] == b"\0\0"


def _from_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors: it is cut short or damaged "
            f"({short_reason(error)})"
        ) from error
