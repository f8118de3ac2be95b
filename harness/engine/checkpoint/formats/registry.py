"""Find the format of a checkpoint, and convert it once into the user's cache.

Other packages add formats through the entry points `harness.checkpoints`, each a `Format`.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.formats.format import Candidate, Format, ReadOptions
from harness.engine.checkpoint.formats.gguf import GGUF
from harness.engine.checkpoint.formats.gpt2.llmc import LLMC
from harness.engine.checkpoint.formats.gpt2.nanogpt import BuildNanoGPT, NanoGPT
from harness.engine.checkpoint.formats.nanochat.nanochat import NanoChat
from harness.errors import CheckpointError, in_one_line
from harness.files import atomic

log = logging.getLogger(__name__)

GROUP = "harness.checkpoints"
VERSION = 1  # raised with every change of a conversion that can change what is written
BUILT_IN: tuple[Format, ...] = (GGUF(), NanoGPT(), BuildNanoGPT(), LLMC(), NanoChat())


class Converted(NamedTuple):
    """A checkpoint as a folder that transformers can load."""

    folder: Path
    step: int | None
    options: Mapping[str, str]


def formats() -> list[Format]:
    """The built-in formats, then those of other packages.

    Raises:
        CheckpointError: one of those cannot be imported.
    """
    found = list(BUILT_IN)
    for point in entry_points(group=GROUP):
        try:
            found.append(point.load())
        except (Exception, SystemExit) as error:
            raise CheckpointError(
                f"checkpoint format {point.name!r} ({point.value}) cannot be imported: "
                f"{in_one_line(error)}"
            ) from error
    return found


def recognise(path: Path) -> Format | None:
    """The format of a file or folder; None if no format recognises it."""
    candidate = Candidate(path)
    return next((f for f in formats() if f.recognises(candidate)), None)


def convert(path: Path, options: ReadOptions) -> Converted | None:
    """The folder in the user's cache that a checkpoint converts to; None for an unknown format.

    Raises:
        CheckpointError: the checkpoint is damaged, an option is not one of its format, or the
            cache cannot be written.
    """
    candidate = Candidate(path)
    form = next((f for f in formats() if f.recognises(candidate)), None)
    if form is None:
        return None
    _check_options(form, options.options)
    opened = form.open(candidate, options)
    target = cache_root() / "converted" / f"{opened.key()}-{VERSION}"
    if target.is_dir():
        log.info("%s: %s", path, opened.description)
    else:
        log.warning("%s: %s; converting it, once", path, opened.description)
        write_once(opened.write, target)
    return Converted(target, opened.step, opened.options)


def _check_options(form: Format, options: Mapping[str, str]) -> None:
    for name, value in options.items():
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
        write(work)
        try:
            work.rename(target)  # atomic: another process may have been faster
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
