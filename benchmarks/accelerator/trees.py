"""Rows that are trees: a dense mask through SDPA against FlexAttention, which needs none.

Both run whole models. FlexAttention comes in by `AttentionInterface.register`, its block mask as a
keyword argument of the model, which reaches the attention function of every family.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface

from benchmarks.accelerator import models
from benchmarks.accelerator.setting import Row, Rows, Setting, short
from harness.engine.model.masks import tree_allowed
from harness.errors import short_reason

NAME = "tree_flex"
SIZES = {85: 60, 560: 490, 1500: 540, 4000: 900}
"""Tokens of a row -> of its trunk, from which branches of seven tokens part."""
_BRANCH = 7
_TOKENS = 16384  # of a batch
_ROUNDS = 5
_SHAPE = {"context": 4096, "vocabulary": 4096}
_TOLERANCE = 1e-5  # of states in float32, relative to the largest
_ALIGNED = 16  # columns: SDPA copies a mask whose rows begin elsewhere, at every layer


def trees(setting: Setting) -> Rows:
    """Milliseconds of a batch, and the largest difference between states, relative to them."""
    AttentionInterface.register(NAME, _flex)
    sizes = [*SIZES][:1] if setting.small else [*SIZES]
    for dtype in (torch.bfloat16, torch.float32):
        for family in ("GPT-2", "Llama"):
            with torch.device(setting.device):
                make = models.gpt2 if family == "GPT-2" else models.llama
                model = make("tiny" if setting.small else "124M", **_SHAPE).to(dtype)
            for tokens in sizes:
                yield {
                    "model": family,
                    "format": short(dtype),
                    "row": tokens,
                    **_compare(setting, model, tokens),
                }


def _compare(setting: Setting, model: Any, tokens: int) -> Row:
    """The columns of one row of the table; a way that fails says why."""
    rows = 2 if setting.small else max(1, _TOKENS // tokens)
    ends, positions = (t.expand(rows, -1).contiguous() for t in _tree(tokens, setting.device))
    ids = (
        torch.arange(rows * tokens, device=setting.device).view(rows, tokens) % _SHAPE["vocabulary"]
    )
    base = model.base_model

    def passes(**more: Any) -> Tensor:
        with torch.inference_mode():
            found = base(input_ids=ids, use_cache=False, **{"position_ids": positions, **more})
        states: Tensor = found.last_hidden_state
        return states

    dense = _dense_mask(ends, model.dtype, 1)
    expected = passes(attention_mask=dense).float()
    ways: dict[str, Callable[[], Tensor]] = {
        "causal, no tree ms": lambda: passes(position_ids=None),
        "dense mask ms": lambda: passes(attention_mask=_dense_mask(ends, model.dtype, 1)),
        "dense, aligned ms": lambda: passes(
            attention_mask=_dense_mask(ends, model.dtype, _ALIGNED)
        ),
    }
    row: Row = {"rows": rows}
    for name, way in ways.items():
        row[name] = _milliseconds(setting, way)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        states = passes(tree_block_mask=_block_mask(ends))
        difference = float((states - expected).abs().max() / expected.abs().max())
        row["largest difference"] = difference
        if model.dtype == torch.float32:
            row["right"] = difference <= _TOLERANCE
        block_mask = _block_mask(ends)
        row["flex ms"] = _milliseconds(setting, lambda: passes(tree_block_mask=block_mask))
        row["block mask ms"] = _milliseconds(setting, lambda: _block_mask(ends))
    except Exception as error:  # a compiler that is missing, or a shape that it does not know
        row["flex ms"] = f"{type(error).__name__}: {short_reason(error)}"
    finally:
        model.set_attn_implementation(before)
    return row


def _tree(tokens: int, device: str) -> tuple[Tensor, Tensor]:
    """Ends (1, T) of subtrees and positions (1, T) of a trunk with branches."""
    trunk = SIZES[tokens]
    begins = range(trunk, tokens, _BRANCH)
    spans = [(b, min(b + _BRANCH, tokens)) for b in begins]
    ends = [tokens] * trunk + [end for begin, end in spans for _ in range(begin, end)]
    positions = [*range(trunk), *(trunk + i for b, e in spans for i in range(e - b))]
    return _row(ends, device), _row(positions, device)


def _row(numbers: Sequence[int], device: str) -> Tensor:
    return torch.tensor([numbers], device=device)


def _dense_mask(ends: Tensor, dtype: torch.dtype, multiple: int) -> Tensor:
    """(B, 1, T, T) additive mask; its rows begin at multiples of so many numbers."""
    count, width = ends.shape
    columns = -(-width // multiple) * multiple
    storage = torch.zeros((count, width, columns), dtype=dtype, device=ends.device)
    mask = storage[:, :, :width]
    mask.masked_fill_(~tree_allowed(ends), torch.finfo(dtype).min)
    return mask[:, None]


def _block_mask(ends: Tensor) -> Any:
    """The same as a rule: token q sees k if it lies in the subtree of k, and not before it."""
    count, width = ends.shape

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < ends[b, k])

    return create_block_mask(sees, count, None, width, width, device=str(ends.device))


_compiled: list[Any] = []


def _flex(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
) -> tuple[Tensor, None]:
    """FlexAttention in the form of transformers' attention functions, compiled once."""
    if not _compiled:
        _compiled.append(torch.compile(flex_attention, dynamic=True))
    found: Tensor = _compiled[0](
        query,
        key,
        value,
        block_mask=more["tree_block_mask"],
        scale=more.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return found.transpose(1, 2).contiguous(), None


def _milliseconds(setting: Setting, action: Callable[[], object]) -> float:
    """The median of some runs after two that count for nothing."""
    action(), action()
    return sorted(setting.seconds(action) for _ in range(_ROUNDS))[_ROUNDS // 2] * 1e3
