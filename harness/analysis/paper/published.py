"""The published numbers (`results/paper/*.csv`), to compare ours with.

Only analysis and reports read them; nothing that computes a score does.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from harness.errors import UsageError

COLUMNS = (
    "LAMBADA PPL",
    "LAMBADA ACC",
    "CBT-CN ACC",
    "CBT-NE ACC",
    "WikiText2 PPL",
    "PTB PPL",
    "enwik8 BPB",
    "text8 BPC",
    "WikiText103 PPL",
    "1BW PPL",
)
SECTION3 = (
    "CoQA F1",
    "CNN/DM 1",
    "CNN/DM 2",
    "CNN/DM L",
    "CNN/DM AVG",
    "WMT14 En-Fr BLEU",
    "WMT14 Fr-En BLEU",
    "NQ EM",
    "NQ EM TOP 1%",
    "Winograd ACC",
)
SIZES = ("117M", "345M", "762M", "1542M")
STATE_OF_THE_ART = "prior SOTA"
RELATIVE_BAND = 0.03  # perplexities and bits: OpenAI's own pipeline varied by 2 %
POINTS_BAND = 1.5  # accuracies and the like, in points
SMALL_BAND = 0.2  # of the paper's number, if that is less: 4.1 % does not match 5.5 %
POINTS = ("%", "points")  # units of scores that are compared by difference
LARGEST = SIZES[-1]


@dataclass(frozen=True, slots=True)
class Published:
    """One number of the paper."""

    column: str
    task: str
    model: str
    parameters: int | None
    value: float
    unit: str


@cache
def numbers() -> tuple[Published, ...]:
    """All numbers of Table 3 and of section 3, in the files' order."""
    folder = files("harness.results.paper")
    return tuple(
        Published(
            row["column"],
            row["task"],
            row["model"],
            int(row["parameters"]) if row["parameters"] else None,
            float(row["value"]),
            row["unit"],
        )
        for name in ("gpt2.csv", "section3.csv")
        for row in csv.DictReader((folder / name).read_text("utf-8").splitlines())
    )


def nearest_size(parameters: int | None) -> str:
    """The paper's model nearest in size, by ratio; the largest if the size is not known."""
    if parameters is None:
        return LARGEST
    sizes = {p.model: p.parameters for p in numbers() if p.parameters}
    return min(sizes, key=lambda model: abs(math.log(sizes[model] / max(parameters, 1))))


def published(column: str, model: str) -> float | None:
    """The paper's number for a column and one of its models; None if it has none."""
    return next((p.value for p in numbers() if p.column == column and p.model == model), None)


def nearest(column: str, size: str) -> tuple[str, float | None]:
    """The paper's model to compare a column with, and its number.

    The model of `size`, or the largest where the paper has no number for that one.
    """
    number = published(column, size)
    return (size, number) if number is not None else (LARGEST, published(column, LARGEST))


def tasks(columns: Sequence[str] = COLUMNS) -> tuple[str, ...]:
    """The benchmarks behind some columns, in their order, without repetition."""
    return tuple(dict.fromkeys(p.task for c in columns for p in numbers() if p.column == c))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of benchmarks: first those of the paper in its order, then the others."""
    given = list(names)
    first = [name for name in tasks((*COLUMNS, *SECTION3)) if name in given]
    return first + [name for name in given if name not in first]


def check_size(size: str) -> str:
    """`size`, checked to be one of the paper's."""
    if size not in SIZES:
        raise UsageError(f"the paper has no model {size!r}; choose from: {', '.join(SIZES)}")
    return size


def difference(value: float, published: float, unit: str) -> float:
    """A value minus a published one: points for accuracies and the like, else a share of it."""
    gap = value - published
    return gap if unit in POINTS else gap / published


def verdict(value: float, paper: float, unit: str) -> str:
    """`matches` within 3 % (1.5 points for accuracies and the like), else `differs`."""
    gap = abs(value - paper)
    band = min(POINTS_BAND, SMALL_BAND * paper) if unit in POINTS else RELATIVE_BAND * paper
    return "matches" if gap <= band + 1e-9 else "differs"  # the edge is inside
