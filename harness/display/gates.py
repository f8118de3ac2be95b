"""The table of a gate, which grows while it runs, and that of its self-test."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.live import Live

from harness.analysis.check import Verdict, all_warnings
from harness.display.costs import duration
from harness.display.layout import FittedTable, table
from harness.display.terminal import ERR, OUT
from harness.gate.evidence import in_a_cell
from harness.gate.loop import Gate, Stopped
from harness.gate.self_test import Catch, Result
from harness.report.number_format import number, signed


class GateView:
    """Shows a gate while it runs: a live table, or a line for each verdict without a terminal."""

    def __init__(self, gate: Gate, live: Live | None) -> None:
        self._gate, self._live = gate, live
        self._seen = 0

    def update(self) -> None:
        """Show what the latest slice has changed."""
        if self._live:
            self._live.update(verdict_table(self._gate, self._gate.verdicts.all()), refresh=True)
            return
        final = list(self._gate.verdicts.found.values())
        for verdict in final[self._seen :]:
            ERR.print(_line(verdict))
        self._seen = len(final)


def _line(verdict: Verdict) -> str:
    """A verdict on one line, with what it rests on."""
    line = f"{verdict.task} {verdict.metric}: {verdict.status}, {verdict.reason}"
    if verdict.items is None or verdict.of is None:
        return line
    return f"{line}; {verdict.evidence}; {verdict.items:,} of {verdict.of:,} items"


@contextmanager
def view(gate: Gate) -> Iterator[GateView]:
    """A view of a gate on standard error; the live table vanishes at the end."""
    if not ERR.is_terminal:
        yield GateView(gate, None)
        return
    with Live(console=ERR, transient=True, auto_refresh=False) as live:
        yield GateView(gate, live)


def verdict_table(gate: Gate, verdicts: Sequence[Verdict]) -> FittedTable:
    """One row per rule: the verdict, the score in both runs, and the evidence."""
    rows = table(
        "verdict", "benchmark", "score", ">baseline", ">now", ">loss", "evidence", ">items",
        optional=("baseline", "evidence"),
    )  # fmt: skip
    scores = {score.key: score for benchmark in gate.benchmarks for score in benchmark.scores}
    for verdict in verdicts:
        score = scores.get((verdict.task, verdict.protocol, verdict.metric))
        waiting = verdict.status == "undecided" and gate.stopped is None
        rows.add_row(
            "" if waiting else verdict.title,
            verdict.task,
            verdict.metric,
            *_values(verdict),
            in_a_cell(verdict.p, score),
            f"{verdict.items:,} of {verdict.of:,}" if verdict.of else "",
        )
    return rows


def _values(verdict: Verdict) -> tuple[str, str, str]:
    """Baseline, now, and the loss with its margin."""
    if verdict.score is None:
        return "", "", ""
    score, d = verdict.score, verdict.score.difference
    loss = -d.value if score.higher_is_better else d.value
    cell = signed(loss, score.unit)
    if verdict.margin is not None:
        cell += f" of {number(verdict.margin, score.unit)}"
    return number(d.a, score.unit), number(d.b, score.unit), cell


def show_gate(gate: Gate, verdicts: Sequence[Verdict]) -> None:
    """Print the table, what is to be known about it, and where the gate stopped."""
    OUT.print(verdict_table(gate, verdicts))
    for note in dict.fromkeys(verdict.note for verdict in verdicts if verdict.note):
        OUT.print(f"note: {note}")
    for verdict in verdicts:
        if verdict.status in ("not comparable", "undecided"):
            OUT.print(f"{verdict.status}: {verdict.task} {verdict.metric}: {verdict.reason}")
    for warning in all_warnings(verdicts):
        OUT.print(f"warning: {warning}")
    if gate.stopped:
        OUT.print(stopped_line(gate.stopped))


def stopped_line(stopped: Stopped) -> str:
    """`stopped after 41 s and 620 of 2,400 items: every verdict is in`."""
    return (
        f"stopped after {duration(stopped.seconds)} and {stopped.used:,} of {stopped.of:,} items: "
        f"{stopped.reason}"
    )


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
