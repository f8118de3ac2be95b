"""Compare scores under other token budgets, another order and without sharing.

    python -m benchmarks.invariance [--model demo] [--items 40]

Needs HARNESS_DATA. Prints the largest relative difference of an example's log-probability from the
plain run (budget 1,024, no sharing, file order), which must stay within 1e-5 in float32.
"""

import argparse
import random

from benchmarks import common
from harness.core import Encoding, Request, Response, Rolled, Scored
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine

BOUND = 1e-5


def logprobs(checkpoint: Checkpoint, asked: list[Request], budget: int, share: bool) -> list[float]:
    """Log-probability of every request."""
    engine = Engine(checkpoint, budget=budget, share=share)
    answers: dict[int, Response] = dict(
        engine.answer(asked, engine.encode(asked, Encoding(windows="plain")))
    )
    found = [answers[i] for i in range(len(asked))]
    return [answer.logprob for answer in found if isinstance(answer, Scored | Rolled)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", choices=["gpt2", "demo"])
    parser.add_argument("--items", type=int, default=40)
    options = parser.parse_args()
    checkpoint = common.checkpoint(options.model)
    asked = [
        *common.lambada(options.items),
        *common.choices(1, checkpoint),
        *common.requests("cbt-cn", "paper")[:10],
        *common.pages(2_000, checkpoint),
    ]
    plain = logprobs(checkpoint, asked, 1024, share=False)
    order = list(range(len(asked)))
    random.Random(common.SEED).shuffle(order)
    print(f"{len(asked)} requests, model {options.model}")
    print("| budget | order | sharing | largest relative difference | |")
    print("|--:|---|---|--:|---|")
    for budget in (256, 1024, 4096):
        for share in (True, False):
            got = logprobs(checkpoint, [asked[i] for i in order], budget, share)
            worst = max(abs(g / plain[i] - 1) for i, g in zip(order, got, strict=True))
            sharing = "on" if share else "off"
            verdict = "ok" if worst <= BOUND else "APART"
            print(f"| {budget} | shuffled | {sharing} | {worst:.1e} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
