"""What shared prefixes save past an attention window: `python -m benchmarks.windows`.

Questions shaped as those of the Children's Book Test (ten options of two to six tokens) and turns
of CoQA, on models of random weights whose layers see less than the context, each question once in
rows that share prefixes and once in separate rows. Both take turns; shown are medians, the median
of the paired ratios with the smallest and the largest, and the largest difference of a score. Needs
HARNESS_DATA. Float32, CPU, two threads.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as tf

from benchmarks import common, speed
from benchmarks.sharing import take_turns
from harness.core import Request
from harness.engine.checkpoint.load import Checkpoint

CONTEXT = 1024
MIXED = ["sliding_attention", "sliding_attention", "full_attention"]
SMALL: dict[str, Any] = {
    "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
    "intermediate_size": 1536, "vocab_size": 50257, "num_hidden_layers": 6,
    "max_position_embeddings": CONTEXT, "bos_token_id": 50256, "eos_token_id": 50256,
    "pad_token_id": 50256,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_local_experts": 8, "num_experts_per_tok": 2}


def gemma3(window: int) -> Any:
    """The shape of Gemma 3 270M."""
    return tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(
            vocab_size=262144, hidden_size=640, num_hidden_layers=18, num_attention_heads=4,
            num_key_value_heads=1, head_dim=256, intermediate_size=2048, sliding_window=window,
            query_pre_attn_scalar=256, max_position_embeddings=CONTEXT, bos_token_id=50256,
            eos_token_id=50256, pad_token_id=0,
        )
    )  # fmt: skip


def mistral(window: int) -> Any:
    """Every layer has the window."""
    return tf.MistralForCausalLM(tf.MistralConfig(**SMALL, sliding_window=window))


def gpt_oss(window: int) -> Any:
    """Two of three layers have the window; experts, and sinks of attention."""
    config = tf.GptOssConfig(**SMALL, **EXPERTS, sliding_window=window, layer_types=MIXED * 2)
    return tf.GptOssForCausalLM(config)


class Case(NamedTuple):
    """A model and the lengths of its questions."""

    title: str
    make: Callable[[int], Any]
    window: int
    contexts: tuple[int, ...]  # tokens of each question


CASES = {
    "gemma3": Case("Gemma 3 270M", gemma3, 512, (560, 720)),
    "gemma3-narrow": Case("Gemma 3 270M", gemma3, 128, (336, 550)),
    "mistral": Case("Mistral-like", mistral, 128, (336, 390, 440, 500, 550)),
    "gpt-oss": Case("gpt-oss-like", gpt_oss, 128, (336, 390, 440, 500, 550)),
}
KINDS = ("questions", "coqa")


def turns(count: int) -> list[Request]:
    """The turns of the first stories of CoQA."""
    asked = common.prompts("coqa")
    stories = list(dict.fromkeys(request.parts[0] for request in asked))[:count]
    return [request for request in asked if request.parts[0] in stories]


def cells(checkpoint: Checkpoint, asked: Sequence[Request], rounds: int) -> list[str]:
    """The measured cells of a row of the table."""
    measured = take_turns(checkpoint, asked, rounds)
    shared, separate = measured.tokens
    shares = "yes" if measured.sharing.describe()["sharing"] else "no"
    return [shares, f"{separate:,} / {shared:,}", *measured.cells()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="models, with commas")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of requests, with commas")
    parser.add_argument("--stories", type=int, default=1, help="stories of CoQA")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(speed.THREADS)
    print(
        "| model | window | requests | share | tokens separate / shared | separate s | shared s "
        "| separate / shared | nats apart |"
    )
    print("|---|--:|---|---|--:|--:|--:|--:|--:|", flush=True)
    for name in options.only.split(","):
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            make = partial(case.make, case.window)
            checkpoint = common.random_checkpoint(make, Path(folder), CONTEXT)
            for kind in options.kinds.split(","):
                asked = (
                    turns(options.stories)
                    if kind == "coqa"
                    else common.questions(case.contexts, checkpoint, lambda q, option: 2 + q)
                )
                title = [case.title, f"{case.window}", f"{len(asked)} {kind}"]
                row = [*title, *cells(checkpoint, asked, options.rounds)]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
