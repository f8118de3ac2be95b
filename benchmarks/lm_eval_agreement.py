"""Compare log-probabilities and greedy flags with lm-eval, example by example.

    python -m benchmarks.lm_eval_agreement [--models demo,gpt2] [--items 200] [--tokens 20000]

Needs HARNESS_DATA and `pip install -c constraints.txt -e '.[bench]'`. Float32 on the CPU, the same
weights on both sides, under the `lm-eval` protocols. `--golden FILE` also writes lm-eval's results
on the built-in samples with the demo checkpoint, which a test compares with ours.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import common
from harness.core import Encoding, Request, Rolled, Scored
from harness.data import load as data
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine
from harness.plugins.registry import load_task
from harness.runner import Job, prepare
from harness.task import encoding


def ours(checkpoint: Checkpoint, asked: Sequence[Request], how: Encoding) -> list[Scored | Rolled]:
    """Our responses, in order."""
    engine = Engine(checkpoint)
    answers = dict(engine.answer(asked, engine.encode(asked, how)))
    found = [answers[i] for i in range(len(asked))]
    assert all(isinstance(answer, Scored | Rolled) for answer in found)
    return found  # type: ignore[return-value]


def preset_encoding(task: str) -> Encoding:
    """The engine's part of a task's protocol `lm-eval`."""
    return encoding(load_task(task).protocol("lm-eval").options)


def compare(name: str, items: int, tokens: int) -> Iterator[str]:
    """Rows of the table for one checkpoint."""
    checkpoint = common.checkpoint(name)
    asked = common.lambada(items)
    instances = common.lm_eval_instances(asked)
    mine = ours(checkpoint, asked, preset_encoding("lambada"))
    peer = common.lm_eval_model(checkpoint, batch_size=8)
    theirs = peer.loglikelihood(instances, disable_tqdm=True)
    gaps = [abs(m.logprob - t) for m, (t, _) in zip(mine, theirs, strict=True)]
    flags = sum(
        isinstance(m, Scored) and m.is_greedy == bool(g)
        for m, (_, g) in zip(mine, theirs, strict=True)
    )
    yield row(name, "lambada", mine, gaps, f"{flags} of {len(asked)} flags equal")

    pages = common.pages(tokens, checkpoint)
    instances = common.lm_eval_instances(pages)
    mine = ours(checkpoint, pages, preset_encoding("wikitext2"))
    for dtype in (None, "float64"):
        peer = common.lm_eval_model(checkpoint, batch_size=1, softmax_dtype=dtype)
        sums = peer.loglikelihood_rolling(instances, disable_tqdm=True)
        gaps = [abs(m.logprob - t) for m, t in zip(mine, sums, strict=True)]
        yield row(name, "wikitext", mine, gaps, f"its softmax in {dtype or 'float32'}")


def row(
    model: str, what: str, mine: Sequence[Scored | Rolled], gaps: Sequence[float], note: str
) -> str:
    """One line of the table."""
    tokens = [answer.num_tokens for answer in mine]
    per_token = max(gap / n for gap, n in zip(gaps, tokens, strict=True))
    cells = [model, what, note, str(len(mine)), f"{sum(tokens):,}"]
    return f"| {' | '.join(cells)} | {max(gaps):.1e} | {per_token:.1e} |"


def write_golden(path: Path) -> None:
    """lm-eval's results on the built-in samples, to be committed."""
    checkpoint = common.checkpoint("demo")
    peer = common.lm_eval_model(checkpoint, batch_size=4)
    golden: dict[str, object] = {"peer": "lm-eval 0.4.13", "weights": checkpoint.identity.digest}
    for task in ("lambada", "wikitext2"):
        found = load_task(task)
        protocol = found.protocol("lm-eval")
        rows = data.load(found.source(protocol.options), data.Where(sample=True))
        instances = common.lm_eval_instances(prepare(Job(found, protocol, rows)).requests)
        if task == "lambada":
            results = peer.loglikelihood(instances, disable_tqdm=True)
            golden[task] = [[round(float(p), 6), bool(g)] for p, g in results]
        else:
            for dtype, key in ((None, task), ("float64", f"{task}, softmax in float64")):
                peer = common.lm_eval_model(checkpoint, batch_size=1, softmax_dtype=dtype)
                sums = peer.loglikelihood_rolling(instances, disable_tqdm=True)
                golden[key] = [round(float(p), 5) for p in sums]
    path.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"wrote {path}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="demo,gpt2")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--golden", type=Path)
    options = parser.parse_args()
    if options.golden:
        write_golden(options.golden)
        return
    print("| model | requests | | items | tokens | largest gap of an item | of a token |")
    print("|---|---|---|--:|--:|--:|--:|")
    for name in options.models.split(","):
        for line in compare(name, options.items, options.tokens):
            print(line, flush=True)
    print("gaps in nats; that of a token is an item's gap divided by its tokens")


if __name__ == "__main__":
    main()
