"""The columns of the paper's Table 3 and section 3: its numbers next to ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from harness.analysis.paper import published as paper
from harness.canaries.canaries import LOSSY
from harness.core import Score
from harness.records.record import Record
from harness.records.signature import Signature


@dataclass(frozen=True, slots=True)
class Cell:
    """One column for one checkpoint."""

    column: str
    size: str  # of the paper's model that ours is compared with
    paper: float | None
    state_of_the_art: float | None
    score: Score | None  # None if there is no record
    record: Record | None
    reason: str = ""  # why there is none

    @property
    def verdict(self) -> str:
        """`matches` or `differs`; `sample` for numbers on the built-in samples."""
        if self.score is None or self.paper is None or self.record is None:
            return ""
        if self.record.data["source"] == "sample":
            return "sample"
        return paper.verdict(self.score.value, self.paper, self.score.unit)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that the model computed per second of the whole task."""
        if self.record is None or not self.record.seconds:
            return None
        return self.record.tokens.computed / self.record.seconds


def cells(
    records: Sequence[Record],
    size: str,
    reasons: Mapping[str, str],
    columns: Sequence[str] = paper.COLUMNS,
) -> list[Cell]:
    """Cells of `columns`, for the records of one checkpoint, at most one per task.

    `size` is the paper's model to compare with; where the paper has no number for it, its largest
    takes its place. `reasons` says of a task why it was not run.
    """
    by_column = {s.column: (s, r) for r in records for s in r.scores if s.column}
    task_of = {p.column: p.task for p in paper.numbers()}
    rows = []
    for column in columns:
        score, record = by_column.get(column, (None, None))
        state_of_the_art = paper.published(column, paper.STATE_OF_THE_ART)
        reason = reasons.get(task_of[column], "")
        reference = paper.nearest(column, size)
        rows.append(Cell(column, *reference, state_of_the_art, score, record, reason))
    return rows


def remarks(records: Sequence[Record]) -> list[str]:
    """What makes the numbers differ from those on the full published data.

    One line per kind of remark; it names its benchmarks unless it holds for all of them.
    """
    groups: dict[str, dict[str, str]] = {}
    for record in records:
        for kind, detail in _facts(record):
            groups.setdefault(kind, {})[record.task] = detail
    lines = []
    for kind, details in groups.items():
        if len(details) == len(records) and len(set(details.values())) == 1:
            parts = [next(iter(details.values()))]
        else:
            parts = [f"{task} {detail}".strip() for task, detail in details.items()]
        lines.append(": ".join(filter(None, (kind, ", ".join(parts)))))
    return lines


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    """(kind of remark, detail of this record)."""
    if record.data["source"] == "sample":
        yield "built-in sample rows", ""
    for warning in record.data["warnings"]:
        yield warning, ""
    if record.endpoint:
        yield f"computed by {record.server}", f"self-test {record.self_test}"
    if record.limit is not None and record.rows < record.data["rows"]:
        yield f"at most {record.limit} rows, chosen at random with seed {record.seed}", ""
    if record.stopped:
        yield "scores of a part", record.extent
    counts = dict(record.preflight)
    if any(warning.startswith(LOSSY) for warning in record.warnings):
        counts.pop("lossy", None)  # older records have it as a fact alone
    yield from _preflight_facts(counts, record.requests)


def preflight_warnings(counts: Mapping[str, int], requests: int | None = None) -> list[str]:
    """What preflight found, one line per kind."""
    return [f"{kind}: {detail}" for kind, detail in _preflight_facts(counts, requests)]


def _preflight_facts(counts: Mapping[str, int], requests: int | None) -> Iterator[tuple[str, str]]:
    total = f" of {requests:,}" if requests is not None else ""
    for name, kind in (
        ("truncated", "requests cut to fit the context"),
        ("crossing", "requests with a token across context and continuation"),
        ("empty", "requests without a token to score"),
    ):
        if counts.get(name):
            yield kind, f"{counts[name]:,}{total}"
    if counts.get("lossy"):
        share = counts["lost_characters"] / counts["characters"]
        unknown = f"; {counts['unknown']:,} with unknown tokens" if counts["unknown"] else ""
        detail = f"{counts['lossy']:,}{total} ({share:.2%} of all characters{unknown})"
        yield "requests with text that the tokenizer loses", detail


def fold(signatures: Sequence[Signature]) -> tuple[list[str], str]:
    """The start of each signature, and the end that all of them share."""
    parts = [signature.segments() for signature in signatures]
    from_the_end = zip(*(part[:0:-1] for part in parts), strict=False)  # without the task
    shared = len(list(takewhile(lambda pieces: len(set(pieces)) == 1, from_the_end)))
    heads = ["|".join(part[: len(part) - shared]) for part in parts]
    return heads, str(signatures[0])[len(heads[0]) :]


def with_paper(record: Record, size: str | None = None) -> dict[str, object]:
    """The record's JSON, with the paper's number in each score that fills a column."""
    value = record.to_json()
    nearest = size or paper.nearest_size(record.parameters)
    for score in value["scores"]:
        model, number = paper.nearest(score["column"], nearest) if score["column"] else (None, None)
        score.update(paper=number, paper_model=model)
    return value
