"""A `Source` -> rows: the original file, the hub, or the built-in sample.

Original files are looked for by name in the data folder and one folder below it. The hub is
asked only when the caller says so, for one file at a pinned commit. What was read, its checksum
and whether that is the published one go into the record.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from harness.core import Fields, Hub, Row, Source
from harness.errors import DataError, HarnessError, TaskError, in_one_line

MAX_FILE_BYTES = 1 << 30  # bytes of a file; ten times the largest benchmark's
CHUNK_BYTES = 1 << 20  # bytes read at once


@dataclass(frozen=True, slots=True)
class Where:
    """Which roads to take, in the order of the fields."""

    file: Path | None = None  # this file and no other
    sample: bool = False  # the built-in rows and no other
    folder: Path | None = None
    hub: bool = False  # where the folder has nothing


@dataclass(frozen=True, slots=True)
class Data:
    """Rows and where they came from."""

    rows: tuple[Row, ...]
    source_kind: str  # file, hub or sample
    name: str  # of the file, without its folder; or repository and path
    sha256: str  # of the file's bytes, as restored where the hub has parquet
    size: int  # bytes
    warnings: tuple[str, ...]  # what differs from the published data

    @property
    def published(self) -> bool:
        """Whether nothing speaks against these being the published rows."""
        return self.source_kind != "sample" and not self.warnings

    def facts(self) -> dict[str, Any]:
        """All but the rows themselves, for the record."""
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
    """All rows of a source.

    Raises:
        DataError: nothing is found on the roads allowed (says where each would find it), the
            file is empty or malformed, or, with `strict`, not the published one.
        TaskError: the source's own functions fail.
    """
    road, name, contents = _fetch(source, where)
    if not all(contents):
        raise DataError(f"{name} is empty; expected {source.title} ({source.origin})")
    fields = _parse(source, name, contents)
    if not fields:
        raise DataError(f"{name} has no rows; expected {source.title} ({source.origin})")
    content = b"".join(contents)
    digest = hashlib.sha256(content).hexdigest()
    # What a pinned commit of the hub holds is known; its restored bytes may be one split of many.
    known = source.sha256 if road == "file" else ()
    expected = source.rows if road != "sample" else None
    warnings = _differences(name, (digest, known), (len(fields), expected))
    if strict and warnings:
        raise DataError(f"{'; '.join(warnings)}; refused by --strict")
    rows = tuple(Row(i, f) for i, f in enumerate(fields))
    return Data(rows, road, name, digest, len(content), warnings)


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


def _differences(
    name: str, digest: tuple[str, tuple[str, ...]], rows: tuple[int, int | None]
) -> tuple[str, ...]:
    """What differs from the published data; each pair is what there is and what is published."""
    found = []
    if digest[1] and digest[0] not in digest[1]:
        found.append(
            f"{name} has sha256 {digest[0][:12]}..., the published file {digest[1][0][:12]}..."
        )
    if rows[1] is not None and rows[0] != rows[1]:
        found.append(f"{name} has {rows[0]} rows, the published data {rows[1]}")
    return tuple(found)


def load_pool(source: Source, where: Where, *, strict: bool = False) -> Data:
    """Rows to draw example pairs from: of the data folder or the hub, else the built-in ones.

    Raises:
        DataError: the file that is there is empty or malformed; with `strict`, it is not the
            published one, or there is none and the built-in rows were not asked for.
    """
    roads = replace(where, file=None)
    there = where.folder is not None and find_file(source, where.folder) is not None
    if there or strict or (where.hub and source.hub):
        return load(source, roads, strict=strict)
    return load(source, Where(sample=True))


def _fetch(source: Source, where: Where) -> tuple[str, str, tuple[bytes, ...]]:
    """The road taken, the file's name, and its bytes, those of its companion behind them."""
    if where.file is not None:
        return "file", where.file.name, _read_both(source, where.file)
    if where.sample:
        return "sample", source.sample, _sample(source)
    path = find_file(source, where.folder) if where.folder else None
    if path is not None:
        return "file", path.name, _read_both(source, path)
    if where.hub and source.hub:
        return "hub", f"{source.hub.repo}/{source.hub.file}", download(source.hub)
    raise DataError(missing(source, where))


def _sample(source: Source) -> tuple[bytes, ...]:
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


def _read_both(source: Source, path: Path) -> tuple[bytes, ...]:
    if source.companion is None:
        return (_read(path),)
    other = path.with_name(source.companion(path.name))
    if other == path or not other.is_file():
        raise DataError(
            f"{path.name} has half of every row; expected the other half beside it in "
            f"{source.companion(source.files[0])!r} or the like"
        )
    return _read(path), _read(other)


def find_file(source: Source, folder: Path) -> Path | None:
    """The first file that matches the source's patterns, in their order.

    A bare name is looked for in the folder and one below; `./name` in the folder alone;
    `sub/name` in that folder below it.

    Raises:
        DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {str(folder)!r} does not exist; give --data-dir a folder")
    for pattern in source.files:
        places = [pattern] if "/" in pattern else [pattern, f"*/{pattern}"]
        for place in places:
            found = sorted(p for p in folder.glob(place.removeprefix("./")) if p.is_file())
            if found:
                return found[0]
    return None


def missing(source: Source, where: Where) -> str:
    """One line that says where each road would find the rows."""
    names = " or ".join(name.removeprefix("./") for name in source.files)
    folder = f"in {str(where.folder)!r}" if where.folder else "in --data-dir (none was given)"
    hub = f"--hub ({source.hub.repo}, {source.hub.file}), or " if source.hub else ""
    return (
        f"no data for {source.title}: looked for {names} {folder}; get it from {source.origin}, "
        f"or use {hub}--sample for the built-in rows"
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _within(file, path.name)
    except OSError as error:
        raise DataError(
            f"cannot read {str(path)!r}: {error.strerror}; give --data-file a readable file"
        ) from error


def _within(file: BinaryIO, name: str) -> bytes:
    """All bytes of an open file.

    Raises:
        DataError: there are more than `MAX_FILE_BYTES`; no benchmark's file is so large.
    """
    chunks: list[bytes] = []
    left = MAX_FILE_BYTES
    # Not all at once: that would claim the memory of the whole limit beforehand.
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
    """The bytes of one file on the hub at its pinned commit; parquet is restored to the original.

    Two where the original is two files.

    Raises:
        DataError: it is neither reachable nor in the local cache.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(hub.repo, hub.file, repo_type="dataset", revision=hub.revision)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:140]
        raise DataError(
            f"the hub did not give {hub.file} of {hub.repo} at {hub.revision[:12]} "
            f"({type(error).__name__}: {reason}); or give --data-dir the original file"
        ) from error
    try:
        if hub.restore is None:
            return (Path(path).read_bytes(),)
        restored = hub.restore(_parquet(path))
        return restored if isinstance(restored, tuple) else (restored,)
    except KeyError as error:
        raise DataError(f"{hub.file} of {hub.repo} has no column {error}") from error
    except Exception as error:  # of pyarrow or datasets, on a damaged file in the cache
        raise DataError(
            f"{hub.file} of {hub.repo} cannot be read: {in_one_line(error)}; download it again"
        ) from error


def _parquet(path: str) -> Iterable[Fields]:
    """Rows of a local parquet file, streamed: nothing is prepared or copied on disk."""
    from datasets import load_dataset

    rows: Iterable[Fields] = load_dataset(
        "parquet", data_files={"rows": path}, split="rows", streaming=True
    )
    return rows
