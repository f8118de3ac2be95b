"""Compare `--dtype bfloat16` with our own float32 on a CPU: speed, and error item by item.

    python -m benchmarks.bfloat16 [--model gpt2|demo] [--rounds 3] [--only lambada,...] [--small]

Needs HARNESS_DATA. Two threads. Three ways take turns in each round: float32, `products` (a
float32 model that multiplies in bfloat16, what `--dtype bfloat16` is on a CPU with instructions for
it), and `whole` (all of the model in bfloat16, as transformers runs it, over packed weights). Speed
is the median of the paired ratios of wall times; `cpu` is the ratio of CPU seconds, which other
work on the machine moves less. Errors are in nats an item (a passage, an option, a page), without
sign; `flips` counts items whose greedy flag changes, or texts that differ.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks import common, rates, speed
from harness.core import Generated
from harness.engine.checkpoint import load as loading
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import DEMO
from harness.engine.checkpoint.onednn import Bfloat16Product
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine

WORKS = ("lambada", "choices", "wikitext", "coqa")
SMALL = {"lambada": 40, "choices": 1, "wikitext": 1000, "coqa": 1}


@dataclass(slots=True)
class Side:
    """What was measured of one way to compute."""

    engine: Engine
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    responses: Mapping[int, Any] = field(default_factory=dict)


def checkpoints(model: str) -> dict[str, Checkpoint]:
    """The same checkpoint in the three ways."""
    name = DEMO if model == "demo" else common.random_gpt2()
    half = Settings(device="cpu", dtype="bfloat16")
    kept = loading.should_keep_float32
    loading.should_keep_float32 = lambda dtype, device: False
    try:
        whole = load(name, half)
    finally:
        loading.should_keep_float32 = kept
    return {
        "float32": load(name, Settings(device="cpu")),
        "products": load(name, half),
        "whole": whole,
    }


def measure(work: speed.Work, sides: Mapping[str, Side], rounds: int) -> None:
    """All sides in turn, after a run of each that counts for nothing."""
    for counts in [False, *[True] * rounds]:
        for side in sides.values():
            wall, cpu = time.perf_counter(), time.process_time()
            encoded = side.engine.encode(work.asked, work.encoding)
            side.responses = dict(side.engine.answer(work.asked, encoded))
            if counts:
                side.wall.append(time.perf_counter() - wall)
                side.cpu.append(time.process_time() - cpu)


def cells(side: Side, base: Side) -> list[str]:
    """Speed and errors of a side beside float32."""
    ratios = [a / b for a, b in zip(base.wall, side.wall, strict=True)]
    cpu = statistics.median(base.cpu) / statistics.median(side.cpu)
    pairs = [(side.responses[i], base.responses[i]) for i in sorted(base.responses)]
    shown = [
        f"{statistics.median(side.wall):.1f}",
        common.ratio_cell(ratios, 2),
        f"{cpu:.2f}",
    ]
    if isinstance(pairs[0][0], Generated):
        differ = sum(a.tokens != b.tokens for a, b in pairs)
        return [*shown, "-", "-", "-", f"{differ} of {len(pairs)}"]
    errors = np.array([abs(a.logprob - b.logprob) for a, b in pairs])
    flips = "-"
    if hasattr(pairs[0][0], "is_greedy"):
        flips = f"{sum(a.is_greedy != b.is_greedy for a, b in pairs)} of {len(pairs)}"
    found = (errors.mean(), np.quantile(errors, 0.99), errors.max())
    return [*shown, *(f"{x:.1e}" for x in found), flips]


def changed_choices(side: Side, base: Side) -> int:
    """How many questions of ten options have another best option."""
    best = [
        np.array([s.responses[i].logprob for i in sorted(base.responses)]).reshape(-1, 10).argmax(1)
        for s in (side, base)
    ]
    return int((best[0] != best[1]).sum())


def product_rates(model: Any, rounds: int = 5) -> tuple[float, float]:
    """Operations a second of the packed products of one block, in bfloat16 with float32 around.

    The second is without the conversions of input and output.
    """
    layers = next(m for m in model.base_model.children() if isinstance(m, torch.nn.ModuleList))
    packed = [m for m in layers[0].modules() if isinstance(m, Bfloat16Product)]
    fed = [torch.randn(rates.ROWS, m.weight.shape[1]) for m in packed]
    operations = 2 * rates.ROWS * sum(m.weight.numel() for m in packed)
    mixed: list[float] = []
    alone: list[float] = []
    bare = [m.multiply for m in packed]
    halves = [x.bfloat16() for x in fed]
    with torch.inference_mode():
        for _ in range(rounds):
            mixed.append(common.seconds(lambda: [m(x) for m, x in zip(packed, fed, strict=True)]))
            alone.append(common.seconds(lambda: [m(x) for m, x in zip(bare, halves, strict=True)]))
    return operations / statistics.median(mixed), operations / statistics.median(alone)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WORKS))
    parser.add_argument("--small", action="store_true", help="a fraction of the requests")
    options = parser.parse_args()
    torch.set_num_threads(speed.THREADS)
    if options.small:
        speed.COUNTS.update(SMALL)
    loaded = checkpoints(options.model)
    engines = {name: Engine(checkpoint) for name, checkpoint in loaded.items()}
    packed, _ = rates.product_rates(loaded["float32"].model)
    mixed, alone = product_rates(loaded["products"].model)
    print(f"{common.title(options.model)}; {options.rounds} rounds; packed products of one block:")
    print(
        f"{packed / 1e9:.0f} GFLOP/s in float32, {alone / 1e9:.0f} in bfloat16, {mixed / 1e9:.0f} "
        "with conversions from and to float32\n"
    )
    print("| work (requests) | way | s | float32 / this | cpu | mean | 99 % | largest | flips |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in options.only.split(","):
        work = speed.work(name, loaded["float32"], engines["float32"])
        sides = {way: Side(engine) for way, engine in engines.items()}
        measure(work, sides, options.rounds)
        for way, side in sides.items():
            label = f"{name} ({len(work.asked)})"
            row = cells(side, sides["float32"])
            if name == "choices":
                row[-1] += f", {changed_choices(side, sides['float32'])} choices"
            print(f"| {label} | {way} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
