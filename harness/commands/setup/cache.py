"""`harness cache`: show, prune or check the response cache."""

import time
from pathlib import Path

from harness.display import terminal
from harness.engine.cache.codec import check_any
from harness.engine.cache.store import CheckpointEntry, Store, default_folder
from harness.errors import UsageError


def open_store(folder: Path | None) -> Store:
    """The response cache in a folder, or in the user's cache folder."""
    terminal.start_logging()
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r}; expected one that --cache was given")
    return Store(folder or default_folder())


def prune(store: Store, older: float | None, above: int | None, checkpoint: str | None) -> None:
    """Drop answers by age in seconds, total size in bytes, or checkpoint."""
    if older is None and above is None and checkpoint is None:
        raise UsageError("prune what? give --older AGE, --above SIZE or --checkpoint ID")
    dropped = store.prune(
        before=None if older is None else time.time() - older,
        size=above,
        checkpoints=[entry.id for entry in _entries(store, checkpoint)] if checkpoint else (),
    )
    terminal.OUT.print(f"dropped {dropped:,} answers")


def check(store: Store) -> None:
    """Read every answer and drop damaged ones."""
    damaged = store.drop_damaged(lambda key, stored: check_any(stored.value))
    if damaged is None:  # a notice has reported what is wrong with the file
        return
    count = sum(entry.answers for entry in store.entries()) - (0 if store.writable else damaged)
    end = "were dropped" if store.writable else "cannot be dropped"
    terminal.OUT.print(f"{count:,} answers are sound, {damaged:,} damaged ones {end}")


def _entries(store: Store, checkpoint: str) -> list[CheckpointEntry]:
    entries = store.entries()
    chosen = [e for e in entries if e.name == checkpoint or e.key.weights.startswith(checkpoint)]
    if not chosen:
        names = ", ".join(f"{e.key.weights[:12]} ({e.name})" for e in entries) or "none"
        raise UsageError(f"the cache has nothing of checkpoint {checkpoint!r} (known: {names})")
    return chosen
