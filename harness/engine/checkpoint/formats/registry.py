"""Find the format of a checkpoint, and convert it once into the user's cache."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.formats.dcp import DCP
from harness.engine.checkpoint.formats.format import Candidate, Format, ReadOptions
from harness.engine.checkpoint.formats.gguf import GGUF
from harness.engine.checkpoint.formats.gpt2.llmc import LLMC
from harness.engine.checkpoint.formats.gpt2.nanogpt import BuildNanoGPT, NanoGPT
from harness.engine.checkpoint.formats.litgpt.folder import LitGPT
from harness.engine.checkpoint.formats.nanochat.nanochat import NanoChat
from harness.engine.checkpoint.formats.plugins import plugin_formats
from harness.engine.checkpoint.formats.state_dict import StateDict
from harness.engine.checkpoint.formats.weights import described
from harness.errors import CheckpointError
from harness.files import atomic

log = logging.getLogger(__name__)

LOCK_SECONDS = 120.0
VERSION = 1  # raised with every change of a conversion that can change what is written
BUILT_IN: tuple[Format, ...] = (
    GGUF(), NanoGPT(), BuildNanoGPT(), LLMC(), NanoChat(), LitGPT(), DCP(),
)  # fmt: skip
LAST = StateDict()  # recognises files of other formats, too, so it comes after those of plugins


class Converted(NamedTuple):
    """A checkpoint as a folder that transformers can load."""

    folder: Path
    step: int | None
    options: Mapping[str, str]


def recognise(path: Path) -> Format | None:
    """The format of a file or folder; None if no format recognises it.

    Raises:
        CheckpointError: it is damaged, or it is of no built-in format and a plugin is faulty.
    """
    return _format_of(Candidate(path))


def _format_of(candidate: Candidate) -> Format | None:
    built_in = next((form for form in BUILT_IN if form.recognises(candidate)), None)
    if built_in:
        return built_in
    return next((form for form in _other_formats() if form.recognises(candidate)), None)


def _other_formats() -> list[Format]:
    """The formats of other packages, and the last one.

    They are imported only for what no built-in format recognises, so a faulty one does not stand
    in the way of other checkpoints.
    """
    return [*plugin_formats([form.name for form in (*BUILT_IN, LAST)]), LAST]


def unknown(path: Path) -> CheckpointError:
    """What is said about a file of no known format."""
    if path.suffix == ".py":
        return CheckpointError(
            f"{path} is a Python file; name the function in it that returns the model: "
            f"--model {path}:FUNCTION"
        )
    candidate = Candidate(path)
    content = candidate.pickle
    what = f"begins with {candidate.start[:4]!r}" if content is None else f"is {described(content)}"
    known = ", ".join(form.name for form in (*BUILT_IN, *_other_formats()))
    return CheckpointError(f"{path} is not a checkpoint of a known format ({known}): it {what}")


def convert(path: Path, options: ReadOptions) -> Converted | None:
    """The folder in the user's cache that a checkpoint converts to; None for an unknown format.

    Raises:
        CheckpointError: the checkpoint is damaged, an option is not one of its format, or the
            cache cannot be written.
    """
    candidate = Candidate(path)
    form = _format_of(candidate)
    if form is None:
        return None
    _check_options(form, options)
    opened = form.open(candidate, options)
    key = opened.key()
    target = cache_root() / "converted" / f"{key}-{VERSION}"

    def write(folder: Path) -> None:
        opened.write(folder)
        if opened.key() != key:  # nanoGPT writes each checkpoint over the last one
            raise CheckpointError(f"{path} has changed while it was read; try again")

    if target.is_dir():
        log.info("%s: %s", path, opened.description)
    else:
        log.warning("%s: %s; converting it, once", path, opened.description)
        write_once(write, target)
    return Converted(target, opened.step, opened.options)


def _check_options(form: Format, options: ReadOptions) -> None:
    """Refuse what the format would not read."""
    if options.config_file is not None and not getattr(form, "takes_config", False):
        raise CheckpointError(
            f"--model-config {options.config_file}: a checkpoint of the format {form.name} has a "
            "config of its own; leave it out"
        )
    for name, value in options.options.items():
        if name not in form.options:
            known = ", ".join(form.options) or "none"
            raise CheckpointError(
                f"--model-option {name}={value}: {form.name} has no such option (it has: {known})"
            )
        choices = form.options[name]
        if choices and value not in choices:
            raise CheckpointError(
                f"--model-option {name}={value}: expected one of {', '.join(choices)}"
            )


def write_once(write: Callable[[Path], None], target: Path) -> None:
    """Write a folder of the cache completely or not at all; leave one that is there.

    Raises:
        CheckpointError: the cache cannot be written.
    """
    if target.is_dir():
        return
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
        # Another process that converts the same checkpoint is waited for.
        with atomic.locked(target.parent, timeout=LOCK_SECONDS):
            if not target.is_dir():
                write(work)
                try:
                    work.rename(target)
                except OSError:  # where there are no locks, another process may have been faster
                    if not target.is_dir():
                        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
