"""Show where the time goes: `python -m benchmarks.shares [--model gpt2|demo]`, by torch's profiler.

The rest is Python, planning, tokenisation, and the profiler.
"""

import argparse
import time

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import common, speed
from harness.engine.engine import Engine

KINDS = {
    "products": ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::linear"),
    "attention": (  # bmm and softmax are those of cascade attention
        "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::bmm", "aten::_softmax",
    ),
    "log-sum-exp": (
        "aten::exp2_", "aten::exp_", "aten::sub_", "aten::add.out", "aten::sum", "aten::amax",
        "aten::topk",
    ),
    "norms and activations": (
        "aten::native_layer_norm", "aten::gelu", "aten::silu", "aten::mul", "aten::pow",
        "aten::mean", "aten::rsqrt", "aten::add", "aten::neg",
    ),
}  # fmt: skip


def shares(name: str, model: str) -> dict[str, float]:
    """Fraction of the wall time by kind, of one work of `benchmarks.speed`."""
    checkpoint = common.checkpoint(model)
    engine = Engine(checkpoint)
    work = speed.work(name, checkpoint, engine)
    speed.run(engine, work)  # the first run of all is slower
    begun = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        speed.run(engine, work)
    wall = time.perf_counter() - begun
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
    found = {kind: sum(spent.pop(op, 0.0) for op in ops) / wall for kind, ops in KINDS.items()}
    found["other operators"] = sum(spent.values()) / wall
    return {**found, "rest": 1 - sum(found.values())}


def main() -> None:
    """Print one line per kind of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--only", default=",".join(speed.TARGETS))
    options = parser.parse_args()
    torch.set_num_threads(speed.THREADS)
    print(f"{common.title(options.model)}\n")
    kinds = [*KINDS, "other operators", "rest"]
    print(f"| work | {' | '.join(kinds)} |\n|---|{'--:|' * len(kinds)}", flush=True)
    for name in options.only.split(","):
        found = shares(name, options.model)
        print(f"| {name} | {' | '.join(f'{found[kind]:.1%}' for kind in kinds)} |", flush=True)


if __name__ == "__main__":
    main()
