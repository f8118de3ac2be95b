"""Table 4 and the calibration table of the paper's section 3."""

from dataclasses import dataclass

from harness.analysis.paper import published as paper
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
    """The paper's rows, then those of a cnn-dm record: its model and its baselines."""
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
    """Why the model-free baselines cannot equal the paper's; empty if they can."""
    if record.data["source"] == "sample":
        return "the built-in sample is not newspaper text"
    if record.rows < record.data["rows"] or record.stopped or not record.data["published"]:
        return (
            f"{record.examples:,} articles of {record.data['name']}, the paper's are of all "
            "11,490; CNN's stories, which come first there, have lower scores than the Daily Mail's"
        )
    return ""


def reliability(record: Record) -> list[Bin]:
    """The calibration bins of an nq record."""
    scores = (score for score in record.scores if score.metric == "calibration-error")
    return [part for score in scores for part in table(score.totals)]
