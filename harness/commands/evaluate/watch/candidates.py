"""Find the files and folders below a folder that may be checkpoints, without opening any."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

CONFIGS = ("config.json", "adapter_config.json")
TRAINER_STATE = "trainer_state.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
_UNFINISHED = ("*.tmp", "*.part", "*.partial", "*.incomplete", "tmp-checkpoint-*")


class FileState(NamedTuple):
    """A file as far as it can be known without opening it."""

    name: str
    size: int
    modified: int  # ns
    inode: int


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder that may be a checkpoint."""

    path: Path
    files: tuple[FileState, ...]  # itself, or the files of the folder
    changed: float  # s since the epoch; nobody can set this time of a file
    is_folder: bool

    @property
    def state(self) -> str:
        """A digest of the names, sizes, times and inodes of the files."""
        return hashlib.sha256(repr(self.files).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def is_model_folder(self) -> bool:
        """Whether the folder looks as if `save_pretrained` had written it."""
        return self.is_folder and any(f.name in CONFIGS for f in self.files) and bool(self.weights)

    @property
    def weights(self) -> tuple[FileState, ...]:
        """The files of a folder that `save_pretrained` writes weights into."""
        return tuple(f for f in self.files if any(Path(f.name).match(w) for w in _WEIGHTS))

    def file(self, name: str) -> FileState | None:
        """The file of that name in the folder."""
        return next((file for file in self.files if file.name == name), None)

    def is_gone(self) -> bool:
        """Whether the file, or one of the folder's, is no longer there."""
        now = self._now()
        return now is None or not {f.name for f in self.files} <= {f.name for f in now.files}

    def has_changed(self) -> bool:
        """Whether a file that is still there has been written to or replaced."""
        now = self._now()
        before = {file.name: file for file in self.files}
        return now is not None and any(before.get(f.name, f) != f for f in now.files)

    def _now(self) -> "Found | None":
        return _folder(self.path)[0] if self.is_folder else _file(self.path)


def scan(root: Path, left_out: Collection[Path]) -> Iterator[Found]:
    """Every file and folder below a folder, a folder before its files; links are followed once.

    Args:
        root: the folder; it need not exist.
        left_out: folders that are not searched.
    """
    searched = {path.resolve() for path in left_out} - {root.resolve()}
    todo = [(root, False)]
    while todo:
        path, in_model = todo.pop()
        if path.resolve() in searched:
            continue
        searched.add(path.resolve())
        folder, subfolders = _folder(path)
        if folder is not None:
            is_model = folder.is_model_folder
            if is_model or not in_model:
                yield folder
            # Optimizer, scheduler and random state of such folders are files of their own.
            if not (is_model or in_model or folder.file(TRAINER_STATE)):
                names = (f.name for f in folder.files if not f.name.startswith("."))
                yield from filter(None, (_file(path / name) for name in names))
            in_model = is_model
        # Links come last, so that a folder goes by its own name.
        todo += [(sub, in_model) for sub in sorted(subfolders, key=Path.is_symlink, reverse=True)]


def _folder(path: Path) -> tuple[Found | None, list[Path]]:
    """A folder as a candidate, or None if it has no files; and its subfolders."""
    files: list[FileState] = []
    subfolders: list[Path] = []
    changed = 0.0
    try:
        entries = [(e, e.is_dir()) for e in sorted(path.iterdir(), reverse=True)]
    except OSError:  # it is gone, or cannot be read
        return None, []
    for entry, is_folder in entries:
        if any(entry.match(pattern) for pattern in _UNFINISHED):
            continue
        if is_folder:
            subfolders += [] if entry.name.startswith(".") else [entry]
        elif file := _file(entry):
            files += file.files
            changed = max(changed, file.changed)
    return (Found(path, tuple(files), changed, True) if files else None), subfolders


def _file(path: Path) -> Found | None:
    """A regular file as a candidate; None if it is gone or something else."""
    try:
        stat = path.stat()
    except OSError:
        return None
    if not S_ISREG(stat.st_mode):
        return None
    state = FileState(path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return Found(path, (state,), max(stat.st_mtime, stat.st_ctime), False)
