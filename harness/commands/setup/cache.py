"""What `harness cache` does with the store of answers: show, prune, check."""

import time
from pathlib import Path

from harness.display import costs, terminal
from harness.engine.cache.codec import check_any
from harness.engine.cache.store import CheckpointEntry, Store, default_folder
from harness.errors import UsageError


def open_store(folder: Path | None) -> Store:
    """The store in a folder, or the user's own.

    Raises:
        UsageError: the folder does not exist.
    """
    terminal.start_logging()
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r}; expected one that --cache was given")
    return Store(folder or default_folder())


def show(store: Store) -> None:
    """What there is of each checkpoint."""
    costs.show_holdings(store.path, store.entries())


def prune(
    store: Store,
    older: float | None = None,
    above: int | None = None,
    checkpoint: str | None = None,
) -> None:
    """Drop answers by age in seconds, size in bytes, or checkpoint.

    Raises:
        UsageError: none of them is given, or nothing is stored of the checkpoint.
    """
    if older is None and above is None and checkpoint is None:
        raise UsageError("prune what? give --older AGE, --above SIZE or --checkpoint ID")
    gone = store.prune(
        before=None if older is None else time.time() - older,
        size=above,
        checkpoints=[h.id for h in _named(store, checkpoint)] if checkpoint else (),
    )
    terminal.OUT.print(f"dropped {gone:,} answers", markup=False)


def check(store: Store) -> None:
    """Read every answer; those that are damaged go."""
    damaged = store.damaged(lambda key, stored: check_any(stored.value))
    if damaged is not None:  # else a notice has said what became of the file
        count = sum(holding.answers for holding in store.entries())
        done = "damaged ones were dropped"
        if not store.writing:
            count, done = count - damaged, "damaged ones cannot be dropped"
        terminal.OUT.print(f"{count:,} answers are sound, {damaged:,} {done}")


def _named(store: Store, checkpoint: str) -> list[CheckpointEntry]:
    """The checkpoints of a name, or whose digest begins so."""
    holdings = store.entries()
    found = [h for h in holdings if h.name == checkpoint or h.key.weights.startswith(checkpoint)]
    if not found:
        known = ", ".join(f"{h.key.weights[:12]} ({h.name})" for h in holdings) or "none"
        raise UsageError(f"nothing is stored of checkpoint {checkpoint!r} (known: {known})")
    return found
