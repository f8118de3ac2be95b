"""nanochat as slowly and plainly as possible: a pass, a tokenizer, and files of random models."""

import json
import pickle
import sys
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from string import ascii_lowercase
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import regex
import torch
from torch import Tensor

# How nanochat splits text before it merges bytes.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
BYTES = {bytes([b]): b for b in range(256)}
SPECIAL = ("<|bos|>", "<|user_start|>", "<|user_end|>")
PAIRS = 41  # tokens of two letters


class Model(NamedTuple):
    """A random model: the settings in its meta file, and what its state dict is like."""

    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str | None  # None: the layout of 2025
    padded: bool = True
    prefix: str = ""
    sequence_len: int = 32
    vocab_size: int = 256 + PAIRS + len(SPECIAL)

    @property
    def settings(self) -> dict[str, Any]:
        """`model_config` in the meta file."""
        names = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
        windows = {} if self.window_pattern is None else {"window_pattern": self.window_pattern}
        return {name: getattr(self, name) for name in names} | windows


# --- files ------------------------------------------------------------------------------------


def random_state(sizes: Model) -> dict[str, Tensor]:
    """The state dict of a model with large random weights."""
    torch.manual_seed(0)
    width, layers = sizes.n_embd, sizes.n_layer
    kv = width // sizes.n_head * sizes.n_kv_head
    rows = -(-sizes.vocab_size // 64) * 64 if sizes.padded else sizes.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, width)}
    for i in range(layers):
        h = f"transformer.h.{i}"
        shapes |= {f"{h}.attn.c_q.weight": (width, width), f"{h}.attn.c_k.weight": (kv, width)}
        shapes |= {f"{h}.attn.c_v.weight": (kv, width), f"{h}.attn.c_proj.weight": (width, width)}
        shapes[f"{h}.mlp.c_fc.weight"] = (4 * width, width)
        shapes[f"{h}.mlp.c_proj.weight"] = (width, 4 * width)
        if sizes.window_pattern and i % 2 == (layers - 1) % 2:
            shapes[f"{h}.attn.ve_gate.weight"] = (sizes.n_kv_head, 12)
            shapes[f"value_embeds.{i}.weight"] = (rows, kv)
    shapes["lm_head.weight"] = (rows, width)
    if sizes.window_pattern:
        shapes |= {"resid_lambdas": (layers,), "x0_lambdas": (layers,), "smear_lambda": (1,)}
        shapes |= {"smear_gate.weight": (1, 24), "backout_lambda": (1,)}
    return {sizes.prefix + name: torch.randn(shape) * 0.4 for name, shape in shapes.items()}


def write(
    folder: Path, sizes: Model, state: dict[str, Tensor] | None = None, step: int = 7
) -> Path:
    """A folder as nanochat writes it, with the tokenizer two levels above; the model's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model_{step:06d}.pt"
    torch.save(random_state(sizes) if state is None else state, path)
    meta = {"step": step, "val_bpb": float("nan"), "model_config": sizes.settings}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    write_tokenizer(folder.parent.parent / "tokenizer" / "tokenizer.pkl")
    return path


def write_tokenizer(path: Path, pairs: int = PAIRS, state: object = None) -> Path:
    """A `tokenizer.pkl` as tiktoken pickles it: bytes, some pairs of letters, special tokens."""
    letters = ["".join(pair).encode() for pair in product("the ", ascii_lowercase)][:pairs]
    ranks = {token: i for i, token in enumerate([*BYTES, *letters])}
    special = {token: len(ranks) + i for i, token in enumerate(SPECIAL)}
    stated = {"name": "x", "pat_str": PATTERN, "mergeable_ranks": ranks, "special_tokens": special}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_pickled_encoding(stated if state is None else state))
    return path


def _pickled_encoding(state: object) -> bytes:
    """A pickle of tiktoken's class, which need not be installed."""

    class Stored:
        def __getstate__(self) -> object:
            return state

    Stored.__module__, Stored.__qualname__ = "tiktoken.core", "Encoding"
    module: Any = ModuleType("tiktoken.core")
    module.Encoding = Stored
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tiktoken", ModuleType("tiktoken"))
        patch.setitem(sys.modules, "tiktoken.core", module)
        return pickle.dumps(Stored())


# --- the model --------------------------------------------------------------------------------

Vectors = Sequence[Tensor]  # one per token


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean() + 2.0**-23).sqrt()


