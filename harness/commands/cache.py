"""What `harness cache` does with the store of answers: show, prune, check."""

import re
import time
from pathlib import Path

from harness.display import costs, terminal
from harness.engine.answer_bytes import check_any
from harness.engine.store import Holding, Store, default_folder
from harness.errors import UsageError

_UNITS = {"s": 1, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


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
    costs.show_holdings(store.path, store.holdings())


def prune(
    store: Store, older: str | None = None, above: str | None = None, checkpoint: str | None = None
) -> None:
    """Drop answers by age, size or checkpoint.

    Raises:
        UsageError: none of them is given, or one cannot be read.
    """
    if older is checkpoint is above is None:
        raise UsageError("prune what? give --older AGE, --above SIZE or --checkpoint ID")
    gone = store.prune(
        before=time.time() - _seconds(older) if older else None,
        size=_bytes(above) if above else None,
        checkpoints=[h.id for h in _named(store, checkpoint)] if checkpoint else (),
    )
    terminal.OUT.print(f"dropped {gone:,} answers", markup=False)


def check(store: Store) -> None:
    """Read every answer; those that are damaged go."""
    damaged = store.damaged(lambda key, stored: check_any(stored.value))
    if damaged is not None:  # else a notice has said what became of the file
        count = sum(holding.answers for holding in store.holdings())
        done = "damaged ones were dropped"
        if not store.writing:
            count, done = count - damaged, "damaged ones cannot be dropped"
        terminal.OUT.print(f"{count:,} answers are sound, {damaged:,} {done}")


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([shdw])", age.lower())
    if not match:
        raise UsageError(f"--older {age!r}: expected a number and s, h, d or w, such as 30d")
    return float(match[1]) * _UNITS[match[2]]


def _bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)b?", size.lower())
    if not match:
        raise UsageError(f"--above {size!r}: expected a number and k, M, G or T, such as 2G")
    return int(float(match[1]) * _SIZES[match[2]])


def _named(store: Store, checkpoint: str) -> list[Holding]:
    """The checkpoints of a name, or whose digest begins so."""
    holdings = store.holdings()
    found = [
        h for h in holdings if h.name == checkpoint or h.producer.weights.startswith(checkpoint)
    ]
    if not found:
        known = ", ".join(f"{h.producer.weights[:12]} ({h.name})" for h in holdings) or "none"
        raise UsageError(f"nothing is stored of checkpoint {checkpoint!r} (known: {known})")
    return found
