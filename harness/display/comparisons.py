"""Runs beside runs, as tables on standard output: differences, flips, verdicts, power."""

from collections.abc import Sequence

from harness.analysis.check import Verdict
from harness.analysis.compare import Comparison, Flip, Matrix, ScoreComparison
from harness.analysis.noise_floor import Noise
from harness.analysis.power import PowerEstimate, PowerSettings
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.report.number_format import number, p_value, signed, signed_interval

SIGNIFICANT = 0.05


def _interval(line: ScoreComparison) -> str:
    return signed_interval(line.difference.low, line.difference.high, line.unit)


def show_comparison(found: Comparison, flips: int) -> None:
    """Differences of the scores, then at most so many items of each that flipped."""
    rows = table(
        "benchmark", "score", ">A", ">B", ">B - A", "95 % interval", ">p", ">p (Holm)", ">items",
        "lost/won",
    )  # fmt: skip
    for line in found.scores:
        d = line.difference
        rows.add_row(
            line.task,
            line.metric,
            number(d.a, line.unit),
            number(d.b, line.unit),
            signed(d.value, line.unit),
            _interval(line),
            p_value(d.p),
            p_value(line.adjusted),
            f"{line.examples:,}",
            f"{d.lost}/{d.won}" if d.lost is not None else "",
        )
    OUT.print(rows)
    _show_remarks(found)
    if flips:
        for line in found.scores:
            _show_flips(line, flips)


def _show_remarks(found: Comparison) -> None:
    for text in found.notes:
        OUT.print(f"note: {text}", markup=False)
    for text in found.not_compared:
        OUT.print(f"not compared: {text}", markup=False)


def _show_flips(line: ScoreComparison, most: int) -> None:
    for won in (False, True):
        flips = [flip for flip in line.flips if flip.won == won]
        if flips:
            title = "won" if won else "lost"
            OUT.print(f"\n{line.task} {line.metric}: {len(flips):,} {title}", markup=False)
            for flip in flips[:most]:
                _show_flip(flip)


def _show_flip(flip: Flip) -> None:
    OUT.print(f"  item {flip.id}: {flip.a.prompt!r}", markup=False)
    OUT.print(
        f"    wanted {flip.a.reference!r}  A {flip.a.response!r}  B {flip.b.response!r}",
        markup=False,
    )


def show_matrices(tables: Sequence[Matrix], found: Comparison) -> None:
    """One table a score: column minus row; a star where p after Holm is below 0.05."""
    for k, name in enumerate(tables[0].names, 1):
        OUT.print(f"{k}: {name}", markup=False)
    for matrix in tables:
        OUT.print(
            f"\n{matrix.task} {matrix.metric} ({matrix.unit}), column minus row", markup=False
        )
        count = len(matrix.names)
        rows = table("", *(f">{k}" for k in range(1, count + 1)), ">value")
        for i in range(count):
            cells = [_cell(matrix, i, j) for j in range(count)]
            rows.add_row(str(i + 1), *cells, _value(matrix, i))
        OUT.print(rows)
    OUT.print("\n* p after Holm is below 0.05, over all pairs and scores", markup=False)
    _show_remarks(found)


def _cell(matrix: Matrix, i: int, j: int) -> str:
    line = matrix.scores.get((min(i, j), max(i, j)))
    if i == j or line is None:
        return ""
    value = line.difference.value if i < j else -line.difference.value
    star = line.adjusted is not None and line.adjusted < SIGNIFICANT
    return signed(value, matrix.unit) + ("*" if star else "")


def _value(matrix: Matrix, i: int) -> str:
    """The run's own value, as any of its pairs has it."""
    for (first, second), line in matrix.scores.items():
        if i in (first, second):
            return number(line.difference.a if i == first else line.difference.b, matrix.unit)
    return ""


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Every rule's verdict, and what it comes to."""
    rows = table(
        "verdict", "benchmark", "score", ">baseline", ">now", ">difference", "95 % interval", "why"
    )
    for verdict in verdicts:
        line = verdict.score
        cells = ["", "", "", ""]
        if line is not None:
            d = line.difference
            cells = [
                number(d.a, line.unit),
                number(d.b, line.unit),
                signed(d.value, line.unit),
                _interval(line),
            ]
        rows.add_row(verdict.status, verdict.task, verdict.metric, *cells, verdict.reason)
    OUT.print(rows)
    for note in dict.fromkeys(verdict.note for verdict in verdicts if verdict.note):
        OUT.print(f"note: {note}", markup=False)
    counts = {v.status: sum(w.status == v.status for w in verdicts) for v in verdicts}
    OUT.print(", ".join(f"{count} {status}" for status, count in counts.items()), markup=False)


def show_power(found: Sequence[PowerEstimate], question: PowerSettings) -> None:
    """What today's items show, and how many the drop needs."""
    OUT.print(
        f"one-sided paired test at level {question.alpha:g}, power {question.power:g}",
        markup=False,
    )
    rows = table(
        "benchmark", "score", ">items", ">smallest drop seen", f">items for {question.drop:g}",
        "unit", "spread from",
    )  # fmt: skip
    for line in found:
        rows.add_row(
            line.task,
            line.metric,
            f"{line.examples:,}",
            "-" if line.detectable is None else f"{line.detectable:.2f}",
            "-" if line.needed is None else f"{line.needed:,}",
            line.unit,
            line.basis,
        )
    OUT.print(rows)


def show_noise(found: Sequence[Noise], variants: Sequence[str]) -> None:
    """By how much each score of a benchmark moved."""
    OUT.print(f"{found[0].task} ({found[0].protocol}) in {len(variants)} variants", markup=False)
    formats = list(found[0].formats)
    rows = table("score", ">value", "unit", ">moves by", *(f">{name}" for name in formats))
    for movement in found:
        rows.add_row(
            movement.metric,
            number(movement.value, movement.unit),
            movement.unit,
            f"{movement.largest:.2g}",
            *(f"{movement.formats[name]:.2g}" for name in formats),
        )
    OUT.print(rows)
