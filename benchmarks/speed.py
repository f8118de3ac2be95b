"""Compare our speed with lm-eval and a plain loop: same weights, requests and threads.

    python -m benchmarks.speed [--model gpt2|demo] [--rounds 3] [--only lambada,choices,...]
    python -m benchmarks.speed --beside PATH    our own time here and in another checkout
    python -m benchmarks.speed --server         vLLM, on this CPU, and what it answers for us
    python -m benchmarks.speed --only choices --count 30    30 questions instead of 3

Needs HARNESS_DATA and `pip install -c constraints.txt -e '.[bench]'`. Float32, CPU, two threads;
lm-eval runs at the best of its batch sizes 1, 8, 16 and 32, or of those that `--sizes` gives. All
sides take turns. Shows medians, and the median of the paired ratios with the smallest and the
largest of them. The plain loop runs once, on every fourth request, and its time is scaled by their
share of the tokens. The last column is the time that the products of our run would take at the rate
of packed products measured in the same run, as a share of our time.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import common, peers, rates
from benchmarks.common import seconds
from harness.core import Encoding, Generate, Request, Tokens
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoded

THREADS = 2
PLAIN_PART = 4  # the plain loop answers one request in this many
TARGETS = {
    "lambada": 4.0,
    "choices": 18.0,
    "wikitext": 1.8,
    "coqa": 14.0,
    "nq": 6.0,
    "wmt": 6.0,
    "cnn": 4.0,
}
"""The required ratio to lm-eval, for GPT-2."""
COUNTS = {"lambada": 200, "choices": 3, "wikitext": 8000, "coqa": 3, "nq": 50, "wmt": 25, "cnn": 12}
"""Passages, questions, tokens, stories with all turns, questions, pairs, articles."""
PLAIN = Encoding(bos="tokenizer")


@dataclass(frozen=True)
class Work:
    """One comparison."""

    name: str
    asked: Sequence[Request]
    encoding: Encoding


def work(name: str, checkpoint: Checkpoint, engine: Engine, count: int | None = None) -> Work:
    """The requests of one comparison; without a count those of `COUNTS`."""
    count = count or COUNTS[name]
    if name == "lambada":
        return Work(name, common.lambada(count), PLAIN)
    if name == "choices":
        return Work(name, common.choices(count, checkpoint), PLAIN)
    if name == "wikitext":
        return Work(name, common.pages(count, checkpoint), Encoding(windows="lm-eval"))
    asked = common.prompts(name)
    if name == "coqa":
        stories = list(dict.fromkeys(request.parts[0] for request in asked))[:count]
        asked = [request for request in asked if request.parts[0] in stories]
    else:
        asked = asked[:count]
    return Work(name, _cut(asked, engine), PLAIN)


def _cut(asked: Sequence[Generate], engine: Engine) -> list[Generate]:
    """Prompts cut to the context beforehand, so that all sides see the same."""
    text = engine.tokenizer.decode
    encoded = engine.encode(asked, PLAIN)
    return [
        replace(request, parts=(text(e.spans[0].inputs),))
        for request, e in zip(asked, encoded, strict=True)
    ]


@dataclass(frozen=True)
class Timed:
    """What was measured of one comparison."""

    ours: list[float]
    lm_eval: list[float]
    size: int  # of lm-eval's batches
    plain: float
    tokens: Tokens
    operations: int  # of our products

    def cells(self, work: Work, rate: float, wanted: float | str) -> list[str]:
        """The row of the table."""
        mine = statistics.median(self.ours)
        ratios = [peer / own for peer, own in zip(self.lm_eval, self.ours, strict=True)]
        return [
            f"{work.name} ({len(work.asked)})",
            f"{statistics.median(self.lm_eval):.1f} ({self.size})",
            f"{self.plain:.1f}",
            f"{mine:.1f}",
            common.ratio_cell(ratios),
            f"{wanted}",
            f"{self.plain / self.ours[0]:.1f}",
            f"{self.tokens.asked:,} / {self.tokens.computed:,}",
            f"{self.operations / rate / mine:.0%}",
        ]


def measure(
    work: Work, checkpoint: Checkpoint, engine: Engine, rounds: int, sizes: Sequence[int]
) -> Timed:
    """All sides in turn, after a run of ours that counts for nothing."""
    encoded: list[Encoded] = engine.encode(work.asked, work.encoding)
    theirs, size = peers.lm_eval(checkpoint, work.asked, sizes)
    part = slice(None, None, PLAIN_PART)
    loop = peers.plain(checkpoint, work.asked[part], encoded[part])
    plain = seconds(loop) * _fed(encoded) / _fed(encoded[part])
    run(engine, work)
    ours: list[float] = []
    lm_eval: list[float] = []
    before = engine.tokens
    with rates.counted(checkpoint.model) as products:
        for _ in range(rounds):
            ours.append(seconds(lambda: run(engine, work)))
            lm_eval.append(seconds(theirs))
    spent = engine.tokens - before
    tokens = Tokens(asked=spent.asked // rounds, computed=spent.computed // rounds)
    return Timed(ours, lm_eval, size, plain, tokens, products.operations // rounds)


def _fed(encoded: Sequence[Encoded]) -> int:
    """Tokens that separate requests feed."""
    return sum(len(span.inputs) for e in encoded for span in e.spans)


def run(engine: Engine, work: Work) -> None:
    """Encode and answer everything."""
    for _ in engine.answer(work.asked, engine.encode(work.asked, work.encoding)):
        pass


def beside_lm_eval(
    model: str, works: Sequence[str], count: int | None, rounds: int, sizes: Sequence[int]
) -> None:
    """Print one row per work."""
    checkpoint = common.checkpoint(model)
    engine = Engine(checkpoint)
    packed, plain = rates.product_rates(checkpoint.model)
    print(f"{rounds} rounds; float32 products of one block:")
    print(f"{packed / 1e9:.0f} GFLOP/s packed, {plain / 1e9:.0f} GFLOP/s by plain torch\n")
    print(
        "| work (requests) | lm-eval s (batch) | plain loop s | ours s | lm-eval / ours |", end=""
    )
    print(" wanted | plain / ours | tokens asked / computed | products of our time |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in works:
        done = work(name, checkpoint, engine, count)
        timed = measure(done, checkpoint, engine, rounds, sizes)
        wanted = TARGETS[name] if model == "gpt2" else "-"
        print(f"| {' | '.join(timed.cells(done, packed, wanted))} |", flush=True)


def main() -> None:
    """Print the table."""
    from benchmarks import checkouts, server_speed, vllm_server

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--count", type=int, help="of passages, questions, stories and so on")
    parser.add_argument(
        "--sizes", type=lambda text: [*map(int, text.split(","))], default=peers.SIZES,
        help="lm-eval's batch sizes, of which the best counts",
    )  # fmt: skip
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument("--beside", type=Path, metavar="PATH", help="another checkout")
    sides.add_argument(
        "--server", type=Path, nargs="?", metavar="ENVIRONMENT",
        const=vllm_server.default_environment(), help="vLLM, and where it is installed",
    )  # fmt: skip
    options = parser.parse_args()
    if options.beside and options.count:
        parser.error("--beside takes no --count: an older checkout knows only its own")
    torch.set_num_threads(THREADS)
    print(f"{common.title(options.model)}; ", end="")
    if options.beside:
        checkouts.compare(options.beside, options.model, options.only or [*TARGETS], options.rounds)
    elif options.server:
        works = options.only or server_speed.WORKS
        server_speed.compare(options.server, options.model, works, options.count, options.rounds)
    else:
        works = options.only or [*TARGETS]
        beside_lm_eval(options.model, works, options.count, options.rounds, options.sizes)


if __name__ == "__main__":
    main()
