"""Runs -> the page: one HTML file with style, scripts, charts and data inside.

Nothing is fetched: a content security policy in the page allows its own scripts and style, by
their checksums, and nothing else. Text from data and models is escaped by jinja2 in the tables and
by its `tojson` in the data of the scripts, which put it in as text.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from harness.analysis import scaling
from harness.analysis.paper import published
from harness.report.page import comparisons, curves, leaderboard, tables
from harness.report.page import items as drill
from harness.report.page.columns import Column
from harness.report.page.items import Group, Shown
from harness.report.page.tokens import BYTES, Budget, Traces, as_json, prompt

SCRIPTS = ("echarts.common.min.js", "board.js", "charts.js", "items.js")
STYLE = "page.css"
MARKS = "●◆▲■"
"""Shapes of the columns in the charts; after four they begin again."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a page is made with."""

    title: str
    made: str  # date and time
    version: str  # of the harness
    most: int = 60  # items of a benchmark on the page
    dump: str | None = None  # name of the file with all items, if there is one
    notes: tuple[str, ...] = ()
    untraced: tuple[str, ...] = ()  # whose items have no tokens, and why


@cache
def asset(name: str) -> str:
    """The text of a file in `harness/report/assets`."""
    return (files("harness.report") / "assets" / name).read_text("utf-8")


def policy() -> str:
    """The content security policy: this page's own scripts and style, nothing from anywhere."""
    scripts = " ".join(_source(asset(name)) for name in SCRIPTS)
    return (
        f"default-src 'none'; script-src {scripts}; style-src {_source(asset(STYLE))}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def page(sides: Sequence[Column], shown: Sequence[Shown], traces: Traces, setting: Setting) -> str:
    """The whole page as text.

    Args:
        sides: the columns, in order.
        shown: the items of the same columns, group by group.
        traces: tokens of some of these items.
        setting: title, date and sizes.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("harness.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    values = _values(sides, setting)
    values["data"] = _data(sides, shown, traces, values)
    values["groups"] = [{"name": name} for name in _names(shown)]
    return environment.get_template("page.html").render(
        **values,
        sections=_sections(values),
        policy=Markup(policy()),
        style=Markup(asset(STYLE)),
        scripts=[Markup(asset(name)) for name in SCRIPTS],
    )


def _values(sides: Sequence[Column], setting: Setting) -> dict[str, Any]:
    """What the template shows, but for the items."""
    records = [record for side in sides for record in side.records]
    labels = [side.label for side in sides]
    marks = [("○", "GPT-2 (paper)")]
    marks += [(MARKS[place % len(MARKS)], label) for place, label in enumerate(labels)]
    calibration = curves.reliabilities(sides)
    return {
        "title": setting.title,
        "made": setting.made,
        "version": setting.version,
        "most": setting.most,
        "dump": setting.dump,
        "notes": setting.notes,
        "untraced": setting.untraced,
        "summary": _summary(sides),
        "table3": tables.paper_table(sides, published.COLUMNS),
        "section3": tables.paper_table(sides, published.SECTION3),
        "tables4": tables.tables4(sides),
        "board": leaderboard.board(records),
        "curves": curves.panels(sides),
        "marks": marks,
        "kaplan": f"{scaling.KAPLAN:g}",
        "calibration": calibration,
        "marked": [marks[1 + plot.side] for plot in calibration],
        "changes": comparisons.changes(sides),
        "abouts": [tables.about(side) for side in sides],
    }


def _summary(sides: Sequence[Column]) -> str:
    runs = "1 run" if len(sides) == 1 else f"{len(sides)} runs"
    tasks = {record.task for side in sides for record in side.records}
    benchmarks = "1 benchmark" if len(tasks) == 1 else f"{len(tasks)} benchmarks"
    return f"{runs}, {benchmarks}. Every number has its 95 % interval and its signature."


def _sections(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Ids and names of the sections that the page has."""
    every = (
        ("table3", "Table 3", values["table3"]),
        ("section3", "Section 3", values["section3"]),
        ("leaderboard", "Leaderboard", True),
        ("scaling", "Scaling", values["curves"]),
        ("calibration", "Calibration", values["calibration"]),
        ("changes", "What changed", values["changes"]),
        ("items", "Items", values["groups"]),
        ("runs", "Runs", True),
    )
    return [(id_, name) for id_, name, there in every if there]


def _names(shown: Sequence[Shown]) -> list[str]:
    """Names of the groups; the protocol too where a benchmark has several."""
    tasks = [each.group.task for each in shown]
    return [
        f"{each.group.task}, {each.group.protocol}"
        if tasks.count(each.group.task) > 1
        else each.group.task
        for each in shown
    ]


def _data(
    sides: Sequence[Column], shown: Sequence[Shown], traces: Traces, values: dict[str, Any]
) -> dict[str, Any]:
    """What the scripts read."""
    return {
        "labels": [side.label for side in sides],
        "curves": [panel.chart for panel in values["curves"]],
        "calibration": [
            {
                "side": plot.side,
                "label": plot.label,
                "bins": [bin_._asdict() for bin_ in plot.bins],
            }
            for plot in values["calibration"]
        ],
        "groups": [
            _group(place, each, traces, Budget(BYTES // len(shown)))
            for place, each in enumerate(shown)
        ],
    }


def _group(place: int, shown: Shown, traces: Traces, budget: Budget) -> dict[str, Any]:
    """One benchmark's items, with the traces of as many as the budget takes."""
    items = []
    traced = 0
    for item in shown.items:
        value = drill.as_json(item)
        found = [traces.get((place, said.side, item.id)) for said in item.said]
        requests = [None if each is None else as_json(each) for each in found]
        if any(requests) and budget.takes(len(json.dumps(requests))):
            traced += 1
            value["prompt"] = prompt(next(each for each in found if each))
            for said, trace in zip(value["said"], requests, strict=True):
                said["trace"] = trace
        items.append(value)
    return {
        "task": shown.group.task,
        "words": _words(shown, traced),
        "traced": traced > 0,
        "items": items,
    }


def _words(shown: Shown, traced: int) -> str:
    """`{}` is where the script puts how many of them it shows."""
    group, count = shown.group, len(shown.items)
    text = f"{{}} shown of {count:,} items"
    if count < group.total:
        text += f" on this page, of {group.total:,} in all"
        picked = f" ({shown.picked:,} picked because they flipped, the others at random)"
        text += picked if shown.picked else ""
    if group.flipped:
        text += f"; {group.flipped:,} of all flipped: right in one run and not in another"
    if 0 < traced < count:
        text += f"; {traced:,} have their tokens on the page"
    return text + "."


def dump(groups: Sequence[Group], labels: Sequence[str]) -> str:
    """All items as JSON lines."""
    return "".join(
        json.dumps(drill.dump_line(group, item, labels)) + "\n"
        for group in groups
        for item in group.items
    )
