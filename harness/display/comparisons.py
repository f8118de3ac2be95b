"""Tables that compare runs: differences, flipped examples, verdicts, sample sizes, noise."""

from collections import Counter
from collections.abc import Iterable, Sequence

from harness.analysis.check import Verdict, all_warnings
from harness.analysis.compare import Comparison, Matrix, ScoreComparison
from harness.analysis.noise_floor import Noise
from harness.analysis.power import PowerEstimate, PowerSettings
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.report.number_format import number, p_value, signed, signed_interval

SIGNIFICANCE_LEVEL = 0.05


def _interval(score: ScoreComparison) -> str:
    return signed_interval(score.difference.low, score.difference.high, score.unit)


def show_comparison(comparison: Comparison, max_flips: int) -> None:
    """Print the differences, then at most `max_flips` flipped examples per score and direction."""
    rows = table(
        "benchmark", "score", ">A", ">B", ">B - A", "95 % interval", ">p", ">p (Holm)",
        ">examples", "lost/won", optional=("examples", "lost/won", "p"),
    )  # fmt: skip
    for score in comparison.scores:
        d = score.difference
        rows.add_row(
            score.task,
            score.metric,
            number(d.a, score.unit),
            number(d.b, score.unit),
            signed(d.value, score.unit),
            _interval(score),
            p_value(d.p),
            p_value(score.adjusted),
            f"{score.examples:,}",
            f"{d.lost}/{d.won}" if d.lost is not None else "",
        )
    OUT.print(rows)
    _show_notes(comparison.notes, comparison.not_compared, comparison.warnings)
    if max_flips:
        for score in comparison.scores:
            _show_flips(score, max_flips)


def _show_notes(
    notes: Iterable[str], not_compared: Iterable[str] = (), warnings: Iterable[str] = ()
) -> None:
    for text in notes:
        OUT.print(f"note: {text}")
    for text in not_compared:
        OUT.print(f"not compared: {text}")
    for text in warnings:
        OUT.print(f"warning: {text}")


def _show_flips(score: ScoreComparison, max_flips: int) -> None:
    for won, title in ((False, "lost"), (True, "won")):
        flips = [flip for flip in score.flips if flip.won == won]
        if flips:
            OUT.print(f"\n{score.task} {score.metric}: {len(flips):,} {title}")
        for flip in flips[:max_flips]:
            a, b = flip.a, flip.b
            OUT.print(f"  item {flip.id}: {a.prompt!r}")
            OUT.print(f"    expected {a.reference!r}  A {a.response!r}  B {b.response!r}")


def show_matrices(matrices: Sequence[Matrix], comparison: Comparison) -> None:
    """Print one table per score: column minus row, with a star where p after Holm is small."""
    for k, name in enumerate(matrices[0].names, 1):
        OUT.print(f"{k}: {name}")
    for matrix in matrices:
        OUT.print(f"\n{matrix.task} {matrix.metric} ({matrix.unit}), column minus row")
        count = len(matrix.names)
        rows = table("", *(f">{k}" for k in range(1, count + 1)), ">value")
        for i in range(count):
            cells = [_cell(matrix, i, j) for j in range(count)]
            rows.add_row(str(i + 1), *cells, _value(matrix, i))
        OUT.print(rows)
    OUT.print(f"\n* p after Holm is below {SIGNIFICANCE_LEVEL:g}, over all pairs and scores")
    _show_notes(comparison.notes, comparison.not_compared, comparison.warnings)


def _cell(matrix: Matrix, i: int, j: int) -> str:
    score = matrix.scores.get((min(i, j), max(i, j)))
    if i == j or score is None:
        return ""
    value = score.difference.value if i < j else -score.difference.value
    significant = score.adjusted is not None and score.adjusted < SIGNIFICANCE_LEVEL
    return signed(value, matrix.unit) + ("*" if significant else "")


def _value(matrix: Matrix, i: int) -> str:
    """The run's own value, from any of its pairs."""
    for (first, second), score in matrix.scores.items():
        if i in (first, second):
            value = score.difference.a if i == first else score.difference.b
            return number(value, matrix.unit)
    return ""


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print the verdict of every rule, and how many there are of each kind."""
    rows = table(
        "verdict", "benchmark", "score", ">baseline", ">now", ">difference", "95 % interval",
        "why", optional=("95 % interval", "difference"),
    )  # fmt: skip
    for verdict in verdicts:
        score = verdict.score
        cells = ["", "", "", ""]
        if score is not None:
            d = score.difference
            cells = [
                number(d.a, score.unit),
                number(d.b, score.unit),
                signed(d.value, score.unit),
                _interval(score),
            ]
        rows.add_row(verdict.title, verdict.task, verdict.metric, *cells, verdict.reason)
    OUT.print(rows)
    notes = dict.fromkeys(verdict.note for verdict in verdicts if verdict.note)
    _show_notes(notes, warnings=all_warnings(verdicts))
    counts = Counter(verdict.title for verdict in verdicts)
    OUT.print(", ".join(f"{count} {status}" for status, count in counts.items()))


def show_power(estimates: Sequence[PowerEstimate], settings: PowerSettings) -> None:
    """Print the smallest drop that can be detected, and the examples needed for the given one."""
    OUT.print(f"one-sided paired test at level {settings.alpha:g}, power {settings.power:g}")
    two_runs = any(estimate.needed_for_difference for estimate in estimates)
    rows = table(
        "benchmark", "score", ">examples", ">smallest drop seen",
        f">examples for {settings.drop:g}", "unit", *([">examples for B - A"] if two_runs else []),
        "spread from", optional=("spread from",),
    )  # fmt: skip
    for estimate in estimates:
        rows.add_row(
            estimate.task,
            estimate.metric,
            f"{estimate.examples:,}",
            "-" if estimate.detectable is None else f"{estimate.detectable:.2f}",
            _count(estimate.needed),
            estimate.unit,
            *([_count(estimate.needed_for_difference)] if two_runs else []),
            estimate.basis,
        )
    OUT.print(rows)


def _count(examples: int | None) -> str:
    return "-" if examples is None else f"{examples:,}"


def show_noise(noise: Sequence[Noise], variants: Sequence[str]) -> None:
    """Print how far each score of a benchmark moved."""
    OUT.print(f"{noise[0].task} ({noise[0].protocol}) in {len(variants)} variants")
    formats = list(noise[0].formats)
    rows = table("score", ">value", "unit", ">moves by", *(f">{name}" for name in formats))
    for score in noise:
        rows.add_row(
            score.metric,
            number(score.value, score.unit),
            score.unit,
            f"{score.largest:.2g}",
            *(f"{score.formats[name]:.2g}" for name in formats),
        )
    OUT.print(rows)
