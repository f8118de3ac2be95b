"""The exact strings that every benchmark sends to the engine, kept in golden_requests.json.

`python tests/test_golden_requests.py` rewrites the file. A change in it moves scores: raise the
`version` of the task, and say so in the changelog.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core import Generate, Loglikelihood, NextWord, Request
from harness.plugins.registry import load_task
from harness.testing.golden import as_json, golden, merged

GOLDEN = Path(__file__).with_name("golden_requests.json")
WORDS = ["lambada", "cbt-cn", "cbt-ne"]
SECTION3 = ["coqa", "cnn-dm", "wmt14-en-fr", "wmt14-fr-en", "nq", "winograd"]
TASKS = [*WORDS, "wikitext2", "wikitext103", "ptb", "enwik8", "text8", "lm1b", *SECTION3]
PRESETS = ("paper", "lm-eval", "no-hint", "gold")
REWRITE = (
    "{name} differs from its golden requests; if this is intended, raise Task.version "
    "and run `python tests/test_golden_requests.py`"
)


def asked(name: str) -> dict[str, Any]:
    """What a benchmark asks about the first rows of its built-in sample."""
    task = load_task(name)
    return golden(task, [preset for preset in PRESETS if preset in task.protocols])


@pytest.mark.parametrize("name", TASKS)
def test_requests_are_the_golden_ones(name: str) -> None:
    held = json.loads(GOLDEN.read_text("utf-8"))[name]
    assert asked(name) == held, REWRITE.format(name=name)


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
    found = merged([as_json(request) for request in requests])
    assert [r.get("continuations") for r in found[:4]] == [[" b", " c"], None, [" d"], [" f"]]
    assert [r.get("seeds") for r in found[4:]] == [[[0, 0], [0, 1]], [[0, 1]]]


if __name__ == "__main__":
    values = {name: asked(name) for name in TASKS}
    text = json.dumps(values, ensure_ascii=False, indent=1)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
