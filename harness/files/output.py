"""Files that a command writes: checked before anything is computed, replaced in one step."""

from pathlib import Path

from harness.errors import RecordError
from harness.files import atomic


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write_bytes` does; half of a surrogate pair becomes `?`."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of a file in one step, or raise a RecordError."""
    try:
        atomic.replace_content(path, data)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RecordError:
    """The error for a file that cannot be written."""
    return RecordError(
        f"cannot write {str(path)!r}: {error.strerror}; give a folder that can be written"
    )


def check_writable(folder: Path, option: str = "--out") -> None:
    """Raise a RecordError before anything is computed if a folder cannot be written to.

    The message names the option that gave the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(folder)
        made = atomic.temporary_path(folder)
        made.touch()
        made.unlink()
    except OSError as error:
        raise RecordError(
            f"cannot write to output folder {str(folder)!r}: {error.strerror}; give {option} "
            "a folder that can be written"
        ) from error


def check_file(path: Path, option: str) -> None:
    """Raise a RecordError before anything is computed if a file cannot be written.

    No new file is left behind. The message names the option that gave the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.resolve().unlink()  # keeps a link whose target does not exist yet
    except OSError as error:
        raise RecordError(
            f"cannot write {option} {str(path)!r}: {error.strerror}; name a file that can be "
            "written"
        ) from error
