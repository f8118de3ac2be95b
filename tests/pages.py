"""Runs made by hand for the report page, and a reader of what the page says."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from console import harness, made_record

from harness.core import Score
from harness.plugins.registry import load_task
from harness.records.folder import write
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown

HOSTILE = (
    "</script><script>document.title='hacked'</script>",
    '"><img src=x onerror="document.title=\'hacked\'">',
    "' onclick='document.title=1' {{ 7 * 7 }} {% raw %} ${document.title} &amp; &lt;b&gt; <!--",
    "\u202eright to left\u202c \u2066isolated \u200f\u200e \u2028 line \u2029 \x00 \x1b[31m",
    "x" * 100_000,
)


def model(name: str, parameters: int = 124_439_808) -> dict[str, Any]:
    """A checkpoint of that name, with a digest of its own."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return {**made_record().model, "name": name, "digest": digest, "parameters": parameters}


def questions(
    folder: Path, name: str, right: Sequence[int], shown: Sequence[Shown] | None = None
) -> Path:
    """The record of a run of CBT with one example for each number in `right`."""
    texts = tuple(shown or (Shown(f"question {i}", f"w{i}", f"g{i}") for i in range(len(right))))
    numbers = tuple(range(len(right)))
    values = tuple((float(r), 1.0) for r in right)
    items = Outcomes(tuple(map(str, numbers)), texts, {"acc": MetricOutcomes(numbers, values)})
    share = 100 * sum(right) / len(right)
    score = Score("acc", share, "%", True, None, share - 5, share + 5, {}, "CBT-CN ACC")
    options = dict(load_task("cbt-cn").protocol().options)
    record = made_record(
        task="cbt-cn", options=options, outcomes=items, scores=(score,), model=model(name)
    )
    return write(record, folder)


def passages(folder: Path, name: str, nats: Sequence[float], parameters: int) -> Path:
    """The record of a run of LAMBADA, one word per example; only its perplexity is scored."""
    numbers = tuple(range(len(nats)))
    items = Outcomes(
        tuple(f"p{i}" for i in numbers),
        tuple(Shown(f"passage {i}", f"word{i}", f"said{i}") for i in numbers),
        {"ppl": MetricOutcomes(numbers, tuple((n, 1.0) for n in nats))},
    )
    import math

    value = math.exp(sum(nats) / len(nats))
    score = Score("ppl", value, "per word", False, 0.1, 0.9 * value, 1.1 * value,
                  {"nats": sum(nats), "words": len(nats)}, "LAMBADA PPL")  # fmt: skip
    options = dict(load_task("lambada").protocol().options)
    record = made_record(
        options=options, outcomes=items, scores=(score,), model=model(name, parameters)
    )
    return write(record, folder)


def confident(folder: Path, name: str) -> Path:
    """The record of a run of Natural Questions with answers in two bins, without outcomes."""
    totals = {f"{what}{b}": 0.0 for b in range(10) for what in ("n", "confidence", "right")}
    totals |= {"n2": 10.0, "confidence2": 2.5, "right2": 1.0}
    totals |= {"n9": 4.0, "confidence9": 3.8, "right9": 3.0, "answers": 14.0}
    scores = (
        Score("em", 28.57, "%", True, 1.0, 20.0, 37.0, {}, "NQ EM"),
        Score("calibration-error", 16.43, "points", False, None, None, None, totals),
    )
    record = made_record(task="nq", scores=scores, model=model(name))
    return write(record, folder)


@dataclass
class Found(HTMLParser):
    """What a reader of the HTML finds, without any script being run."""

    tables: list[list[list[str]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    policy: str = ""
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    _open: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag in ("script", "style"):
            self._open = "data" if given.get("id") == "data" else tag
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "small" and self._open == "":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "data":
            self.data = json.loads(data)
        elif self._open == "script":
            self.scripts.append(data)
        elif self._open == "style":
            self.styles.append(data)
        else:
            self.text += data
            if self.tables and self.tables[-1] and self.tables[-1][-1]:
                self.tables[-1][-1][-1] += data


def read_page(path: Path) -> Found:
    """The page in a file."""
    found = Found()
    found.feed(path.read_text("utf-8"))
    found.close()
    found.tables = [[[" ".join(c.split()) for c in row] for row in t] for t in found.tables]
    return found


def report(out: Path, *words: object) -> Path:
    """The page that `harness report WORDS` writes."""
    result = harness("report", *words, "-o", out)
    assert result.code == 0, result.err
    return out
