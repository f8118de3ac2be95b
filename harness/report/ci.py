"""Verdicts for machines: JUnit XML, GitHub's annotations and job summary."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.check import Verdict
from harness.files.escape import markdown_cell, printable
from harness.files.output import write_bytes

_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LEVELS = {"regression": "error", "not comparable": "warning", "improved": "notice"}


def junit(verdicts: Sequence[Verdict]) -> bytes:
    """One test case a score: a regression is a failure, what is not comparable an error."""
    kinds = [verdict.status for verdict in verdicts]
    suite = ET.Element(
        "testsuite",
        name="harness check",
        tests=str(len(verdicts)),
        failures=str(kinds.count("regression")),
        errors=str(kinds.count("not comparable")),
        skipped=str(kinds.count("reported")),
    )
    for verdict in verdicts:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_printable(f"{verdict.task}.{verdict.protocol}"),
            name=_printable(verdict.metric),
        )
        tag = {"regression": "failure", "not comparable": "error", "reported": "skipped"}
        if verdict.status in tag:
            ET.SubElement(case, tag[verdict.status], message=_printable(sentence(verdict)))
        else:
            ET.SubElement(case, "system-out").text = _printable(sentence(verdict))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    text: bytes = ET.tostring(suites, "utf-8", xml_declaration=True)
    return text + b"\n"


def sentence(verdict: Verdict) -> str:
    """`lambada ppl: 35.10 -> 36.42 per word; worse by ...`."""
    if verdict.score is None:
        return f"{verdict.task} {verdict.metric}: {verdict.reason}"
    found = verdict.score.difference
    return (
        f"{verdict.task} {verdict.metric}: {found.a:.4f} -> {found.b:.4f} {verdict.score.unit}; "
        f"{verdict.reason}"
    )


def annotations(verdicts: Sequence[Verdict]) -> list[str]:
    """GitHub workflow commands, one for each verdict that somebody should look at."""
    return [
        f"::{_LEVELS[verdict.status]} title=harness check::{_escaped(sentence(verdict))}"
        for verdict in verdicts
        if verdict.status in _LEVELS
    ]


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\n", "%0A")


def _printable(text: str) -> str:
    """`text` without the characters that XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)


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
            found = verdict.score.difference
            interval = "" if found.low is None else f"{found.low:+.4f} to {found.high:+.4f}"
            cells += [f"{found.a:.4f}", f"{found.b:.4f}", f"{found.value:+.4f}", interval]
        cells.append(verdict.reason)
        lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    return "\n".join(lines) + "\n"


def write_junit(verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the JUnit file.

    Raises:
        RecordError: it cannot be written.
    """
    write_bytes(path, junit(verdicts))
