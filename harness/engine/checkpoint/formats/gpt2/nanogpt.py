"""The checkpoints of nanoGPT (`ckpt.pt`) and build-nanogpt (`model_00050.pt`)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    newest,
)
from harness.engine.checkpoint.formats.gpt2.convert import (
    ACTIVATIONS,
    Source,
    open_checkpoint,
    read_sizes,
    read_state,
)
from harness.engine.checkpoint.formats.pickles import StoredConfig
from harness.errors import CheckpointError

MODEL_OPTIONS: Mapping[str, tuple[str, ...]] = {"activation": ACTIVATIONS, "vocabulary": ()}


class NanoGPT:
    """`ckpt.pt` of nanoGPT, or the folder that has one.

    The file does not say with which GELU the model was trained. In nanoGPT it is the exact one
    since 2023-05-17; before, it was the tanh approximation of GPT-2.
    """

    name = "nanoGPT"
    options = MODEL_OPTIONS

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a torch file has a model and nanoGPT's settings of one."""
        return self._content(candidate) is not None

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """The model in the file; the state of the optimizer plays no part."""
        path, content = self._content(candidate) or _none(candidate)
        config = content.get("config")
        dataset = config.get("dataset") if isinstance(config, Mapping) else None
        source = Source(
            program=self.name,
            path=path,
            state=read_state(path, content["model"]),
            sizes=read_sizes(path, content["model_args"]),
            step=_step(content.get("iter_num")),
            dataset=dataset if isinstance(dataset, str) else None,
        )
        opened = _open(source, options, activation="gelu")
        if "activation" in options.options:
            return opened
        note = "activation: gelu (nanoGPT before 2023-05-17: --model-option activation=gelu_new)"
        return replace(opened, description=f"{opened.description}; {note}")

    def is_complete(self, path: Path) -> bool | None:
        """There is no marker."""
        return None

    @staticmethod
    def _content(candidate: Candidate) -> tuple[Path, Mapping[str, Any]] | None:
        """The file, which may be in a folder, and what is in it; None for another format."""
        inside = candidate.path / "ckpt.pt"
        if inside.is_file():
            candidate = Candidate(inside)
        content = _with_model(candidate.pickle)
        settings = content.get("model_args")
        # llama2.c writes the same keys, but other settings.
        if not isinstance(settings, Mapping) or "n_embd" not in settings:
            return None
        return candidate.path, content


class BuildNanoGPT:
    """`model_00050.pt` of build-nanogpt, or a folder with several, of which the newest counts."""

    name = "build-nanogpt"
    options = MODEL_OPTIONS

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a torch file has a model and a pickled `GPTConfig`."""
        return self._content(candidate) is not None

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """The model in the file."""
        path, content = self._content(candidate) or _none(candidate)
        source = Source(
            program=self.name if path == candidate.path else f"{self.name} ({path.name})",
            path=path,
            state=read_state(path, content["model"]),
            sizes=read_sizes(path, vars(content["config"])),
            step=_step(content.get("step")),
        )
        return _open(source, options, activation="gelu_new")

    def is_complete(self, path: Path) -> bool | None:
        """There is no marker."""
        return None

    @staticmethod
    def _content(candidate: Candidate) -> tuple[Path, Mapping[str, Any]] | None:
        """The file, the newest of a folder, and what is in it; None for another format."""
        if (found := newest(candidate.path, r"model_(\d+)\.pt")) is not None:
            candidate = Candidate(found)
        content = _with_model(candidate.pickle)
        if not isinstance(content.get("config"), StoredConfig):
            return None
        return candidate.path, content


def _with_model(content: Any) -> Mapping[str, Any]:
    """The content of a torch file if it has a state_dict named `model`, else nothing."""
    has_model = isinstance(content, Mapping) and isinstance(content.get("model"), Mapping)
    return content if has_model else {}


def _none(candidate: Candidate) -> Any:
    raise CheckpointError(f"{candidate.path} has changed since it was recognised; try again")


def _step(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _open(source: Source, options: ReadOptions, *, activation: str) -> TensorCheckpoint:
    """The checkpoint with the user's model options; `activation` is the format's default."""
    chosen = options.options.get("activation", activation)
    rows = source.sizes.rows
    stated = options.options.get("vocabulary", str(rows))
    if not stated.isdecimal() or not 0 < int(stated) <= rows:
        raise CheckpointError(
            f"--model-option vocabulary={stated}: expected how many of the {rows:,} rows of the "
            "embedding count"
        )
    opened = open_checkpoint(source, options, chosen, int(stated))
    return replace(opened, options={"activation": chosen, "vocabulary": str(int(stated))})
