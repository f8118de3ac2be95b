"""What a checkpoint leaves to files beside it: the config of transformers, and a tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.formats.format import ReadOptions
from harness.engine.checkpoint.formats.gpt2.tokenizer_files import (
    TokenizerFiles,
    given_later,
    tokenizer_in,
)
from harness.engine.checkpoint.formats.pickles import unreadable
from harness.engine.checkpoint.from_pretrained import one_line_errors
from harness.errors import CheckpointError, clipped_repr, short_reason
from harness.files import strict_json


def config_file(options: ReadOptions, path: Path, what: str) -> Path:
    """The config.json of a checkpoint: the one in its folder, or the one that the user names.

    `what` the checkpoint is, for the message if there is none.

    Raises:
        CheckpointError: there is none, or there are two.
    """
    own = path / "config.json"
    if options.config_file is None and not own.is_file():
        raise CheckpointError(
            f"{path} is {what}, which does not say how its model is built; give its config.json "
            "of transformers with --model-config FILE"
        )
    if options.config_file is not None and own.is_file():
        raise CheckpointError(
            f"{path} has a config.json of its own, so --model-config {options.config_file} has no "
            "effect; leave it out"
        )
    return options.config_file or own


def config_in(file: Path) -> Any:
    """The transformers config in a config.json, without code of its own."""
    from transformers import CONFIG_MAPPING

    try:
        fields = strict_json.loads(file.read_bytes(), allow_nan=True)
    except OSError as error:
        raise unreadable(file, error) from error
    except ValueError as error:
        raise CheckpointError(
            f"{file} is not JSON ({short_reason(error)}); expected the config.json "
            "of a transformers model"
        ) from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{file}: transformers has no model_type {clipped_repr(kind)}; expected "
            "the config.json of a transformers model"
        )
    with one_line_errors(str(file)):
        return CONFIG_MAPPING[kind].from_dict(fields)


def tokenizer_beside(folders: Sequence[Path], options: ReadOptions) -> TokenizerFiles:
    """The tokenizer in the first of some folders that has one.

    Raises:
        CheckpointError: none has one, and the user names none.
    """
    if options.tokenizer is not None:
        return given_later(options.tokenizer)
    if found := next(filter(None, map(tokenizer_in, folders)), None):
        return found
    places = " or ".join(str(folder) for folder in folders)
    raise CheckpointError(
        f"there is no tokenizer in {places}; give one with --tokenizer NAME (a folder, a "
        "tokenizer.json, or a model on the hub)"
    )
