"""Runs -> the page: one HTML file with style, scripts, charts and data inside.

The page loads nothing: its content security policy allows its own scripts and style, by checksum,
and nothing else. Text from data and models is escaped by jinja2 in the tables and by its `tojson`
in the data for the scripts, which insert it as text.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from harness.analysis.compare import Comparison, compare
from harness.analysis.paper import published
from harness.analysis.paper.table3 import fold, remarks
from harness.analysis.scaling import KAPLAN_EXPONENT
from harness.report import number_format
from harness.report.page import tables
from harness.report.page.columns import Column
from harness.report.page.curves import panels, reliabilities
from harness.report.page.examples import GroupSample, page_json
from harness.report.page.tokens import PAGE_BYTES, Traces, as_json, prompt

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = ("echarts.common.min.js", "board.js", "charts.js", "examples.js")
STYLE = "page.css"
MARKS = "●◆▲■"
"""Shapes of the columns in the charts, repeated after four columns."""
MAX_COMPARISONS = 5  # columns that are compared with the first one
SIGNIFICANT_P = 0.05


@dataclass(frozen=True, slots=True)
class PageInfo:
    """What the page says about itself."""

    title: str
    made: str  # date and time
    version: str  # of the harness
    limit: int = 60  # examples per benchmark
    dump: str | None = None  # name of the file with all examples, if there is one
    notes: tuple[str, ...] = ()
    untraced: tuple[str, ...] = ()  # which examples have no tokens, and why


@cache
def asset(name: str) -> str:
    """The text of a file in `harness/report/assets`."""
    return (files("harness.report") / "assets" / name).read_text("utf-8")


def policy() -> str:
    """The content security policy: the page's own scripts and style, nothing from elsewhere."""
    scripts = " ".join(_checksum(asset(name)) for name in SCRIPTS)
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_checksum(asset(STYLE))}; "
        "base-uri 'none'; form-action 'none'"
    )


def _checksum(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def page(
    columns: Sequence[Column], samples: Sequence[GroupSample], traces: Traces, info: PageInfo
) -> str:
    """Render the whole page: columns in order, their examples, and the tokens of some of these."""
    from markupsafe import Markup

    environment = _environment()
    records = [record for column in columns for record in column.records]
    curves, calibration = panels(columns), reliabilities(columns)
    marks = [(MARKS[k % len(MARKS)], column.label) for k, column in enumerate(columns)]
    tasks = [sample.group.task for sample in samples]
    return environment.get_template("page.html").render(
        table3=tables.paper_table(columns, published.COLUMNS),
        section3=tables.paper_table(columns, published.SECTION3),
        summary_tables=tables.summary_tables(columns),
        board=tables.board(records),
        benchmarks=len({record.task for record in records}),
        curves=curves,
        marks=[("○", "GPT-2 (paper)"), *marks],
        calibration=calibration,
        calibration_marks=[marks[plot.column] for plot in calibration],
        comparisons=comparisons(columns),
        significant_p=SIGNIFICANT_P,
        groups=[
            f"{s.group.task}, {s.group.protocol}" if tasks.count(s.group.task) > 1 else s.group.task
            for s in samples
        ],
        columns=columns,
        info=info,
        data={
            "labels": [column.label for column in columns],
            "curves": [panel.chart for panel in curves],
            "calibration": [
                {
                    "column": plot.column,
                    "label": plot.label,
                    "bins": [b._asdict() for b in plot.bins],
                }
                for plot in calibration
            ],
            "groups": [_group(k, s, traces, len(samples)) for k, s in enumerate(samples)],
        },
        policy=Markup(policy()),
        style=Markup(asset(STYLE)),
        scripts=[Markup(asset(name)) for name in SCRIPTS],
    )


def _environment() -> "Environment":
    """The templates, and the functions that they call."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harness.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals.update(
        fmt=number_format,
        published=published.published,
        kaplan=f"{KAPLAN_EXPONENT:g}",
        remarks=remarks,
        fold=fold,
    )
    return environment


def comparisons(columns: Sequence[Column]) -> list[tuple[str, str, Comparison]]:
    """The first column compared with each of the next ones, unless they have nothing in common."""
    first, *others = ([run for run in c.runs if run.has_outcomes] for c in columns)
    return [
        (columns[0].label, column.label, compared)
        for column, runs in zip(columns[1 : 1 + MAX_COMPARISONS], others, strict=False)
        if (compared := compare(first, runs)).scores
    ]


def _group(number: int, sample: GroupSample, traces: Traces, groups: int) -> dict[str, Any]:
    """One benchmark's examples, and the traces of as many as its share of the page takes."""
    examples = []
    traced, left = 0, PAGE_BYTES // groups
    for example in sample.examples:
        value = page_json(example)
        traced_runs = [traces.get((number, run.column, example.id)) for run in example.runs]
        requests = [None if trace is None else as_json(trace) for trace in traced_runs]
        size = len(json.dumps(requests))
        if any(requests) and size <= left:
            left -= size
            traced += 1
            value["traced_prompt"] = prompt(next(filter(None, traced_runs)))
            for run, trace in zip(value["runs"], requests, strict=True):
                run["trace"] = trace
        examples.append(value)
    return {
        "task": sample.group.task,
        "words": _sample_in_words(sample, traced),
        "traced": traced > 0,
        "examples": examples,
    }


def _sample_in_words(sample: GroupSample, traced: int) -> str:
    """How the examples were chosen; the script replaces `{}` by how many it shows."""
    total, count, flipped = len(sample.group.examples), len(sample.examples), sample.group.flipped
    text = f"{{}} shown of {count:,} examples"
    if count < total:
        text += f" on this page, of {total:,} in all"
        if sample.picked:
            text += f" ({sample.picked:,} picked because they flipped, the others at random)"
    if flipped:
        text += f"; {flipped:,} of all flipped: right in one run and not in another"
    if 0 < traced < count:
        text += f"; {traced:,} have their tokens on the page"
    return text + "."
