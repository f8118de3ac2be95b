"""The layouts of nanochat's state dicts, and their tensors under the names that we load.

Neither the file nor its meta has a version number: the names of the tensors are the version. What
else changed with them is from the history of github.com/karpathy/nanochat, nanochat/gpt.py.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.engine.checkpoint.formats.format import Tensors, all_of
from harness.engine.checkpoint.formats.nanochat.config import (
    SMEAR_CHANNELS,
    VALUE_CHANNELS,
    NanoChat2026Config,
    has_value_embedding,
)
from harness.errors import CheckpointError

MARK = "transformer.h.0.attn.c_q.weight"  # in every layout; GPT-2's own programs have c_attn
_SMEAR = ("smear_gate.weight", "smear_lambda", "backout_lambda")
_LAMBDAS = ("resid_lambdas", "x0_lambdas")
_VALUES = re.compile(r"value_embeds\.|.*\.ve_gate\.")
_ROW_MULTIPLE = 64  # tables are padded to a multiple of it since December 2025
_TABLES = ("transformer.wte.weight", "lm_head.weight", "value_embeds.")
_RENAMED = (
    (r"^transformer\.wte\.", "model.embed_tokens."),
    (r"^transformer\.h\.", "model.layers."),
    (r"\.attn\.c_(q|k|v)\.", r".self_attn.\1_proj."),
    (r"\.attn\.c_proj\.", ".self_attn.o_proj."),
    (r"\.attn\.ve_gate\.", ".self_attn.value_gate."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^(?!model\.|lm_head\.)", "model."),
)


class Sizes(NamedTuple):
    """`model_config` in the meta file."""

    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str | None = None  # None: every layer sees all tokens before


class Layout(NamedTuple):
    """A layout that can be evaluated."""

    name: str
    current: bool


OCTOBER_2025 = Layout("layout of October 2025 to January 2026", current=False)
MARCH_2026 = Layout("layout since March 2026", current=True)


def layout_of(state: Mapping[str, torch.Tensor], path: Path) -> Layout:
    """The layout that a state dict has by its names.

    Raises:
        CheckpointError: it is one of those between, which leave open what the model computes.
    """
    if any(name in state for name in _SMEAR):
        return MARCH_2026
    values = sorted(filter(_VALUES.match, state))
    gates = {state[name].shape[-1] for name in values if ".ve_gate." in name}
    lambdas = [name for name in _LAMBDAS if name in state]
    if not values and not lambdas:
        return OCTOBER_2025
    if gates == {VALUE_CHANNELS}:
        dates = "2026-03-09 to 03-14"
    elif values:
        dates = "2026-01-16 to 03-09, whose logits are capped at 15 or, since 03-03, at 20"
    else:
        dates = "2026-01-11 to 01-16"
    raise CheckpointError(
        f"{path} is a nanochat model in a layout between two that are known: it has "
        f"{(values or lambdas)[0]}, but no {_SMEAR[0]} (training code of {dates}); evaluate it "
        "with that code, by --model package.module:function"
    )


def tensors_of(
    state: Mapping[str, torch.Tensor], layout: Layout, sizes: Sizes, path: Path
) -> Tensors:
    """The tensors under the names that we load, without the rows that pad the vocabulary.

    nanochat leaves those rows out of the softmax.

    Raises:
        CheckpointError: a tensor is missing, left over, or of a wrong shape.
    """
    rows = sizes.vocab_size
    padded = -(-rows // _ROW_MULTIPLE) * _ROW_MULTIPLE
    unpadded = {
        name: value[:rows] if name.startswith(_TABLES) and value.shape[:1] == (padded,) else value
        for name, value in state.items()
    }
    tensors = all_of(_shapes(layout, sizes), unpadded, path)
    return {_our_name(name): value for name, value in tensors.items()}


def _shapes(layout: Layout, sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, without padding."""
    rows, width = sizes.vocab_size, sizes.n_embd
    kv_width = width // sizes.n_head * sizes.n_kv_head
    yield "transformer.wte.weight", (rows, width)
    for i in range(sizes.n_layer):
        for part, shape in (
            ("attn.c_q", (width, width)),
            ("attn.c_k", (kv_width, width)),
            ("attn.c_v", (kv_width, width)),
            ("attn.c_proj", (width, width)),
            ("mlp.c_fc", (4 * width, width)),
            ("mlp.c_proj", (width, 4 * width)),
        ):
            yield f"transformer.h.{i}.{part}.weight", shape
        if layout.current and has_value_embedding(i, sizes.n_layer):
            yield f"transformer.h.{i}.attn.ve_gate.weight", (sizes.n_kv_head, VALUE_CHANNELS)
            yield f"value_embeds.{i}.weight", (rows, kv_width)
    yield "lm_head.weight", (rows, width)
    if layout.current:
        yield from ((name, (sizes.n_layer,)) for name in _LAMBDAS)
        yield "smear_gate.weight", (1, SMEAR_CHANNELS)
        yield from ((name, (1,)) for name in _SMEAR[1:])


def _our_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def config_of(layout: Layout, sizes: Sizes, path: Path) -> Any:
    """The config of a layout, without the tokens that begin and end texts: its tokenizer has them.

    Raises:
        CheckpointError: windows are stated for a layout that has none, or not where there are.
    """
    if layout.current != (sizes.window_pattern is not None):
        stated = "has" if sizes.window_pattern is not None else "has no"
        raise CheckpointError(
            f"{path} {stated} window_pattern, unlike every model of nanochat's {layout.name}"
        )
    shared: dict[str, Any] = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.n_embd,
        "num_hidden_layers": sizes.n_layer,
        "num_attention_heads": sizes.n_head,
        "num_key_value_heads": sizes.n_kv_head,
        "max_position_embeddings": sizes.sequence_len,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if sizes.window_pattern is not None:
        return NanoChat2026Config(window_pattern=sizes.window_pattern, **shared)
    from transformers import NanoChatConfig

    return NanoChatConfig(
        intermediate_size=4 * sizes.n_embd,
        rms_norm_eps=torch.finfo(torch.float32).eps,  # torch's default, which nanochat uses
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        final_logit_softcapping=15.0,
        pad_token_id=None,
        tie_word_embeddings=False,
        **shared,
    )
