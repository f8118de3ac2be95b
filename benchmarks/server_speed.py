"""vLLM on this CPU beside us: `python -m benchmarks.speed --server [ENVIRONMENT]`.

Three sides take turns on the same requests and weights in float32: vLLM asked in its own way (all
requests at once, up to 32 in flight, one call each, log-probabilities of prompts as lm-eval asks
for them), our harness with that server as its model, and our harness with the model in this
process. The server's prefix cache is emptied before each of its turns, and the turn of one side
leaves the others idle.
"""

import json
import signal
import statistics
import sys
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common, speed, vllm_server
from harness.core import Generate, Generated
from harness.engine.checkpoint.locate import DEMO, locate
from harness.engine.checkpoint.settings import Settings
from harness.engine.endpoint.connect import connect
from harness.engine.endpoint.settings import EndpointSettings
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoded

WORKS = ("lambada", "choices", "coqa")
IN_FLIGHT = 32  # calls; the server computes as many sequences at once
Value = float | str  # nats of a continuation, or a text


class Answers(NamedTuple):
    """What one side made of the requests, and in which time."""

    seconds: float
    values: list[Value]


def ours(engine: Engine, work: speed.Work) -> Answers:
    """Our harness, tokenisation included."""
    found: dict[int, Any] = {}

    def run() -> None:
        found.update(engine.answer(work.asked, engine.encode(work.asked, work.encoding)))

    spent = common.seconds(run)
    values = [found[i] for i in range(len(work.asked))]
    return Answers(spent, [v.text if isinstance(v, Generated) else v.logprob for v in values])


def vllm(url: str, work: speed.Work, encoded: Sequence[Encoded]) -> Answers:
    """The server asked in its own way, with prompts as token ids."""
    bodies = [_body(asked, e) for asked, e in zip(work.asked, encoded, strict=True)]
    values: list[Value] = []

    def run() -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            replies = pool.map(lambda body: _post(url, body), bodies)
            values.extend(map(_value, replies, work.asked, encoded))

    return Answers(common.seconds(run), values)


def _body(asked: object, encoded: Encoded) -> dict[str, Any]:
    [span] = encoded.spans
    if isinstance(asked, Generate):
        stop = {"stop": [*asked.stop]} if asked.stop else {}
        return {"prompt": span.inputs, "max_tokens": asked.max_new_tokens, **stop}
    return {"prompt": [*span.inputs, span.targets[-1]], "max_tokens": 1, "prompt_logprobs": 1}


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps({"model": vllm_server.MODEL, "temperature": 0, **body}).encode()
    call = urllib.request.Request(
        f"{url}/completions", data, {"Content-Type": "application/json"}
    )  # fmt: skip
    with urllib.request.urlopen(call, timeout=vllm_server.START_SECONDS) as reply:
        [choice] = json.load(reply)["choices"]
        return dict(choice)


def _value(choice: dict[str, Any], asked: object, encoded: Encoded) -> Value:
    if isinstance(asked, Generate):
        return str(choice["text"])
    [span] = encoded.spans
    entries = choice["prompt_logprobs"][-len(span.targets) :]
    pairs = zip(entries, span.targets, strict=True)
    return sum(float(entry[str(token)]["logprob"]) for entry, token in pairs)


def apart(one: Sequence[Value], other: Sequence[Value]) -> str:
    """The largest difference in nats, or how many texts differ."""
    pairs = [*zip(one, other, strict=True)]
    if isinstance(one[0], str):
        return f"{sum(a != b for a, b in pairs)} texts"
    return f"{max(abs(float(a) - float(b)) for a, b in pairs):.1e} nats"


def compare(
    environment: Path, model: str, works: Sequence[str], count: int | None, rounds: int
) -> None:
    """Print one row per work: medians, and the median of the paired ratios."""
    vllm_server.install(environment)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # ends the server as well
    name = DEMO if model == "demo" else common.random_gpt2()
    folder, port = locate(name, Settings()).folder, vllm_server.free_port()
    setup = vllm_server.Setup(environment.resolve(), folder, port, threads=speed.THREADS)
    here = Engine(common.checkpoint(model))
    with vllm_server.running(setup) as server:
        behind = Engine(connect(EndpointSettings(setup.url), store_results=False))
        print(f"{rounds} rounds\n")
        print("| work (requests) | vLLM s | ours behind vLLM s | ours s | vLLM / ours behind it "
              "| vLLM / ours | apart |\n|---|--:|--:|--:|--:|--:|--:|", flush=True)  # fmt: skip
        for one in works:
            # Prompts are cut to the shorter context.
            work = speed.work(one, common.checkpoint(model), behind, count)
            encoded = behind.encode(work.asked, work.encoding)
            ours(here, work)  # the first run is slower
            turns: list[tuple[Answers, ...]] = []
            for _ in range(rounds):
                server.forget()
                theirs = vllm(setup.url, work, encoded)
                server.forget()
                turns.append((theirs, ours(behind, work), ours(here, work)))
            print(f"| {' | '.join(_cells(work, turns))} |", flush=True)


def _cells(work: speed.Work, turns: Sequence[tuple[Answers, ...]]) -> list[str]:
    sides = zip(*turns, strict=True)
    medians = [statistics.median(turn.seconds for turn in side) for side in sides]
    theirs, *both = turns[-1]
    return [
        f"{work.name} ({len(work.asked)})",
        *(f"{spent:.1f}" for spent in medians),
        *(f"**{_ratio(turns, side):.1f}**" for side in (1, 2)),
        " / ".join(apart(theirs.values, side.values) for side in both),
    ]


def _ratio(turns: Sequence[tuple[Answers, ...]], side: int) -> float:
    """How many times a side of ours is faster than vLLM's own way."""
    return statistics.median(turn[0].seconds / turn[side].seconds for turn in turns)
