"""Load the rows of a `Source`: from the original file, from the hub, or from the built-in sample.

The original file is looked for by name in the data folder and one folder below it. The hub is used
only on request, for one file at a pinned commit. The record states what was read, its checksum, and
whether that is the published one.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from harness.core import Fields, Hub, Row, Source
from harness.errors import DataError, HarnessError, TaskError, in_one_line

MAX_FILE_BYTES = 1 << 30  # ten times the largest benchmark's file
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Where:
    """Where to look for rows, in the order of the fields."""

    file: Path | None = None  # only this file
    sample: bool = False  # only the built-in rows
    folder: Path | None = None
    hub: bool = False  # if the folder has no matching file


@dataclass(frozen=True, slots=True)
class Data:
    """Rows and where they came from."""

    rows: tuple[Row, ...]
    source_kind: str  # file, hub or sample
    name: str  # of the file, without its folder; or repository and path
    sha256: str  # of the file's bytes, as restored if the hub has parquet
    size: int  # bytes
    warnings: tuple[str, ...]  # differences from the published data

    @property
    def published(self) -> bool:
        """Whether these are the published rows, as far as is known."""
        return self.source_kind != "sample" and not self.warnings

    def facts(self) -> dict[str, Any]:
        """Everything but the rows, for the record."""
        return {
            "source": self.source_kind,
            "name": self.name,
            "sha256": self.sha256,
            "bytes": self.size,
            "rows": len(self.rows),
            "published": self.published,
            "warnings": list(self.warnings),
        }


def load(source: Source, where: Where, *, strict: bool = False) -> Data:
    """Load all rows of a source.

    Raises:
        DataError: there is no file (the message says where to get it), it is empty or malformed,
            or, with `strict`, it is not the published one.
        TaskError: the source's own functions fail.
    """
    kind, name, contents = _fetch(source, where)
    if not all(contents):
        raise DataError(f"{name} is empty; expected {source.title} ({source.origin})")
    fields = _parse(source, name, contents)
    if not fields:
        raise DataError(f"{name} has no rows; expected {source.title} ({source.origin})")
    content = b"".join(contents)
    digest = hashlib.sha256(content).hexdigest()
    warnings = []
    # A file of the hub is pinned by its commit; its restored bytes may be one split of several.
    if kind == "file" and source.sha256 and digest not in source.sha256:
        warnings.append(
            f"{name} has sha256 {digest[:12]}..., the published file {source.sha256[0][:12]}..."
        )
    if kind != "sample" and source.rows is not None and len(fields) != source.rows:
        warnings.append(f"{name} has {len(fields)} rows, the published data {source.rows}")
    if strict and warnings:
        raise DataError(f"{'; '.join(warnings)}; refused by --strict")
    rows = tuple(Row(i, f) for i, f in enumerate(fields))
    return Data(rows, kind, name, digest, len(content), tuple(warnings))


def load_pool(source: Source, where: Where, *, strict: bool = False) -> Data:
    """Load rows for example pairs from the data folder or the hub, else the built-in ones.

    Raises:
        DataError: the file is empty or malformed; with `strict`, it is not the published one, or
            there is none and the built-in rows were not requested.
    """
    places = replace(where, file=None)
    has_file = where.folder is not None and find_file(source, where.folder) is not None
    if has_file or strict or (where.hub and source.hub):
        return load(source, places, strict=strict)
    return load(source, Where(sample=True))


def _parse(source: Source, name: str, contents: tuple[bytes, ...]) -> Sequence[Fields]:
    failed = f"{source.title} (package {source.package}): parse() failed on {name}"
    try:
        fields = source.parse(*contents)
    except DataError as error:
        raise DataError(f"{name} is not {source.title}: {error}") from None
    except HarnessError:
        raise
    except Exception as error:
        raise TaskError(f"{failed}: {in_one_line(error)}") from error
    if not isinstance(fields, Sequence) or not all(isinstance(row, Mapping) for row in fields):
        raise TaskError(f"{failed}: expected a list of mappings, got {str(fields)[:60]!r}")
    return fields


def _fetch(source: Source, where: Where) -> tuple[str, str, tuple[bytes, ...]]:
    """Kind of the source, name of the file, and the bytes of the file and of its companion."""
    if where.file is not None:
        return "file", where.file.name, _read_with_companion(source, where.file)
    if where.sample:
        return "sample", source.sample, _read_sample(source)
    path = find_file(source, where.folder) if where.folder else None
    if path is not None:
        return "file", path.name, _read_with_companion(source, path)
    if where.hub and source.hub:
        return "hub", f"{source.hub.repo}/{source.hub.file}", download(source.hub)
    names = " or ".join(name.removeprefix("./") for name in source.files)
    folder = f"in {str(where.folder)!r}" if where.folder else "in --data-dir (none was given)"
    hub = f"--hub ({source.hub.repo}, {source.hub.file}), or " if source.hub else ""
    raise DataError(
        f"no data for {source.title}: looked for {names} {folder}; get it from {source.origin}, "
        f"or use {hub}--sample for the built-in rows"
    )


def _read_sample(source: Source) -> tuple[bytes, ...]:
    names = [source.sample, *([source.companion(source.sample)] if source.companion else [])]
    try:
        folder = files(source.package)
        return tuple((folder / name).read_bytes() for name in names)
    except (OSError, ImportError) as error:
        raise DataError(
            f"the built-in sample {source.sample!r} of {source.title} is not in package "
            f"{source.package!r} ({type(error).__name__}); install the package again, or give "
            "--data-dir the original file"
        ) from error


def _read_with_companion(source: Source, path: Path) -> tuple[bytes, ...]:
    if source.companion is None:
        return (_read(path),)
    other = path.with_name(source.companion(path.name))
    if other == path or not other.is_file():
        raise DataError(
            f"{path.name} has half of every row; expected the other half next to it in "
            f"{source.companion(source.files[0])!r} or the like"
        )
    return _read(path), _read(other)


def find_file(source: Source, folder: Path) -> Path | None:
    """Find the first file that matches one of the source's patterns, in their order.

    A bare name is looked for in the folder and one below, `./name` in the folder alone, and
    `sub/name` in that folder below it.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {str(folder)!r} does not exist; give --data-dir a folder")
    for pattern in source.files:
        globs = [pattern.removeprefix("./")] if "/" in pattern else [pattern, f"*/{pattern}"]
        for glob in globs:
            if paths := sorted(p for p in folder.glob(glob) if p.is_file()):
                return paths[0]
    return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _read_limited(file, path.name)
    except OSError as error:
        raise DataError(
            f"cannot read {str(path)!r}: {error.strerror}; give --data-file a readable file"
        ) from error


