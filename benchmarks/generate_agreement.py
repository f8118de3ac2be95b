"""Compare greedy answers with those of `model.generate`, prompt by prompt.

    python -m benchmarks.generate_agreement [--models demo,tiny] [--coqa 200] [--nq 100] [--wmt 50]

Needs HARNESS_DATA. `tiny` is a GPT-2 with two layers, random weights and the real tokenizer.
Answers may differ only where the two best logits are less than 1e-4 apart; such ties are counted.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import common
from harness.core import Encoding, Generate, Generated
from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import DEMO
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine

TIE = 1e-4  # between logits


def tiny_gpt2() -> str:
    """A folder with a two-layer GPT-2 of random weights and the real tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder: Path = cache_root() / "benchmarks" / f"gpt2-tiny-{common.SEED}"
    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(common.SEED)
        # Large weights, so that one token is clearly the best, as in a trained model.
        config = GPT2Config(n_layer=2, n_head=4, n_embd=64, initializer_range=0.4)
        GPT2LMHeadModel(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(common.random_gpt2()).save_pretrained(folder)
    return str(folder)


def compare(checkpoint: Checkpoint, asked: Sequence[Generate]) -> tuple[int, int, int]:
    """How many answers are equal, part at a tie, and part for no reason."""
    engine = Engine(checkpoint)
    encoded = engine.encode(asked, Encoding())
    answers = dict(engine.answer(asked, encoded))
    equal = ties = wrong = 0
    for i, request in enumerate(asked):
        mine = answers[i]
        assert isinstance(mine, Generated)
        prompt = encoded[i].spans[0].inputs
        theirs = generate(checkpoint, prompt, min(request.max_new_tokens, len(mine.tokens)))
        parted = next(
            (k for k, (a, b) in enumerate(zip(mine.tokens, theirs, strict=True)) if a != b), None
        )
        if parted is None:
            equal += 1
        elif gap(checkpoint, (*prompt, *theirs[:parted])) < TIE:
            ties += 1
        else:
            wrong += 1
    return equal, ties, wrong


def generate(checkpoint: Checkpoint, prompt: Sequence[int], count: int) -> list[int]:
    """What transformers generates greedily for one prompt, without stop strings."""
    ids = torch.tensor([prompt])
    found = checkpoint.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=None,
        eos_token_id=sorted(checkpoint.end_tokens),
        pad_token_id=0,
    )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


def gap(checkpoint: Checkpoint, tokens: Sequence[int]) -> float:
    """Distance of the two best logits after some tokens."""
    with torch.inference_mode():
        best = checkpoint.model(torch.tensor([tokens])).logits[0, -1].float().topk(2).values
    return float(best[0] - best[1])


def rows(name: str, counts: dict[str, int]) -> Iterator[str]:
    """Lines of the table for one checkpoint."""
    checkpoint = load(DEMO if name == "demo" else tiny_gpt2(), Settings(device="cpu"))
    for kind, count in counts.items():
        equal, ties, wrong = compare(checkpoint, common.prompts(kind)[:count])
        yield f"| {name} | {kind} | {count} | {equal} | {ties} | {wrong} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="demo,tiny")
    parser.add_argument("--coqa", type=int, default=200)
    parser.add_argument("--nq", type=int, default=100)
    parser.add_argument("--wmt", type=int, default=50)
    options = parser.parse_args()
    print("| model | prompts | | equal | parted at a tie | parted otherwise |")
    print("|---|---|--:|--:|--:|--:|")
    for name in options.models.split(","):
        counts = {"coqa": options.coqa, "nq": options.nq, "wmt": options.wmt}
        for line in rows(name, counts):
            print(line, flush=True)


if __name__ == "__main__":
    main()
