"""Side by side with lm-eval on the same weights, requests and threads, in one run.

    python -m benchmarks.lm_eval_speed [--model gpt2] [--repeat 3] [--only lambada,choices,rolling]

Needs HARNESS_DATA and `pip install -c constraints.txt -e '.[bench]'`. Float32, CPU, two threads;
lm-eval runs at the best of its batch sizes 1, 8 and 32 (tried once on a part of the requests).
The sides take turns and the median of the paired ratios is printed. The same run measures the
machine's plain matrix-product rate, taking turns with our LAMBADA trunk, and the bound: the ratio
that would be reached if the products we need ran at that rate and nothing else took time.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks import common
from benchmarks.common import seconds
from harness.core import Encoding, Loglikelihood, Request, Tokens
from harness.engine.checkpoint import Checkpoint
from harness.engine.engine import Engine
from harness.engine.plan import arrange, batches

THREADS = 2
TARGETS = {"lambada": 3.5, "choices": 12.0, "rolling": 1.6}


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    requests: Sequence[Request]
    encoding: Encoding


def cases(checkpoint: Checkpoint, names: Sequence[str]) -> list[Case]:
    """The three kinds of requests of Table 3."""
    plain = Encoding(bos="tokenizer")
    made: dict[str, Callable[[], Case]] = {
        "lambada": lambda: Case("lambada", common.lambada(400), plain),
        "choices": lambda: Case("choices", common.choices(4, checkpoint), plain),
        "rolling": lambda: Case(
            "rolling", common.pages(12_000, checkpoint), Encoding(windows="lm-eval")
        ),
    }
    return [made[name]() for name in names]


def run_ours(engine: Engine, case: Case) -> None:
    """Encode and answer everything."""
    list(engine.answer(case.requests, engine.encode(case.requests, case.encoding)))


def lm_eval_runner(checkpoint: Checkpoint, case: Case) -> tuple[Callable[[], object], int]:
    """lm-eval at the best of three batch sizes, and that size."""
    instances = common.lm_eval_instances(case.requests)
    part = instances[: max(1, len(instances) // 8)]
    tried: dict[int, tuple[float, Callable[[], object]]] = {}
    for size in (1, 8, 32):
        peer = common.lm_eval_model(checkpoint, batch_size=size)
        kind = (
            "loglikelihood"
            if isinstance(case.requests[0], Loglikelihood)
            else ("loglikelihood_rolling")
        )
        method = getattr(peer, kind)
        spent = seconds(lambda m=method: m(part, disable_tqdm=True))  # type: ignore[misc]
        tried[size] = (spent, lambda m=method: m(instances, disable_tqdm=True))  # type: ignore[misc]
    best = min(tried, key=lambda size: tried[size][0])
    return tried[best][1], best


def matmul_seconds(rows: int, shapes: Sequence[torch.Size]) -> float:
    """Time of the plain float32 products of one layer on so many rows, nothing else."""
    spent = 0.0
    for inner, columns in shapes:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        spent += statistics.median(seconds(lambda a=a, b=b: a @ b) for _ in range(3))  # type: ignore[misc]
    return spent


def trunk_rate(checkpoint: Checkpoint, engine: Engine) -> tuple[float, float]:
    """GFLOP/s of our LAMBADA trunk, and of plain products of the same shapes beside it.

    Only matrix products count as work. Batches and products take turns, so that both see the
    same machine.
    """
    case = Case("lambada", common.lambada(400), Encoding(bos="tokenizer"))
    spans = list({s for e in engine.encode(case.requests, case.encoding) for s in e.spans})
    base = checkpoint.model.base_model
    layer = next(m for m in base.children() if isinstance(m, torch.nn.ModuleList))[0]
    shapes = [p.shape for p in layer.parameters() if p.ndim == 2]
    flops = 2 * sum(shape.numel() for shape in shapes)
    layers = checkpoint.model.config.num_hidden_layers
    trunk: list[float] = []
    plain: list[float] = []
    with torch.inference_mode():
        for batch in batches(arrange(spans, None), engine.describe()["budget"]):
            ids = torch.zeros((len(batch), max(len(row) for row in batch)), dtype=torch.long)
            count = ids.numel()
            before = matmul_seconds(count, shapes)
            spent = seconds(lambda ids=ids: base(input_ids=ids, use_cache=False))  # type: ignore[misc]
            after = matmul_seconds(count, shapes)
            trunk.append(count * flops * layers / spent / 1e9)
            plain.append(2 * count * flops / (before + after) / 1e9)
    return statistics.median(trunk), statistics.median(plain)


def gflops(checkpoint: Checkpoint, tokens: Tokens) -> float:
    """Matrix products that our answers needed: the trunk on tokens fed, the head on those read."""
    head = checkpoint.model.get_input_embeddings().weight.numel()
    trunk = sum(p.numel() for p in checkpoint.model.base_model.parameters()) - head
    return 2 * (tokens.computed * trunk + tokens.scored * head) / 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="lambada,choices,rolling")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    checkpoint = common.checkpoint(options.model)
    engine = Engine(checkpoint)
    ours, plain = trunk_rate(checkpoint, engine)
    print(f"trunk {ours:.0f} GFLOP/s, plain products {plain:.0f} GFLOP/s: {ours / plain:.0%}")
    print("| requests | lm-eval s (batch) | ours s | ratio | wanted | bound | asked | computed |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for case in cases(checkpoint, options.only.split(",")):
        theirs, size = lm_eval_runner(checkpoint, case)
        pairs: list[tuple[float, float]] = []
        before = engine.tokens
        for _ in range(options.repeat):
            mine = seconds(lambda case=case: run_ours(engine, case))  # type: ignore[misc]
            pairs.append((seconds(theirs), mine))
        spent = engine.tokens - before
        ratio = statistics.median(peer / mine for peer, mine in pairs)
        peer_s, our_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        bound = peer_s * plain * options.repeat / gflops(checkpoint, spent)
        cells = [
            f"{case.name} ({len(case.requests)})",
            f"{peer_s:.1f} ({size})",
            f"{our_s:.1f}",
            f"{ratio:.1f}",
            f"{TARGETS[case.name]}",
            f"{bound:.1f}",
            f"{spent.asked // options.repeat:,}",
            f"{spent.computed // options.repeat:,}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
