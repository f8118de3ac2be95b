"""Table 3 of Radford et al. 2019, the paper's numbers beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core import Score
from harness.report import paper
from harness.report.record import Record


@dataclass(frozen=True, slots=True)
class Cell:
    """One column of Table 3 for one checkpoint."""

    column: str
    paper: float | None
    state_of_the_art: float | None
    score: Score | None  # None: there is no record
    record: Record | None
    reason: str = ""  # why there is none

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's: points for accuracies, else as a share of the paper's."""
        if self.score is None or self.paper is None:
            return None
        gap = self.score.value - self.paper
        return gap if self.score.unit == "%" else gap / self.paper

    @property
    def verdict(self) -> str:
        """`matches` or `apart`; nothing for numbers on the built-in samples."""
        if self.score is None or self.paper is None or self.record is None:
            return ""
        if self.record.data["road"] == "sample":
            return "sample"
        return paper.verdict(self.score.value, self.paper, self.score.unit)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens fed to the model in a second of the whole task."""
        if self.record is None or not self.record.seconds:
            return None
        return self.record.tokens.computed / self.record.seconds


def cells(records: Sequence[Record], size: str, reasons: dict[str, str]) -> list[Cell]:
    """All columns in the paper's order, for the records of one checkpoint.

    Args:
        records: at most one a task.
        size: the paper's model to compare with.
        reasons: task -> why it was not run.
    """
    found = {s.column: (s, r) for r in records for s in r.scores if s.column}
    task_of = {p.column: p.task for p in paper.numbers()}
    rows = []
    for column in paper.COLUMNS:
        score, record = found.get(column, (None, None))
        rows.append(
            Cell(
                column,
                paper.published(column, size),
                paper.published(column, paper.STATE_OF_THE_ART),
                score,
                record,
                reasons.get(task_of[column], ""),
            )
        )
    return rows


def remarks(records: Sequence[Record]) -> list[str]:
    """One line a record whose numbers are not those of the published data in full."""
    lines = []
    for record in records:
        facts = []
        if record.data["road"] == "sample":
            facts.append("built-in sample, says only that it works")
        facts += record.data["warnings"]
        if record.limit is not None and record.examples < record.data["rows"]:
            facts.append(f"{record.examples} of {record.data['rows']} rows, seed {record.seed}")
        facts += [
            f"{record.preflight[k]} requests {text}"
            for k, text in (("truncated", "cut to the context"), ("crossing", "cross a token"))
            if record.preflight.get(k)
        ]
        if facts:
            lines.append(f"{record.task}: {'; '.join(facts)}")
    return lines


def with_paper(record: Record) -> dict[str, object]:
    """The record's JSON with the paper's number beside each score that fills a column."""
    value = record.to_json()
    size = paper.nearest_size(int(record.model["parameters"]))
    for score in value["scores"]:
        score["paper"] = paper.published(score["column"], size) if score["column"] else None
    return value
