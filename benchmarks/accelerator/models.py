"""Checkpoints of random weights in memory: the shapes of real models, no files."""

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from benchmarks.accelerator.checkout import ROOT
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.random_model import EOT
from harness.engine.checkpoint.settings import Identity
from harness.engine.tokenizer.tokenizer import Tokenizer

CONTEXT = 1024
VOCABULARY = 50257  # of the models; the tokenizer below has fewer entries
_ENTRIES = 4000
_GPT2 = {
    "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 64},
    "124M": {},
    "1.5B": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
_LLAMA = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "124M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
             "num_attention_heads": 12, "num_key_value_heads": 4},
}  # fmt: skip


@cache
def tokenizer() -> Any:
    """A transformers tokenizer trained on the built-in samples: some 1.3 tokens a word."""
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_ENTRIES,
        special_tokens=[EOT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(sample_lines(), trainer)
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=backend, bos_token=EOT, eos_token=EOT)


@cache
def sample_lines() -> tuple[str, ...]:
    """The lines of English among the built-in samples."""
    folder = ROOT / "tasks" / "samples"
    names = ("cbtest_CN_valid.txt", "lambada_test_plain_text.txt", "wiki.test.raw", "README.md")
    return tuple(line for name in names for line in (folder / name).read_text("utf-8").split("\n"))


def gpt2(size: str, *, context: int = CONTEXT, vocabulary: int = VOCABULARY) -> Any:
    """GPT-2 of a size on torch's default device."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_positions=context, vocab_size=vocabulary, **ends, **_GPT2[size])
    return _quiet(GPT2LMHeadModel, config)


def llama(size: str, *, context: int = CONTEXT, vocabulary: int = VOCABULARY) -> Any:
    """A model with rotary positions and grouped keys on torch's default device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = LlamaConfig(
        max_position_embeddings=context, vocab_size=vocabulary, **ends, **_LLAMA[size]
    )
    return _quiet(LlamaForCausalLM, config)


def _quiet(kind: Any, config: Any) -> Any:
    """A model of random weights, the same at every call on one device."""
    from transformers.utils import logging as advice

    advice.set_verbosity_error()
    torch.manual_seed(0)
    return kind(config).eval()


def checkpoint(model: Any, *, compiled: bool = False) -> Checkpoint:
    """A checkpoint over a model, on the device and in the format that it has."""
    ours = Tokenizer(tokenizer(), name="random")
    device = model.device
    identity = Identity(
        name="random",
        revision=None,
        digest="random",
        tokenizer=ours.digest,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(device),
        context=min(CONTEXT, model.config.max_position_embeddings),
        trust_remote_code=False,
        threads=torch.get_num_threads(),
    )
    return Checkpoint(identity, model, ours, device, ours.end_tokens, compiled)