def logprobs(state: dict[str, Tensor], sizes: Model, ids: list[int]) -> Tensor:
    """(T, V) log-probabilities in float64, one token and one head at a time, without windows."""
    w = {name.removeprefix(sizes.prefix): value.double() for name, value in state.items()}
    x: Vectors = [norm(w["transformer.wte.weight"][token]) for token in ids]
    if "smear_lambda" in w:
        gates = [w["smear_lambda"] * torch.sigmoid(w["smear_gate.weight"][0] @ e[:24]) for e in x]
        x = [x[0], *(x[t] + gates[t] * x[t - 1] for t in range(1, len(x)))]
    first = middle = x
    for i in range(sizes.n_layer):
        if "resid_lambdas" in w:
            a, b = w["resid_lambdas"][i], w["x0_lambdas"][i]
            x = [a * stream + b * x0 for stream, x0 in zip(x, first, strict=True)]
        part = {n.removeprefix(f"transformer.h.{i}."): v for n, v in w.items()}
        if f"value_embeds.{i}.weight" in w:
            part["embedded"] = w[f"value_embeds.{i}.weight"][ids]
        x = _layer(part, sizes, x)
        middle = x if i == sizes.n_layer // 2 else middle
    if "backout_lambda" in w:
        x = [stream - w["backout_lambda"] * m for stream, m in zip(x, middle, strict=True)]
    logits = torch.stack([w["lm_head.weight"][: sizes.vocab_size] @ norm(stream) for stream in x])
    return (15 * torch.tanh(logits / 15)).log_softmax(-1)


def _layer(w: dict[str, Tensor], sizes: Model, x: Vectors) -> Vectors:
    width = sizes.n_embd // sizes.n_head
    inputs = [norm(stream) for stream in x]
    q, k, v = ([(w[f"attn.c_{name}.weight"] @ a).view(-1, width) for a in inputs] for name in "qkv")
    if "embedded" in w:
        for t, a in enumerate(inputs):
            gate = 3 * torch.sigmoid(w["attn.ve_gate.weight"] @ a[:12])
            v[t] = v[t] + gate[:, None] * w["embedded"][t].view(-1, width)
    base, sharpness = (100_000, 1.2) if sizes.window_pattern else (10_000, 1.0)
    after = []
    for t, stream in enumerate(x):
        heads = []
        for n in range(sizes.n_head):
            m = n * sizes.n_kv_head // sizes.n_head
            query = sharpness * norm(_turned(q[t][n], t, base))
            keys = [sharpness * norm(_turned(k[s][m], s, base)) for s in range(t + 1)]
            shares = torch.stack([query @ key / width**0.5 for key in keys]).softmax(0)
            heads.append(sum(shares[s] * v[s][m] for s in range(t + 1)))
        stream = stream + w["attn.c_proj.weight"] @ torch.cat(heads)
        inner = (w["mlp.c_fc.weight"] @ norm(stream)).clamp(min=0) ** 2
        after.append(stream + w["mlp.c_proj.weight"] @ inner)
    return after


def _turned(x: Tensor, t: int, base: float) -> Tensor:
    """Each pair of channels (c, c + D/2), as a complex number, turned by minus its angle."""
    half = len(x) // 2
    angles = torch.tensor([t / base ** (c / half) for c in range(half)], dtype=torch.float64)
    turned = torch.complex(x[:half], x[half:]) * torch.exp(-1j * angles)
    return torch.cat([turned.real, turned.imag])


# --- the tokenizer ----------------------------------------------------------------------------


def encode(text: str, ranks: dict[bytes, int], pattern: str = PATTERN) -> list[int]:
    """Token ids: in every piece, the leftmost neighbours with the lowest rank are joined first."""
    ids: list[int] = []
    for piece in regex.findall(pattern, text):
        whole = piece.encode()
        parts = [whole] if whole in ranks else [bytes([b]) for b in whole]
        while known := [
            (ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks
        ]:
            i = min(known)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [ranks[part] for part in parts]
    return ids
