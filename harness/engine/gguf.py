"""GGUF file -> a folder of safetensors and tokenizer in the user cache, converted once.

transformers reads GGUF by dequantising every tensor, 20 seconds and more for a small model. The
result is kept under the file's digest, so that the next start loads plain safetensors.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from harness import safe_files
from harness.engine.digest import cache_root, file_digest
from harness.errors import CheckpointError

log = logging.getLogger(__name__)


def converted(path: Path) -> Path:
    """The folder that holds the converted model, made now if need be.

    Raises:
        CheckpointError: the file is no GGUF model that transformers knows, or the package
            `gguf` is missing.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'")
    target = cache_root() / "gguf" / file_digest(path)
    if target.is_dir():
        return target
    log.warning("converting %s, once; it takes about half a minute", path.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        safe_files.sweep(target.parent, "converting-????????")  # as older versions named them
        prefix = f"converting-{safe_files.mark()}-"
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    except OSError as error:
        raise CheckpointError(
            f"cannot write the converted model to {target.parent} ({error.strerror}); "
            "set HARNESS_CACHE to a folder that can be written"
        ) from error
    try:
        _convert(path, work)
        try:
            work.rename(target)  # atomic: another process may have been faster
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _convert(path: Path, work: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = os.fspath(path.parent.resolve()), path.name
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
    except ImportError as error:
        raise CheckpointError(
            f"reading {path.name} needs the package gguf; pip install 'zero-shot-harness[demo]' "
            f"({error.__class__.__name__})"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: {type(error).__name__}: {error}"
        ) from error
    # A model read from GGUF refuses save_pretrained while its config says it is quantised.
    config = type(model.config).from_dict(model.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(work)
    tokenizer.save_pretrained(work)
