"""Golden requests: the exact strings that a benchmark sends to the engine, as reviewable JSON.

    python -m harness.testing.golden NAME FILE

writes the requests for the first sample rows of an installed benchmark. A change in them moves
scores.
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

SAMPLE_ROWS = 2
STREAM_ROWS = 4  # of running text: a heading and a paragraph
_LISTS = {"loglikelihood": "continuations", "generate": "seeds"}


def as_json(request: Request) -> dict[str, Any]:
    """One request as JSON, with the length and checksum of a stop list in place of its words."""
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
    """Merge neighbours that differ in one list, such as ten choices after the same passage."""
    entries: list[dict[str, Any]] = []
    for request in requests:
        name = _LISTS.get(request["kind"])
        if name and entries and {**entries[-1], name: []} == {**request, name: []}:
            entries[-1][name] += request[name]
        else:
            entries.append(request)
    return entries


def sample_job(task: Task, protocol: Protocol, rows: int) -> Job:
    """A job on the first `rows` rows of the built-in sample, with the built-in example pairs."""
    options, where = protocol.options, Where(sample=True)
    data = load(task.source(options), where)
    pool = load_pool(task.few_shot.source(options), where) if task.few_shot else None
    return Job(task, protocol, replace(data, rows=data.rows[:rows]), pool=pool)


def golden(task: Task, protocols: Iterable[str] | None = None) -> dict[str, Any]:
    """The requests for the first sample rows under `protocols`; default: all of the task's."""
    rows = STREAM_ROWS if task.stream else SAMPLE_ROWS
    requests = {}
    for name in protocols if protocols is not None else task.protocols:
        prepared = prepare(sample_job(task, task.protocol(name), rows))
        requests[name] = merged([as_json(request) for request in prepared.requests])
    return {"version": task.version, "requests": requests}


def main(arguments: Sequence[str]) -> None:
    """Write the golden requests of one benchmark.

    Raises:
        UsageError: the arguments are not the name of a benchmark and a file.
    """
    if len(arguments) != 2:
        raise UsageError(
            f"python -m harness.testing.golden takes NAME and FILE, got {len(arguments)} arguments"
        )
    name, path = arguments
    text = json.dumps(golden(load_task(name)), ensure_ascii=False, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HarnessError as error:
        sys.exit(f"harness: {error}")