def _read_limited(file: BinaryIO, name: str) -> bytes:
    """All bytes of an open file, read in chunks: one read with a limit would allocate the limit."""
    chunks: list[bytes] = []
    left = MAX_FILE_BYTES
    while chunk := file.read(CHUNK_BYTES):
        chunks.append(chunk)
        left -= len(chunk)
        if left < 0:
            raise DataError(
                f"{name} has more than {MAX_FILE_BYTES:,} bytes, and no benchmark's file is so "
                "large; give --data-file the original file"
            )
    return b"".join(chunks)


def download(hub: Hub) -> tuple[bytes, ...]:
    """Bytes of one file on the hub at its pinned commit, two if the original is two files.

    Parquet is restored to the original format.

    Raises:
        DataError: it is neither reachable nor in the local cache, or it is damaged.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(hub.repo, hub.file, repo_type="dataset", revision=hub.revision)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:140]
        raise DataError(
            f"the hub did not provide {hub.file} of {hub.repo} at {hub.revision[:12]} "
            f"({type(error).__name__}: {reason}); or give --data-dir the original file"
        ) from error
    try:
        if hub.restore is None:
            return (Path(path).read_bytes(),)
        restored = hub.restore(_parquet_rows(path))
        return restored if isinstance(restored, tuple) else (restored,)
    except KeyError as error:
        raise DataError(f"{hub.file} of {hub.repo} has no column {error}") from error
    except Exception as error:  # of pyarrow, on a damaged file in the cache
        raise DataError(
            f"{hub.file} of {hub.repo} cannot be read: {in_one_line(error)}; download it again"
        ) from error


def _parquet_rows(path: str) -> Iterator[Fields]:
    """Rows of a local parquet file, a batch in memory at a time.

    `datasets` would read them through Arrow's scanner, whose threads may abort the process when it
    ends (https://github.com/apache/arrow/issues/34314).
    """
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()
