"""The published numbers (`results/paper/gpt2.csv`), for putting beside ours.

Only the report storey reads them; nothing that computes a score does.
"""

import csv
import math
from collections.abc import Iterable
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
SIZES = ("117M", "345M", "762M", "1542M")
STATE_OF_THE_ART = "prior SOTA"
RELATIVE_BAND = 0.03  # perplexities and bits: OpenAI's own pipeline moved by 2 %
POINTS_BAND = 1.5  # accuracies, in points


@dataclass(frozen=True, slots=True)
class Published:
    """One number of Table 3."""

    column: str
    task: str
    model: str
    parameters: int | None
    value: float
    unit: str


@cache
def numbers() -> tuple[Published, ...]:
    """All numbers of Table 3, in the file's order."""
    text = (files("results.paper") / "gpt2.csv").read_text("utf-8")
    return tuple(
        Published(
            row["column"],
            row["task"],
            row["model"],
            int(row["parameters"]) if row["parameters"] else None,
            float(row["value"]),
            row["unit"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def nearest_size(parameters: int) -> str:
    """The paper's model that is nearest in size, by ratio."""
    sizes = {p.model: p.parameters for p in numbers() if p.parameters}
    return min(sizes, key=lambda model: abs(math.log(sizes[model] / max(parameters, 1))))


def published(column: str, model: str) -> float | None:
    """The paper's number for a column and one of its models; None if it has none."""
    found = [p.value for p in numbers() if p.column == column and p.model == model]
    return found[0] if found else None


def tasks() -> tuple[str, ...]:
    """Names of the benchmarks in Table 3, in the order of its columns, each once."""
    return tuple(dict.fromkeys(p.task for c in COLUMNS for p in numbers() if p.column == c))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of benchmarks, those of Table 3 first and in its order."""
    given = list(names)
    first = [name for name in tasks() if name in given]
    return first + [name for name in given if name not in first]


def check_size(size: str) -> str:
    """`size` if it is one of the paper's.

    Raises:
        UsageError: it is not.
    """
    if size not in SIZES:
        raise UsageError(f"the paper has no model {size!r}; choose from: {', '.join(SIZES)}")
    return size


def verdict(value: float, paper: float, unit: str) -> str:
    """`matches` within 3 % (1.5 points for accuracies), else `apart`."""
    gap = abs(value - paper)
    band = POINTS_BAND if unit == "%" else RELATIVE_BAND * paper
    return "matches" if gap <= band + 1e-9 else "apart"  # the edge itself is inside
