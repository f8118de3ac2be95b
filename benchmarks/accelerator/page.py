"""The results as JSON and as one Markdown page, written after every part."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accelerator.setting import Row

JSON_FILE, PAGE = "accelerator.json", "accelerator.md"


@dataclass
class Result:
    """What a part found so far."""

    name: str
    title: str
    state: str = "waiting"  # or `done`, `out of time`, `failed: ...`
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)

    @property
    def wrong(self) -> list[Row]:
        """The rows whose verdict is no."""
        return [row for row in self.rows if row.get("right") is False]


def write(folder: Path, about: dict[str, Any], results: Sequence[Result]) -> None:
    """Write both files anew."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "parts": [asdict(result) for result in results]}
    (folder / JSON_FILE).write_text(json.dumps(content, indent=1), "utf-8")
    (folder / PAGE).write_text(markdown(about, results), "utf-8")


def markdown(about: dict[str, Any], results: Sequence[Result]) -> str:
    """The page."""
    parts = ["# Accelerator\n", *(f"- {name}: {value}" for name, value in about.items()), ""]
    for result in results:
        parts.append(f"## {result.name}: {result.title}\n")
        count = f"; {len(result.wrong)} of {len(result.rows)} rows are wrong" * bool(result.wrong)
        parts.append(f"{result.state}, {result.seconds:.0f} s{count}\n")
        parts += table(result.rows)
    return "\n".join(parts) + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """A Markdown table with a column for every key, in the order in which they appear."""
    if not rows:
        return []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [_line(columns), "|" + "---|" * len(columns)]
    return [*lines, *(_line([cell(row.get(c, "")) for c in columns]) for row in rows), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def cell(value: Any) -> str:
    """A value as text: verdicts in words, numbers with three digits."""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-2:
            return f"{value:.1e}"
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("\n", " ")
