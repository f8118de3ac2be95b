"""Golden requests: the exact strings that a benchmark sends, as JSON that shows in a review.

    python -m harness.testing.golden NAME FILE

writes those of an installed benchmark's first sample rows. A change in them moves scores.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core import Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.data.load import Where, load, load_pool
from harness.errors import HarnessError, UsageError
from harness.plugins.registry import load_task
from harness.runner import Job, prepare
from harness.task import Protocol, Task

ROWS = 2
STREAM_ROWS = 4  # of running text: so few lines hold a heading and a paragraph
_MERGED = {"loglikelihood": "continuations", "generate": "seeds"}


def in_words(request: Request) -> dict[str, Any]:
    """One request as JSON; of a stop list its length and checksum."""
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


def merged(requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours that differ in one list as one entry: ten choices share a long passage."""
    found: list[dict[str, Any]] = []
    for request in requests:
        several = _MERGED.get(request["kind"])
        if several and found and {**found[-1], several: []} == {**request, several: []}:
            found[-1][several] += request[several]
        else:
            found.append(request)
    return found


def sample_job(task: Task, protocol: Protocol, rows: int) -> Job:
    """The first `rows` of the built-in sample; example pairs come from the built-in pool."""
    options, where = protocol.options, Where(sample=True)
    data = load(task.source(options), where)
    pool = load_pool(task.few_shot.source(options), where) if task.few_shot else None
    return Job(task, protocol, replace(data, rows=data.rows[:rows]), pool=pool)


def golden(task: Task, presets: Iterable[str] | None = None) -> dict[str, Any]:
    """What a benchmark asks about the first rows of its sample, under each of its `presets`."""
    rows = STREAM_ROWS if task.stream else ROWS
    found = {}
    for preset in presets if presets is not None else task.protocols:
        asked = prepare(sample_job(task, task.protocol(preset), rows))
        found[preset] = merged([in_words(request) for request in asked.requests])
    return {"version": task.version, "requests": found}


def main(arguments: Sequence[str]) -> None:
    """Write the golden requests of one benchmark.

    Raises:
        UsageError: two arguments are expected, a benchmark and a file.
    """
    if len(arguments) != 2:
        raise UsageError(
            f"python -m harness.testing.golden NAME FILE takes 2, got {len(arguments)}"
        )
    name, path = arguments
    text = json.dumps(golden(load_task(name)), ensure_ascii=False, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HarnessError as error:
        sys.exit(f"harness: {error}")
