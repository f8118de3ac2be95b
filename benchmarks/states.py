"""What copied states save where no tree mask can be given: `python -m benchmarks.states`.

Questions shaped as those of the Children's Book Test (ten options of one to seven tokens) on models
of random weights with state-space, convolutional, linear-attention or hybrid layers, and one of
attention without position ids. Each question is scored once after copies of the state after its
context, and once in separate rows. Both take turns; shown are medians, the median of the paired
ratios with the smallest and the largest, and the largest difference of a score. Needs HARNESS_DATA.
Float32, CPU, two threads.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from benchmarks import common, speed
from benchmarks.sharing import take_turns
from harness.engine.backends.in_process import InProcess
from harness.engine.checkpoint.load import Checkpoint

CONTEXT = 1024
LENGTHS = (336, 440, 550)  # tokens of the contexts
WIDTH, LAYERS = 512, 6
IDS: dict[str, Any] = {
    "vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256,
}  # fmt: skip
SIZES: dict[str, Any] = {
    **IDS, "hidden_size": WIDTH, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 1536, "num_hidden_layers": LAYERS, "max_position_embeddings": CONTEXT,
}  # fmt: skip
LINEAR = ["linear_attention", "linear_attention", "full_attention"] * (LAYERS // 3)


def mamba() -> Any:
    """States that hold for one token at a time."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "use_mambapy": False}
    return tf.MambaForCausalLM(tf.MambaConfig(**IDS, **sizes))


def mamba2() -> Any:
    """States in chunks."""
    config = tf.Mamba2Config(
        **IDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_heads=16, head_dim=64,
        state_size=64, n_groups=1,
    )  # fmt: skip
    return tf.Mamba2ForCausalLM(config)


def lfm2() -> Any:
    """Convolutions and attention."""
    kinds = ["conv", "conv", "full_attention"] * (LAYERS // 3)
    return tf.Lfm2ForCausalLM(tf.Lfm2Config(**SIZES, layer_types=kinds))


def qwen3_5() -> Any:
    """Gated delta rules and attention."""
    config = tf.Qwen3_5TextConfig(
        **SIZES, head_dim=64, layer_types=LINEAR, linear_num_key_heads=4, linear_num_value_heads=8,
        linear_key_head_dim=64, linear_value_head_dim=64,
    )  # fmt: skip
    return tf.Qwen3_5ForCausalLM(config)


def bloom() -> Any:
    """Attention with biases by distance, and no position ids."""
    config = tf.BloomConfig(**IDS, hidden_size=WIDTH, n_layer=LAYERS, n_head=8)
    return tf.BloomForCausalLM(config)


CASES: dict[str, Callable[[], Any]] = {
    "lfm2": lfm2, "qwen3.5": qwen3_5, "mamba2": mamba2, "mamba": mamba, "bloom": bloom,
}  # fmt: skip


def cells(checkpoint: Checkpoint, rounds: int) -> list[str]:
    """The measured cells of a row of the table."""
    asked = common.questions(LENGTHS, checkpoint, lambda q, option: 1 + option % 7)
    measured = take_turns(checkpoint, asked, rounds)
    backend = measured.sharing.backend
    assert isinstance(backend, InProcess)
    planner = backend.planner
    method = planner.state_method if planner.copies_states else None
    fed = "-" if method is None else "at once" if method.at_once else "one by one"
    return [fed, *measured.cells()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CASES), help="models, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(speed.THREADS)
    print("| model | options are fed | separate s | copied s | separate / copied | nats apart |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = common.random_checkpoint(CASES[name], Path(folder), CONTEXT)
            row = [name, *cells(checkpoint, options.rounds)]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
