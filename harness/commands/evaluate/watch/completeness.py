"""Which of the checkpoints below a folder have been written completely.

The program that writes a checkpoint often marks its end: transformers' Trainer writes
trainer_state.json last, and formats know the markers of their programs (`Format.is_complete`).
Without a marker, a checkpoint is complete when it has not changed for a while.
"""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.evaluate.watch.candidates import TRAINER_STATE, Found, scan
from harness.errors import CheckpointError
from harness.files import strict_json

if TYPE_CHECKING:
    from harness.engine.checkpoint.formats.format import Format

STABLE = "STABLE"  # a file that prime-rl writes when a folder is complete
_INDEX = (".safetensors.index.json", ".bin.index.json")


@dataclass(slots=True)
class _Seen:
    """A file or folder in one state, from poll to poll."""

    found: Found
    since: float  # monotonic time of the poll that found it in this state first
    polls: int = 0
    looked: bool = False  # whether its content has been looked at
    form: "Format | None" = None
    is_damaged: bool = False
    judged: bool = False  # whether it has been taken for a checkpoint

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is known to be one, readable or not."""
        return self.found.is_model_folder or self.form is not None or self.is_damaged

    @property
    def form_name(self) -> str:
        """The name of the format; empty where there is none."""
        return self.form.name if self.form else ""

    def look(self, ignored: Collection[str]) -> None:
        """Ask the formats, once per state of a file."""
        from harness.engine.checkpoint.formats import registry

        self.looked = True
        try:
            form = registry.recognise(self.found.path)
            self.form = form if form and form.name not in ignored else None
        except OSError:  # it has just been deleted, or will change
            self.looked = False
        except CheckpointError:  # of a folder, it is one of its files
            self.is_damaged = not self.found.is_folder


@dataclass(slots=True)
class Poll:
    """What a look at the folder has found."""

    complete: list[Found] = field(default_factory=list)
    settling: list[Path] = field(default_factory=list)  # have no marker and changed a moment ago
    unmarked: list[Path] = field(default_factory=list)  # lack parts, or their program's marker
    deleted: list[Path] = field(default_factory=list)  # checkpoints since the last poll
    ignored: list[Path] = field(default_factory=list)  # that have been looked at just now
    next_in: float | None = None  # s until one of those that wait may be complete


@dataclass(slots=True)
class Folder:
    """A folder that fills with checkpoints.

    Args:
        root: the folder.
        settle: seconds without a change after which a checkpoint without a marker is complete.
        once: whether there is only one poll, so that the time of a change has to be read from the
            file system.
        left_out: folders that are not searched.
        ignored: names of formats whose files are no checkpoints by themselves.
    """

    root: Path
    settle: float
    once: bool
    left_out: Collection[Path]
    ignored: Collection[str] = ()
    _seen: dict[Path, _Seen] = field(default_factory=dict)

    def poll(self) -> Poll:
        """Look at every file and folder, and into those that have changed and settled."""
        poll, now = Poll(), time.monotonic()
        before, self._seen = self._seen, {}
        for found in scan(self.root, self.left_out):
            seen = before.pop(found.path, None)
            if seen is None or seen.found.state != found.state:
                seen = _Seen(found, now)
            seen.polls += 1
            self._seen[found.path] = seen
        poll.deleted = [path for path, seen in before.items() if seen.judged]
        for seen in reversed(self._seen.values()):  # files before their folder
            self._look(seen, poll)
        for seen in self._seen.values():
            if seen.is_checkpoint and not self._is_covered(seen):
                self._judge(seen, now, poll)
        return poll

    def _look(self, seen: _Seen, poll: Poll) -> None:
        """Look into what has not changed since the last poll, and into folders of such files."""
        if seen.found.is_model_folder or seen.looked:
            return
        if seen.polls > 1 or self.once or any(file.looked for file in self._files(seen)):
            seen.look(self.ignored)
            if not seen.is_checkpoint and not seen.found.is_folder:
                poll.ignored.append(seen.found.path)
        elif not seen.found.is_folder:
            poll.next_in = min(self.settle, poll.next_in or self.settle)

    def _is_covered(self, seen: _Seen) -> bool:
        """Whether a file is a part of its folder, or a folder is only the place of its files.

        A folder with a file for every step is recognised by the format of the files.
        """
        if seen.found.is_model_folder:
            return False
        if seen.found.is_folder:
            return any(f.form_name == seen.form_name for f in self._files(seen) if f.is_checkpoint)
        folder = self._seen.get(seen.found.path.parent)
        is_part = folder is not None and folder.form_name not in ("", seen.form_name)
        return is_part and not (folder and self._is_covered(folder))

    def _files(self, folder: _Seen) -> list[_Seen]:
        """The files of a folder, as far as they are seen on their own."""
        if not folder.found.is_folder:
            return []
        paths = (folder.found.path / file.name for file in folder.found.files)
        return [self._seen[path] for path in paths if path in self._seen]

    def _judge(self, seen: _Seen, now: float, poll: Poll) -> None:
        """Put a checkpoint where it belongs."""
        seen.judged = True
        marked = _is_marked(seen)
        left = self._unsettled(seen, now)
        if marked or (marked is None and not left):
            poll.complete.append(seen.found)
        elif marked is None:
            poll.next_in = min(left, poll.next_in or left)
            poll.settling.append(seen.found.path)
        elif self.once or not left:
            poll.unmarked.append(seen.found.path)

    def _unsettled(self, seen: _Seen, now: float) -> float:
        """The seconds until something without a marker counts as complete; 0 if it does."""
        if self.once:
            return max(0.0, self.settle - (time.time() - seen.found.changed))
        return max(0.0 if seen.polls > 1 else 1e-3, self.settle - (now - seen.since))


def _is_marked(seen: _Seen) -> bool | None:
    """Whether the program that wrote a checkpoint says that it is complete; None: it says nothing.

    A damaged file says nothing, so that it is given time to be completed.
    """
    found = seen.found
    if found.is_folder and found.file(STABLE):
        return True
    if seen.form is not None:
        return seen.form.is_complete(found.path)
    return _model_folder_is_marked(found) if found.is_model_folder else None


def _model_folder_is_marked(found: Found) -> bool | None:
    """Whether all shards and the Trainer's last file are there.

    A last file that is older than the weights is that of the checkpoint before.
    """
    names = {file.name for file in found.files}
    if any(shard not in names for shard in _shards(found)):
        return False
    last = found.file(TRAINER_STATE)
    if last and all(weights.modified <= last.modified for weights in found.weights):
        return True
    return None


def _shards(found: Found) -> Iterator[str]:
    """The names of the files over which the weights are divided."""
    for file in found.files:
        if file.name.endswith(_INDEX):
            try:
                index = strict_json.loads((found.path / file.name).read_bytes())
                yield from map(str, index["weight_map"].values())
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # loading it will say why
