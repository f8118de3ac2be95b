"""A tiny checkpoint of random weights for checks that need any model at all.

It has two layers and a tokenizer of bytes and a few merges, and needs no file and no network. Its
answers are noise, but the same every time, and spread widely enough that no two are tied.
"""

from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import Identity
from harness.engine.tokenizer.tokenizer import Tokenizer

EOT = "<|endoftext|>"
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("Ġ", "s"), ("Ġs", "a"))


def byte_tokenizer() -> Any:
    """A transformers tokenizer of 256 byte tokens, a few merges, and `<|endoftext|>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, *map("".join, MERGES)])}
    backend = Backend(models.BPE(vocabulary, list(MERGES)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token=EOT, eos_token=EOT
    )


def model(tokenizer: Any, *, context: int, seed: int = 0, **changes: Any) -> Any:
    """A two-layer GPT-2 with `context` positions; `changes` are further config fields."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=2,
        n_head=2,
        n_embd=32,
        n_positions=context,
        initializer_range=0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **changes,
    )
    return GPT2LMHeadModel(config).eval()  # type: ignore[no-untyped-call]


def checkpoint(context: int) -> Checkpoint:
    """Model and tokenizer on the CPU; torch's random state is not changed."""
    hf_tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        gpt2 = model(hf_tokenizer, context=context)
    tokenizer = Tokenizer(hf_tokenizer, name="tiny")
    identity = Identity(
        name="tiny",
        revision=None,
        digest="random",
        tokenizer=tokenizer.digest,
        parameters=sum(p.numel() for p in gpt2.parameters()),
        dtype="float32",
        device="cpu",
        context=context,
        trust_remote_code=False,
        threads=torch.get_num_threads(),
    )
    return Checkpoint(identity, gpt2, tokenizer, torch.device("cpu"), tokenizer.end_tokens)
