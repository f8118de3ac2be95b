"""Generation side by side with lm-eval: the same prompts, limit and stop rule, in one run.

    python -m benchmarks.generate_speed [--model demo] [--repeat 3] [--only coqa,nq,wmt,cnn]

Needs HARNESS_DATA and `pip install -c constraints.txt -e '.[bench]'`. Float32, CPU, two threads,
greedy. lm-eval runs `generate_until` at the best of its batch sizes 1, 8 and 16 (tried once on a
part of the prompts). The sides take turns; the median of the paired ratios is printed.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks import common
from benchmarks.common import seconds
from harness.core import Encoding, Generate
from harness.engine.checkpoint import Checkpoint
from harness.engine.engine import Engine

THREADS = 2
TARGETS = {"coqa": 6.0, "nq": 3.0, "wmt": 2.0, "cnn": 1.3}
COUNTS = {"nq": 100, "wmt": 50, "cnn": 20}
STORIES = 10
ENCODING = Encoding(bos="tokenizer")


def prompts(kind: str, engine: Engine) -> list[Generate]:
    """The prompts of one comparison, cut to the context beforehand so that both sides see one."""
    asked = common.prompts(kind)
    if kind == "coqa":
        stories = list(dict.fromkeys(request.parts[0] for request in asked))[:STORIES]
        asked = [request for request in asked if request.parts[0] in stories]
    else:
        asked = asked[: COUNTS[kind]]
    text = engine.tokenizer.text
    encoded = engine.encode(asked, ENCODING)
    return [
        replace(request, parts=(text(e.spans[0].inputs),))
        for request, e in zip(asked, encoded, strict=True)
    ]


def lm_eval_runner(
    checkpoint: Checkpoint, asked: Sequence[Generate]
) -> tuple[Callable[[], object], int]:
    """lm-eval at the best of three batch sizes, and that size."""
    instances = common.lm_eval_instances(asked)
    part = instances[:: max(1, len(instances) // 16)]
    tried: dict[int, tuple[float, Callable[[], object]]] = {}
    for size in (1, 8, 16):
        method = common.lm_eval_model(checkpoint, batch_size=size).generate_until
        spent = seconds(lambda m=method: m(part, disable_tqdm=True))  # type: ignore[misc]
        tried[size] = (spent, lambda m=method: m(instances, disable_tqdm=True))  # type: ignore[misc]
    best = min(tried, key=lambda size: tried[size][0])
    return tried[best][1], best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", choices=["gpt2", "demo"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="coqa,nq,wmt,cnn")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    checkpoint = common.checkpoint(options.model)
    engine = Engine(checkpoint)
    print("| prompts | lm-eval s (batch) | ours s | ratio | wanted | asked / computed |")
    print("|---|--:|--:|--:|--:|--:|")
    for kind in options.only.split(","):
        asked = prompts(kind, engine)
        theirs, size = lm_eval_runner(checkpoint, asked)
        pairs: list[tuple[float, float]] = []
        before = engine.tokens
        for _ in range(options.repeat):
            mine = seconds(lambda a=asked: list(engine.answer(a, engine.encode(a, ENCODING))))  # type: ignore[misc]
            pairs.append((seconds(theirs), mine))
        spent = engine.tokens - before
        ratio = statistics.median(peer / mine for peer, mine in pairs)
        peer_s, our_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        cells = [
            f"{kind} ({len(asked)})",
            f"{peer_s:.1f} ({size})",
            f"{our_s:.1f}",
            f"{ratio:.1f}",
            f"{TARGETS[kind]}",
            f"{spent.asked:,} / {spent.computed:,} = {spent.asked / spent.computed:.1f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
