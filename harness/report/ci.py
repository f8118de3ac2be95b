"""Verdicts for CI systems: JUnit XML, and GitHub's annotations and job summary."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.analysis.check import Verdict, all_warnings
from harness.files.escape import markdown_cell, printable

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LEVELS = {"regression": "error", "not comparable": "warning", "improved": "notice"}
_TAGS = {"regression": "failure", "not comparable": "error", "reported": "skipped"}


def junit(verdicts: Sequence[Verdict]) -> bytes:
    """One test case per score: a regression is a failure, one not comparable an error."""
    statuses = [verdict.status for verdict in verdicts]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name="harness check",
        tests=str(len(verdicts)),
        failures=str(statuses.count("regression")),
        errors=str(statuses.count("not comparable")),
        skipped=str(statuses.count("reported")),
    )
    for verdict in verdicts:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_xml_text(f"{verdict.task}.{verdict.protocol}"),
            name=_xml_text(verdict.metric),
        )
        if verdict.status in _TAGS:
            ET.SubElement(case, _TAGS[verdict.status], message=_xml_text(sentence(verdict)))
        else:
            ET.SubElement(case, "system-out").text = _xml_text(sentence(verdict))
        if verdict.warnings:
            ET.SubElement(case, "system-err").text = _xml_text("\n".join(verdict.warnings))
    ET.indent(suites)
    text: bytes = ET.tostring(suites, "utf-8", xml_declaration=True)
    return text + b"\n"


def sentence(verdict: Verdict) -> str:
    """`lambada ppl: 35.10 -> 36.42 per word; worse by ...`."""
    name = f"{verdict.task} {verdict.metric}"
    if verdict.score is None:
        return f"{name}: {verdict.reason}"
    d = verdict.score.difference
    return f"{name}: {d.a:.4f} -> {d.b:.4f} {verdict.score.unit}; {verdict.reason}"


def annotations(verdicts: Sequence[Verdict]) -> list[str]:
    """GitHub workflow commands, one for each verdict that needs attention, and each warning."""
    warnings = [f"::warning title=harness check::{_escaped(w)}" for w in all_warnings(verdicts)]
    return warnings + [
        f"::{_LEVELS[verdict.status]} title=harness check::{_escaped(sentence(verdict))}"
        for verdict in verdicts
        if verdict.status in _LEVELS
    ]


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\n", "%0A")


def _xml_text(text: str) -> str:
    """`text` without the characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)


def summary(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table for the job's summary page."""
    lines = [
        "### harness check",
        "",
        "| | benchmark | score | baseline | now | difference | 95 % interval | |",
        "|---|---|---|--:|--:|--:|---|---|",
    ]
    for verdict in verdicts:
        cells = [verdict.status, f"{verdict.task} ({verdict.protocol})", verdict.metric]
        if verdict.score is None:
            cells += ["", "", "", ""]
        else:
            d = verdict.score.difference
            interval = "" if d.low is None else f"{d.low:+.4f} to {d.high:+.4f}"
            cells += [f"{d.a:.4f}", f"{d.b:.4f}", f"{d.value:+.4f}", interval]
        cells.append(verdict.reason)
        lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    if warnings := all_warnings(verdicts):
        lines += ["", *(f"- warning: {markdown_cell(text)}" for text in warnings)]
    return "\n".join(lines) + "\n"
