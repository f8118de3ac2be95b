"""The exact strings that every benchmark sends to the engine, held in golden_requests.json.

`python tests/test_golden_requests.py` rewrites the file. A change in it moves scores: raise the
`version` of the task, and say so in the changelog.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from harness.core import Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.data import Where, load
from harness.plugins import load_task

GOLDEN = Path(__file__).with_name("golden_requests.json")
WORDS = ["lambada", "cbt-cn", "cbt-ne"]
TASKS = [*WORDS, "wikitext2", "wikitext103", "ptb", "enwik8", "text8", "lm1b"]
ROWS = 2
STREAM_ROWS = 4  # of running text: so few lines hold a heading and a paragraph
REWRITE = (
    "{name} asks something else than its golden requests; if that is meant, raise Task.version "
    "and run `python tests/test_golden_requests.py`"
)


def in_words(request: Request) -> dict[str, Any]:
    """One request as JSON."""
    match request:
        case Loglikelihood(context, continuation):
            return {"kind": "loglikelihood", "context": context, "continuations": [continuation]}
        case RollingLoglikelihood(pieces):
            texts = [p if isinstance(p, str) else p.decode("utf-8") for p in pieces]
            return {"kind": "rolling", "pieces": texts}
        case NextWord(context, skip, among, rule):
            digest = hashlib.sha256("\n".join(sorted(skip)).encode()).hexdigest()
            return {
                "kind": "next word",
                "context": context,
                "skip": f"{len(skip)} words, sha256 {digest}",
                "among": sorted(among) if among is not None else None,
                "rule": rule,
            }


def merged(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours with the same context as one entry: ten choices share a long passage."""
    found: list[dict[str, Any]] = []
    for request in requests:
        same = found and request["kind"] == "loglikelihood" == found[-1]["kind"]
        if same and found[-1]["context"] == request["context"]:
            found[-1]["continuations"] += request["continuations"]
        else:
            found.append(request)
    return found


def golden(name: str) -> dict[str, Any]:
    """What a benchmark asks about the first rows of its built-in sample."""
    task = load_task(name)
    found: dict[str, Any] = {}
    for preset in ("paper", "lm-eval"):
        if preset in task.presets:
            options = task.protocol(preset).options
            rows = load(task.source(options), Where(sample=True)).rows
            examples = task.read(rows[: STREAM_ROWS if task.stream else ROWS], options)
            prompt = task.prompt(options)
            asked = [in_words(r) for e in examples for r in task.ask(e, prompt, options)]
            found[preset] = merged(asked)
    return {"version": task.version, "requests": found}


@pytest.mark.parametrize("name", TASKS)
def test_requests_are_the_golden_ones(name: str) -> None:
    held = json.loads(GOLDEN.read_text("utf-8"))[name]
    assert golden(name) == held, REWRITE.format(name=name)


def test_every_benchmark_is_held() -> None:
    assert list(json.loads(GOLDEN.read_text("utf-8"))) == TASKS


def test_merging_loses_nothing() -> None:
    requests: list[Request] = [
        Loglikelihood("a", " b"),
        Loglikelihood("a", " c"),
        NextWord("a", frozenset({"the"}), None),
        Loglikelihood("a", " d"),
        Loglikelihood("e", " f"),
    ]
    found = merged([in_words(request) for request in requests])
    assert [r.get("continuations") for r in found] == [[" b", " c"], None, [" d"], [" f"]]


if __name__ == "__main__":
    values = {name: golden(name) for name in TASKS}
    text = json.dumps(values, ensure_ascii=False, indent=1)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
