"""The scores of a run on the examples without overlap, with some, and with much."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.analysis.runs import Run, main_measures, measures
from harness.errors import NumericsError, RecordError
from harness.overlap.shares import LARGE_PERCENT, Overlap, PieceOverlap
from harness.records.outcomes import Outcomes
from harness.records.record import Record
from harness.runner import Job
from harness.stats import intervals

OPTIONS_OF_SCORING = ("stride", "windows", "bos")  # these do not change the texts
GROUPS: dict[str, Callable[[float], bool]] = {
    "all": lambda percent: percent >= 0,
    "no overlap": lambda percent: percent == 0,
    "any overlap": lambda percent: percent > 0,
    f"over {LARGE_PERCENT:g} %": lambda percent: percent > LARGE_PERCENT,
}


@dataclass(frozen=True, slots=True)
class SubsetScore:
    """A score on some of a run's examples."""

    task: str
    model: str
    metric: str
    unit: str
    group: str
    outcomes: int
    value: float | None  # None if the group is empty
    low: float | None
    high: float | None


def subset_scores(run: Run, overlap: Overlap) -> list[SubsetScore]:
    """The main scores of a run of the same texts (see `incompatibility`) on each of GROUPS.

    A text shorter than an n-gram counts as free of overlap.

    Raises:
        RecordError: the run has none of the examples.
    """
    scores = []
    for measure in main_measures(measures(run.record)):
        if not run.outcomes.has(measure.name):
            continue
        values = run.outcomes.metrics[measure.name].values
        percents = list(_percents(run.outcomes, measure.name, overlap))
        if all(percent is None for percent in percents):
            raise RecordError(
                f"{run.file} has none of these examples of {overlap.task}; use the --limit and "
                "--seed of that run"
            )
        for group, belongs in GROUPS.items():
            pairs = zip(values, percents, strict=True)
            chosen = [value for value, percent in pairs if percent is not None and belongs(percent)]
            model = str(run.record.model["name"])
            subset = (overlap.task, model, measure.name, measure.metric.unit, group, len(chosen))
            try:
                score = intervals.score(measure, chosen, run.record.seed)
                scores.append(SubsetScore(*subset, score.value, score.low, score.high))
            except NumericsError:  # the outcomes have no finite score
                scores.append(SubsetScore(*subset, None, None, None))
    return scores


def incompatibility(record: Record, job: Job) -> str:
    """Why a record was not made from the texts of a job; empty if it was."""
    recorded = {k: str(v) for k, v in record.options.items() if k not in OPTIONS_OF_SCORING}
    options = {k: v for k, v in job.protocol.options.items() if k not in OPTIONS_OF_SCORING}
    facts = [
        ("version", record.version, job.task.version),
        ("data", record.data["sha256"][:12], job.data.facts()["sha256"][:12]),
        *(
            (f"--set {k}", recorded.get(k), options.get(k))
            for k in dict.fromkeys([*recorded, *options])
        ),
    ]
    return "; ".join(f"{name} is {a} there, {b} here" for name, a, b in facts if a != b)


def _percents(outcomes: Outcomes, measure: str, overlap: Overlap) -> Iterator[float | None]:
    """The overlap of the text behind each outcome; None if it was not looked up.

    That is one piece where each piece has an outcome, else the whole example.
    """
    pieces: dict[str, list[PieceOverlap]] = defaultdict(list)
    for piece in overlap.pieces:
        pieces[piece.example].append(piece)
    keys = outcomes.keys(measure)
    counts = Counter(example for example, _ in keys)
    in_pieces = outcomes.metrics[measure].parts is not None  # of a run that was stopped
    for example, part in keys:
        own = pieces.get(example)
        if own is None:
            yield None
            continue
        by_piece = in_pieces or counts[example] == len(own)
        chosen = own[part : part + 1] if by_piece else own
        grams = sum(piece.grams for piece in chosen)
        yield 100 * sum(piece.matches for piece in chosen) / grams if grams else 0.0
