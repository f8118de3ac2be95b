"""Logs of inspect_ai as parsed JSON: a header, and the samples.

A log is one JSON object in a `.json` file, or an `.eval` file: a ZIP file, compressed by zstandard
since 0.3.206, with `header.json` and one `samples/<id>_epoch_<n>.json` per sample and epoch
(`inspect_ai/log/_recorders/eval.py` at 0.3.285). An unfinished one has only `_journal/start.json`.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from harness.errors import RecordError
from harness.files import strict_json
from harness.records.readers.reported import Results

SUFFIX = ".eval"
_ZSTANDARD = 93  # compression method; the standard library reads it since Python 3.14
_LOCAL_HEADER = struct.Struct("<26xHH")  # ends in the lengths of the name and the extra field


def read_header(path: Path) -> Results:
    """All of an `.eval` file but its samples."""
    with _opened(path) as (file, archive):
        for name in ("header.json", "_journal/start.json"):
            if name in archive.NameToInfo:
                value = _parsed(file, archive, archive.NameToInfo[name])
                if isinstance(value, dict):
                    return {"status": "started", **value}
        raise BadZipFile("it has no header.json")


def read_samples(path: Path, results: Results) -> list[Mapping[str, Any]]:
    """The samples of a log, without what is not needed here, which may be large."""
    if path.suffix != SUFFIX:
        return [_needed(sample) for sample in results.get("samples") or ()]
    with _opened(path) as (file, archive):
        return [
            _needed(_parsed(file, archive, info))
            for name, info in archive.NameToInfo.items()
            if name.startswith("samples/")
        ]


def _needed(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in sample.items() if name not in _LARGE}


_LARGE = ("messages", "events", "events_data", "timelines", "store", "metadata", "error_retries")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], ZipFile]]:
    """The file and its directory; whatever is wrong inside is one RecordError."""
    try:
        with path.open("rb") as file, ZipFile(file) as archive:
            yield file, archive
    except (
        BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error
    ) as error:  # fmt: skip
        raise RecordError(
            f"{str(path)!r} is damaged or not a log of inspect_ai ({error})"
        ) from error
    except OSError as error:
        raise RecordError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def _parsed(file: IO[bytes], archive: ZipFile, info: ZipInfo) -> Any:
    text = _unpacked(file, info) if info.compress_type == _ZSTANDARD else archive.read(info)
    return strict_json.loads(text, allow_nan=True, allow_surrogates=True)


def _unpacked(file: IO[bytes], info: ZipInfo) -> bytes:
    """The content of a member that is compressed by zstandard."""
    import pyarrow as pa

    file.seek(info.header_offset)
    lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    file.seek(sum(lengths), 1)
    packed = pa.py_buffer(file.read(info.compress_size))
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        content = bytes(stream.read())
    if zlib.crc32(content) != info.CRC:
        raise BadZipFile(f"{info.filename} has another checksum")
    return content
