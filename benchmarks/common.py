"""Shared code: models, requests, and an lm-eval model with the same weights.

There are two checkpoints: the demo (135M, real weights), and a GPT-2 of 124M with random weights
and the real tokenizer, built from `gpt2-bpe/` in the folder that HARNESS_DATA names.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.core import Generate, Loglikelihood, Request, RollingLoglikelihood
from harness.data import load as data
from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import DEMO, locate
from harness.engine.checkpoint.settings import Settings
from harness.plugins.registry import load_task
from harness.runner import Job, prepare

SEED = 0


def data_dir() -> Path:
    """The folder with the benchmarks' original files."""
    folder = os.environ.get("HARNESS_DATA")
    if not folder:
        sys.exit("set HARNESS_DATA to the folder with the benchmarks' original files")
    return Path(folder)


def random_gpt2() -> str:
    """A folder with GPT-2's architecture (124M), random weights and the real tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    folder = cache_root() / "benchmarks" / f"gpt2-random-{SEED}"
    if not (folder / "model.safetensors").is_file():
        bpe = data_dir() / "gpt2-bpe"
        GPT2TokenizerFast(
            vocab=str(bpe / "encoder.json"),
            merges=str(bpe / "vocab.bpe"),
            bos_token="<|endoftext|>",
            eos_token="<|endoftext|>",
        ).save_pretrained(folder)
        torch.manual_seed(SEED)
        GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)  # last: it marks the folder complete
    return str(folder)


def checkpoint(name: str) -> Checkpoint:
    """`demo` or `gpt2`, in float32 on the CPU."""
    return load(DEMO if name == "demo" else random_gpt2(), Settings(device="cpu"))


def title(name: str) -> str:
    """`demo` or `gpt2` in words."""
    return DEMO if name == "demo" else "GPT-2 of 124M, random weights"


def lambada(count: int, preset: str = "lm-eval") -> list[Request]:
    """The first requests of LAMBADA."""
    return requests("lambada", preset)[:count]


def requests(task: str, preset: str, **options: str) -> list[Request]:
    """All requests of a task on its original file, some options changed."""
    found = load_task(task)
    protocol = found.protocol(preset, options)
    where = data.Where(folder=data_dir())
    rows = data.load(found.source(protocol.options), where)
    few = found.few_shot
    pool = data.load_pool(few.source(protocol.options), where) if few else None
    return prepare(Job(found, protocol, rows, pool=pool)).requests


def prompts(kind: str) -> list[Generate]:
    """All greedy requests of a generating task: `coqa`, `nq`, `wmt` or `cnn`."""
    made = {
        "coqa": lambda: requests("coqa", "paper"),
        "nq": lambda: requests("nq", "paper"),
        "wmt": lambda: requests("wmt14-en-fr", "paper", draws="1"),
        "cnn": lambda: requests("cnn-dm", "paper", k="1"),
    }
    return [request for request in made[kind]() if isinstance(request, Generate)]


def pages(tokens: int, checkpoint: Checkpoint) -> list[Request]:
    """WikiText articles under the protocol `lm-eval`, together at least `tokens` tokens."""
    taken: list[Request] = []
    count = 0
    for request in requests("wikitext2", "lm-eval"):
        assert isinstance(request, RollingLoglikelihood)
        taken.append(request)
        count += sum(len(ids) for ids in checkpoint.tokenizer.encode([*map(str, request.pieces)]))
        if count >= tokens:
            break
    return taken


def choices(questions: int, checkpoint: Checkpoint) -> list[Request]:
    """CBT-shaped questions: 550 tokens of context, ten options of 20 tokens."""
    text = (data_dir() / "tinyshakespeare" / "input.txt").read_text("utf-8")
    ids = checkpoint.tokenizer.encode([text])[0]
    found: list[Request] = []
    for q in range(questions):
        begin = q * 900
        context = checkpoint.tokenizer.decode(ids[begin : begin + 550]).rstrip()
        for option in range(10):
            at = begin + 600 + 25 * option
            found.append(
                Loglikelihood(context, " " + checkpoint.tokenizer.decode(ids[at : at + 20]))
            )
    return found


def questions(
    lengths: Sequence[int], checkpoint: Checkpoint, size: Callable[[int, int], int]
) -> list[Request]:
    """Ten options after each context, as in the Children's Book Test.

    Args:
        lengths: of the contexts, in tokens.
        checkpoint: its tokenizer counts.
        size: numbers of a question and of an option -> tokens of the option.
    """
    text = (data_dir() / "tinyshakespeare" / "input.txt").read_text("utf-8")
    ids = checkpoint.tokenizer.encode([text])[0]
    decode = checkpoint.tokenizer.decode
    found: list[Request] = []
    for q, length in enumerate(lengths):
        begin = 900 * q
        context = decode(ids[begin : begin + length]).rstrip()
        for option in range(10):
            at = begin + 800 + 10 * option
            found.append(Loglikelihood(context, " " + decode(ids[at : at + size(q, option)])))
    return found


def random_checkpoint(make: Callable[[], Any], folder: Path, context: int) -> Checkpoint:
    """A model of random weights with the tokenizer of GPT-2, written to a folder and loaded."""
    from transformers import AutoTokenizer

    torch.manual_seed(SEED)
    make().save_pretrained(folder)
    AutoTokenizer.from_pretrained(random_gpt2()).save_pretrained(folder)
    return load(str(folder), Settings(device="cpu", context=context))


def ratio_cell(ratios: Sequence[float], digits: int = 1) -> str:
    """The median of paired ratios, with the smallest and the largest of them."""
    low, median, high = (
        f"{ratio:.{digits}f}" for ratio in (min(ratios), statistics.median(ratios), max(ratios))
    )
    return f"**{median}** ({low} to {high})"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def lm_eval_model(checkpoint: Checkpoint, batch_size: int, softmax_dtype: str | None = None) -> Any:
    """lm-eval's own Hugging Face back end on the same weights and tokenizer.

    By default its log-softmax runs in the model's float32, whose rounding adds up to some 2e-5
    nats a token over a vocabulary of 50,000; `softmax_dtype="float64"` takes that away.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = locate(checkpoint.identity.name, Settings()).folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        backend="causal",
        device="cpu",
        dtype="float32",
        batch_size=batch_size,
        max_length=checkpoint.identity.context,
        logits_cache=False,
        softmax_dtype=softmax_dtype,
    )


def lm_eval_instances(asked: Sequence[Request]) -> list[Any]:
    """The same requests in lm-eval's form."""
    from lm_eval.api.instance import Instance

    found = []
    for i, request in enumerate(asked):
        arguments: tuple[Any, ...]
        if isinstance(request, Loglikelihood):
            kind: Any = "loglikelihood"
            arguments = (request.context, request.continuation)
        elif isinstance(request, Generate):
            settings = {"until": [*request.stop], "max_gen_toks": request.max_new_tokens}
            kind, arguments = "generate_until", (request.prompt, {**settings, "do_sample": False})
        else:
            assert isinstance(request, RollingLoglikelihood)
            kind, arguments = "loglikelihood_rolling", ("".join(map(str, request.pieces)),)
        found.append(Instance(request_type=kind, doc={}, arguments=arguments, idx=i))
    return found
