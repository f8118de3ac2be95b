"""Verdicts for CI systems: JUnit XML, and GitHub's annotations and job summary."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.analysis.check import Verdict, all_warnings
from harness.analysis.rules.tiers import DEFAULT_TIERS, Tiers, fails
from harness.files.escape import markdown_cell, printable

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = {"regression": "failure", "undecided": "failure", "not comparable": "error"}
_LEVELS = {"regression": "error", "undecided": "error", "not comparable": "warning"}
_MILDER_LEVELS = {"regression": "warning", "undecided": "notice", "not comparable": "notice",
                  "improved": "notice"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Build:
    """What a command's verdicts decide."""

    tiers: Tiers = field(default_factory=lambda: DEFAULT_TIERS)
    require_proof: bool = False
    command: str = "harness check"

    def fails(self, verdict: Verdict) -> bool:
        """Whether a verdict fails the build."""
        tier, proof = verdict.rule.tier, self.require_proof
        return fails(verdict.status, tier, self.tiers, require_proof=proof)


CHECK = Build()


def junit(verdicts: Sequence[Verdict], build: Build = CHECK) -> bytes:
    """One test case per score; one that does not fail the build is passed or skipped."""
    tags = [_tag(verdict, build) for verdict in verdicts]
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name=build.command,
        tests=str(len(tags)),
        failures=str(tags.count("failure")),
        errors=str(tags.count("error")),
        skipped=str(tags.count("skipped")),
    )
    for verdict, tag in zip(verdicts, tags, strict=True):
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_xml_text(".".join(filter(None, (verdict.task, verdict.protocol)))),
            name=_xml_text(verdict.metric),
        )
        result = ET.SubElement(case, tag)
        if tag == "system-out":
            result.text = _xml_text("\n".join([sentence(verdict), *details(verdict)]))
        else:
            result.set("message", _xml_text(sentence(verdict)))
            result.text = _xml_text("\n".join(details(verdict)))
        if verdict.warnings:
            ET.SubElement(case, "system-err").text = _xml_text("\n".join(verdict.warnings))
    ET.indent(suites)
    text: bytes = ET.tostring(suites, "utf-8", xml_declaration=True)
    return text + b"\n"


def _tag(verdict: Verdict, build: Build) -> str:
    """The element of a test case that says how it ended."""
    if build.fails(verdict):
        return _TAGS[verdict.status]
    return "skipped" if verdict.status in (*_TAGS, "reported") else "system-out"


def sentence(verdict: Verdict) -> str:
    """`lambada ppl: 35.10 -> 36.42 per word; worse by ...`."""
    name = f"{verdict.task} {verdict.metric}"
    if verdict.score is None:
        return f"{name}: {verdict.reason}"
    d = verdict.score.difference
    return f"{name}: {d.a:.4f} -> {d.b:.4f} {verdict.score.unit}; {verdict.reason}"


def details(verdict: Verdict) -> list[str]:
    """What a verdict rests on, line by line."""
    upper = None if verdict.upper is None else f"{verdict.upper:.4g}"
    lines = {
        "rule": f"{verdict.rule}, {verdict.rule.tier}",
        "margin": None if verdict.margin is None else f"{verdict.margin:g}",
        "loss at most": upper,
        "evidence": verdict.evidence,
        "items": _items(verdict),
    }
    return [f"{name}: {text}" for name, text in lines.items() if text]


def _items(verdict: Verdict) -> str:
    """`412 of 2,000`, or `2,000` if all were used."""
    if verdict.items is None:
        return ""
    all_used = verdict.of in (None, verdict.items)
    return f"{verdict.items:,}" if all_used else f"{verdict.items:,} of {verdict.of:,}"


def annotations(verdicts: Sequence[Verdict], build: Build = CHECK) -> list[str]:
    """GitHub workflow commands, one for each verdict that needs attention, and each warning."""
    title = f"title={build.command}::"
    lines = [f"::warning {title}{_escaped(text)}" for text in all_warnings(verdicts)]
    for verdict in verdicts:
        levels = _LEVELS if build.fails(verdict) else _MILDER_LEVELS
        if level := levels.get(verdict.status):
            lines.append(f"::{level} {title}{_escaped(sentence(verdict))}")
    return lines


def _escaped(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\n", "%0A")


def _xml_text(text: str) -> str:
    """`text` without the characters that XML does not allow."""
    return _NOT_XML.sub("\ufffd", text)


def summary(verdicts: Sequence[Verdict], build: Build = CHECK) -> str:
    """A Markdown table for the job's summary page."""
    lines = [
        f"### {build.command}",
        "",
        "| | benchmark | score | baseline | now | difference | 95 % interval "
        "| margin | evidence | items | |",
        "|---|---|---|--:|--:|--:|---|--:|---|--:|---|",
    ]
    for verdict in verdicts:
        protocol = f" ({verdict.protocol})" if verdict.protocol else ""
        cells = [verdict.title, f"{verdict.task}{protocol}", verdict.metric]
        if verdict.score is None:
            cells += ["", "", "", ""]
        else:
            d = verdict.score.difference
            interval = "" if d.low is None else f"{d.low:+.4f} to {d.high:+.4f}"
            cells += [f"{d.a:.4f}", f"{d.b:.4f}", f"{d.value:+.4f}", interval]
        margin = "" if verdict.margin is None else f"{verdict.margin:g}"
        cells += [margin, verdict.evidence, _items(verdict), verdict.reason]
        lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    if warnings := all_warnings(verdicts):
        lines += ["", *(f"- warning: {markdown_cell(text)}" for text in warnings)]
    return "\n".join(lines) + "\n"
