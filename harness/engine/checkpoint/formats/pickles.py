"""Read pickles of other programs without running anything in them.

A torch file is a zip archive of a pickle and the bytes of tensors; files of torch before 1.6 are
several pickles in a row. Both are read by torch's own restricted unpickler.
"""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import CheckpointError, short_reason

_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch
_NAME_LENGTH, _NAME = slice(26, 28), 30  # in the header of a zip archive's first file
_REFUSED_NAME = re.compile(r"GLOBAL (\S+)")
_MAX_PLAIN_BYTES = 1 << 28
# Larger files are mapped into memory. If a training run overwrites a mapped file in place, as
# nanoGPT does, the system ends this process. Files of ordinary size are therefore read.
_MAX_READ_BYTES = 2 << 30


class StoredConfig:
    """Stands for a config class of a training script; its values are in `__dict__`."""


_STUBS = ((StoredConfig, "__main__.GPTConfig"),)  # build-nanogpt


def read_torch_file(path: Path, start: bytes) -> Any | None:
    """The content of a torch file; None for another file. Tensors of large files are mapped.

    Args:
        path: the file.
        start: its first bytes, a thousand or so.

    Raises:
        CheckpointError: the file is damaged, or its pickle calls for more than tensors and plain
            values.
    """
    is_zip = start.startswith(_ZIP)
    if not (_is_torch_archive(start) if is_zip else start.startswith(_OLD_TORCH)):
        return None
    try:
        if is_zip:
            _refuse_compressed(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_STUBS)):
            warnings.simplefilter("ignore")
            mapped = is_zip and path.stat().st_size > _MAX_READ_BYTES
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise unreadable(path, error) from error
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise _refusal(path, error) from error


def read_plain_pickle(path: Path, stubs: Mapping[str, type] | None = None) -> Any:
    """The content of a pickle of plain values: numbers, texts, lists, dicts.

    Args:
        path: the file.
        stubs: classes that stand for named ones, such as `tiktoken.core.Encoding`.

    Raises:
        CheckpointError: the file is damaged, or it calls for any other class or function.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_PLAIN_BYTES + 1)
        if len(content) > _MAX_PLAIN_BYTES:
            raise CheckpointError(
                f"{path} has more than {_MAX_PLAIN_BYTES:,} bytes; expected the pickle of a "
                "vocabulary"
            )
        return _Plain(io.BytesIO(content), stubs or {}).load()
    except OSError as error:
        raise unreadable(path, error) from error
    except CheckpointError:
        raise
    except Exception as error:
        raise _refusal(path, error) from error


class _Plain(pickle.Unpickler):
    """Finds no class and no function but the given stubs."""

    def __init__(self, file: io.BytesIO, stubs: Mapping[str, type]) -> None:
        super().__init__(file)
        self._stubs = stubs

    def find_class(self, module: str, name: str) -> type:
        """The stub for a class."""
        full = f"{module}.{name}"
        if full not in self._stubs:
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        return self._stubs[full]


def _is_torch_archive(start: bytes) -> bool:
    """Whether the first file of a zip archive is the pickle that torch writes first."""
    length = int.from_bytes(start[_NAME_LENGTH], "little")
    name = start[_NAME : _NAME + length]
    return name == b"data.pkl" or name.endswith(b"/data.pkl")


def _refuse_compressed(path: Path) -> None:
    """Refuse compressed parts: their bytes would be mapped as the numbers of a tensor."""
    with zipfile.ZipFile(path) as archive:
        packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"{path} is a compressed archive ({packed[0]}); expected a file as torch.save writes "
            "it: pack it again without compression"
        )


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """What is said about a file that cannot be read."""
    return CheckpointError(f"{path} cannot be read ({error.strerror or type(error).__name__})")


def _refusal(path: Path, error: Exception) -> CheckpointError:
    if refused := _REFUSED_NAME.search(str(error)):
        return CheckpointError(
            f"{path} is a pickle that calls for {refused[1][:80]}, which was not run; expected "
            "only tensors and plain values, such as those of a state_dict"
        )
    return CheckpointError(
        f"{path} cannot be read: it is cut short or damaged ({type(error).__name__}: "
        f"{short_reason(error)})"
    )
