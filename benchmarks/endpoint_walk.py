"""Compare the two ways to score options behind vLLM, and the planner's choice between them.

    python -m benchmarks.endpoint_walk [--env DIR] [--blocks 128,32] [--rounds 1]

CBT-shaped questions: a context of 336 or 550 tokens and ten options of 2, 7 or 25 tokens, once by
the prefix-tree walk, once by prompt log-probabilities, once as the planner decides. The prefix
cache is emptied before each. Processor time is that of all processes of the server, and tokens are
those that it computed by its own count; of several rounds the least is shown.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, vllm_server
from harness.engine.endpoint.answers.cost import Cost
from harness.engine.endpoint.answers.spans import plans
from harness.engine.endpoint.backend import Endpoint, Verified
from harness.engine.endpoint.connect import connect
from harness.engine.endpoint.dialects.dialect import Abilities
from harness.engine.endpoint.settings import EndpointSettings
from harness.engine.queries.query import Span, SpanScores

CHOICES = 10  # options of a question
WAYS = ("walk", "prompt", "choice")
ACCEPTED = 1.1  # times the better way


def question(ids: Sequence[int], context: int, option: int) -> list[Span]:
    """Ten options after the same context, each with another first token."""
    head, rest = tuple(ids[:context]), ids[context:]
    starts: dict[int, int] = {}
    for place in range(0, len(rest) - option, option):
        starts.setdefault(rest[place], place)
    places = itertools.islice(starts.values(), CHOICES)
    tails = [tuple(rest[place : place + option]) for place in places]
    return [Span((*head, *tail[:-1]), tail) for tail in tails]


class Spent(NamedTuple):
    """What one question cost."""

    wall: float  # seconds
    processor: float  # seconds of the server
    tokens: int  # computed by the server

    def __str__(self) -> str:
        return f"{self.wall:.1f} s / {self.processor:.1f} s / {self.tokens:,}"


@dataclass
class Measured:
    """A question asked in every way."""

    chosen: str  # what the planner takes
    costs: dict[str, Spent]
    scores: dict[str, list[SpanScores]]

    @property
    def ratio(self) -> float:
        """The processor time of the chosen way, as a multiple of the better way's."""
        times = {way: self.costs[way].processor for way in WAYS[:2]}
        return times[self.chosen] / min(times.values())

    @property
    def spread(self) -> float:
        """The largest difference between the log-probabilities of a token."""
        flat = [np.concatenate([s.logprobs for s in scores]) for scores in self.scores.values()]
        return float((np.max(flat, axis=0) - np.min(flat, axis=0)).max())


def every_way(url: str) -> dict[str, Endpoint]:
    """The model behind a server, asked in each way."""
    endpoint = connect(EndpointSettings(url), store_results=False)
    abilities = endpoint.served.abilities
    walk = abilities._replace(prompt_logprobs=False)  # the sentinel then walks as well
    return {
        "walk": _with(endpoint, walk),
        "prompt": _with(endpoint, abilities._replace(named=0)),
        "choice": endpoint,
    }


def _with(endpoint: Endpoint, abilities: Abilities) -> Endpoint:
    served = endpoint.served
    return Endpoint(
        served.transport,
        served.dialect,
        endpoint.tokenizer,
        endpoint.identity,
        Verified(abilities, served.sentinel),
        endpoint.options.ends,
    )


def ask(server: vllm_server.Server, endpoint: Endpoint, spans: Sequence[Span]) -> Any:
    """The scores of spans, and what they cost."""
    server.forget()
    processor, computed = server.cpu_seconds(), server.computed()
    begun = time.perf_counter()
    answers: dict[Any, Any] = {}
    for part in endpoint.answer(spans, (), lambda done, total: None):
        answers |= part
    wall = time.perf_counter() - begun
    spent = server.cpu_seconds() - processor
    return [answers[s].value for s in spans], Spent(wall, spent, server.computed() - computed)


def measure(
    server: vllm_server.Server, endpoints: dict[str, Endpoint], spans: Sequence[Span], rounds: int
) -> Measured:
    """Ask a question in every way, in turn."""
    served = endpoints["choice"].served
    [plan] = plans(spans, Cost(served.abilities))
    found = Measured(plan.way, {}, {})
    for _ in range(rounds):
        for way in WAYS:
            found.scores[way], cost = ask(server, endpoints[way], spans)
            old = found.costs.get(way, cost)
            found.costs[way] = Spent(*map(min, old, cost))
    return found


def main() -> None:
    """Print one row per question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    vllm_server.add_options(parser)
    parser.add_argument("--blocks", default="128,32")
    parser.add_argument("--contexts", default="336,550")
    parser.add_argument("--options", default="2,7,25")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    shapes = [[int(n) for n in text.split(",")] for text in (options.contexts, options.options)]
    text = (common.data_dir() / "tinyshakespeare" / "input.txt").read_text("utf-8")
    print("wall / processor time of the server / tokens computed by the server\n")
    print("| block | context | option | walk | prompt log-probabilities | planner's choice "
          "| it takes | times the better | largest gap |")  # fmt: skip
    print("|--:|--:|--:|--:|--:|--:|---|--:|--:|", flush=True)
    worst = 0.0
    for block in map(int, options.blocks.split(",")):
        setup = vllm_server.demo_setup(options, block=block)
        with vllm_server.running(setup) as server:
            endpoints = every_way(setup.url)
            ids = endpoints["choice"].tokenizer.encode([text[:40_000]])[0]
            for context, option in itertools.product(*shapes):
                spans = question(ids[10 * context + option :], context, option)
                found = measure(server, endpoints, spans, options.rounds)
                worst = max(worst, found.ratio)
                cells = [str(block), str(context), str(option), *map(str, found.costs.values())]
                cells += [found.chosen, f"{found.ratio:.2f}", f"{found.spread:.1e}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nthe way that the planner takes costs at most {worst:.2f} times the processor time of "
          f"the better one; wanted: at most {ACCEPTED}")  # fmt: skip
    sys.exit(0 if worst <= ACCEPTED else 1)


if __name__ == "__main__":
    main()
