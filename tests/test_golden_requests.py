"""The exact strings that every benchmark sends to the engine, held in golden_requests.json.

`python tests/test_golden_requests.py` rewrites the file. A change in it moves scores: raise the
`version` of the task, and say so in the changelog.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core import Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.data import Where, load, load_pool
from harness.plugins import load_task
from harness.runner import Job, ask
from harness.task import Protocol, Task

GOLDEN = Path(__file__).with_name("golden_requests.json")
WORDS = ["lambada", "cbt-cn", "cbt-ne"]
SECTION3 = ["coqa", "cnn-dm", "wmt14-en-fr", "wmt14-fr-en", "nq", "winograd"]
TASKS = [*WORDS, "wikitext2", "wikitext103", "ptb", "enwik8", "text8", "lm1b", *SECTION3]
PRESETS = ("paper", "lm-eval", "no-hint")
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
        case Generate(parts, max_new_tokens, stop, top_k, seed, overflow):
            return {
                "kind": "generate",
                "parts": list(parts),
                "max_new_tokens": max_new_tokens,
                "stop": list(stop),
                "top_k": top_k,
                "overflow": overflow,
                "seeds": [list(seed)],
            }


MERGED = {"loglikelihood": "continuations", "generate": "seeds"}


def merged(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours that differ in one list as one entry: ten choices share a long passage."""
    found: list[dict[str, Any]] = []
    for request in requests:
        several = MERGED.get(request["kind"])
        if several and found and {**found[-1], several: []} == {**request, several: []}:
            found[-1][several] += request[several]
        else:
            found.append(request)
    return found


def first_rows(task: Task, protocol: Protocol) -> Job:
    """The first rows of the built-in sample; example pairs come from the built-in pool."""
    options, where = protocol.options, Where(sample=True)
    data = load(task.source(options), where)
    pool = load_pool(task.few_shot.source(options), where) if task.few_shot else None
    rows = data.rows[: STREAM_ROWS if task.stream else ROWS]
    return Job(task, protocol, replace(data, rows=rows), pool=pool)


def golden(name: str) -> dict[str, Any]:
    """What a benchmark asks about the first rows of its built-in sample."""
    task = load_task(name)
    found: dict[str, Any] = {}
    for preset in PRESETS:
        if preset in task.presets:
            requests = ask(first_rows(task, task.protocol(preset))).requests
            found[preset] = merged([in_words(request) for request in requests])
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
        Generate(("g",), 1, seed=(0, 0)),
        Generate(("g",), 1, seed=(0, 1)),
        Generate(("g",), 2, seed=(0, 1)),
    ]
    found = merged([in_words(request) for request in requests])
    assert [r.get("continuations") for r in found[:4]] == [[" b", " c"], None, [" d"], [" f"]]
    assert [r.get("seeds") for r in found[4:]] == [[[0, 0], [0, 1]], [[0, 1]]]


if __name__ == "__main__":
    values = {name: golden(name) for name in TASKS}
    text = json.dumps(values, ensure_ascii=False, indent=1)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
