"""The table of a gate's self-test: what it made of each candidate, at which cost."""

from collections.abc import Sequence

from harness.display.costs import duration
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.gate.self_test import Catch, Result


def show_self_test(results: Sequence[Result]) -> None:
    """Print one row per candidate, followed by one per score."""
    rows = table(
        "candidate", "score", "verdict", ">time", ">items", ">of all", ">would catch",
        optional=("of all",),
    )  # fmt: skip
    for found in results:
        stopped = found.stopped
        cost = (duration(stopped.seconds), *_items(stopped.used, stopped.of))
        rows.add_row(str(found.candidate), "", f"exit {found.exit}", *cost, "")
        for verdict in found.verdicts:
            key = (verdict.task, verdict.protocol, verdict.metric)
            rows.add_row(
                "",
                f"{verdict.task} {verdict.metric}",
                verdict.status,
                "",
                *_items(verdict.items, verdict.of),
                _catch(found.catches.get(key)),
            )
    OUT.print(rows)
    OUT.print(
        "would catch: the smallest loss that a test of all items shows with a probability of 90 %, "
        "if items differ as much as with this noise"
    )


def _items(used: int | None, of: int | None) -> tuple[str, str]:
    """How many items were used, and their share."""
    return (f"{used:,} of {of:,}", f"{used / of:.0%}") if of and used is not None else ("", "")


def _catch(found: Catch | None) -> str:
    if found is None or found.loss is None:
        return ""
    unit = "%" if found.unit.startswith("%") else found.unit
    return f"{found.loss:.2g} {unit}"
