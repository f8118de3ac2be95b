"""What section 3 of Radford et al. 2019 shows beside its scores: Table 4, and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.paper import published as paper
from harness.core import Score
from harness.metrics.calibration import Bin, table
from harness.records.record import Record

TABLE4 = ("CNN/DM 1", "CNN/DM 2", "CNN/DM L", "CNN/DM AVG")
SYSTEMS = (
    (paper.STATE_OF_THE_ART, "Bottom-Up Sum"),
    ("Lede-3", "Lede-3"),
    ("Seq2Seq + Attn", "Seq2Seq + Attn"),
    (paper.LARGEST, "GPT-2 TL;DR:"),
    ("Random-3", "Random-3"),
    ("1542M no hint", "GPT-2 no hint"),
)
"""Name in the file of published numbers -> name in the paper's table."""


@dataclass(frozen=True, slots=True)
class System:
    """One row of Table 4."""

    name: str
    published: bool
    values: tuple[float | None, ...]  # in the order of TABLE4


def table4(record: Record) -> list[System]:
    """The paper's rows, then those of a record of cnn-dm: its model and its baselines."""
    rows = [
        System(name, True, tuple(paper.published(column, key) for column in TABLE4))
        for key, name in SYSTEMS
    ]
    names = ("rouge-1", "rouge-2", "rouge-l", "rouge-avg")
    by_name = {score.metric: score.value for score in record.scores}
    systems = dict.fromkeys(score.baseline for score in record.scores)
    for system in systems:
        lead = f"{system} " if system else ""
        values = tuple(by_name.get(lead + name) for name in names)
        label = system or f"{record.model['name']} ({record.options['hint']} hint)"
        rows.append(System(label, False, values))
    return rows


def distance(record: Record) -> str:
    """Why the baselines, which need no model, are not the paper's; empty if they may be."""
    if record.data["source"] == "sample":
        return "the built-in sample is no newspaper text"
    if record.rows < record.data["rows"] or not record.data["published"]:
        return (
            f"{record.examples:,} articles of {record.data['name']}, the paper's are of all "
            "11,490; CNN's stories, which come first there, have lower scores than the Daily Mail's"
        )
    return ""


def reliability(record: Record) -> list[Bin]:
    """Bins of a record of nq."""
    return [b for score in _named(record, "calibration-error") for b in table(score.totals)]


def _named(record: Record, metric: str) -> Sequence[Score]:
    return [score for score in record.scores if score.metric == metric]
