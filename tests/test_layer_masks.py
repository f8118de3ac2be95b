"""Masks of trees for layers with windows and chunks: each token sees what its plain row sees."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_families import SHARED, build
from test_probe import forward_of
from torch import Tensor
from transformers.masking_utils import (
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from harness.engine.model.masks import Reach, masks, reaches, tree_allowed
from harness.engine.queries.prefix_tree import arrange
from harness.engine.queries.query import Sharing, Span
from harness.engine.scoring.verify_prefix_sharing import SMALL_TREES, tree_fault

TEXTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=6)
Seen = Callable[[Reach, Tensor, Tensor, Tensor], Tensor]


@given(TEXTS, st.integers(1, 6), st.sampled_from(["sliding_attention", "chunked_attention"]))
def test_a_token_of_a_tree_sees_what_transformers_lets_it_see_of_its_plain_row(
    texts: list[list[int]], size: int, kind: str
) -> None:
    spans = [Span(tuple(text), (0,) * len(text)) for text in map(tuple, texts)]
    [row, *_] = arrange(spans, Sharing(pair_cost=0.0, max_row=100))
    if kind == "chunked_attention":
        plain = chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long))
    else:
        plain = sliding_window_causal_mask_function(size)
    layers = {"full_attention": Reach(), kind: _reach(kind, size)}
    positions = torch.tensor([row.positions])
    allowed = tree_allowed(torch.tensor([row.ends]))
    made = masks(layers, allowed, positions, positions, lambda seen: seen)
    seen = made[kind] if isinstance(made, dict) else made
    for s, nodes in row.nodes.items():
        assert len(nodes) == len(spans[s].inputs)
        for position, node in enumerate(nodes):
            expected = {
                nodes[k]
                for k in range(len(nodes))
                if plain(torch.tensor(0), 0, torch.tensor(position), torch.tensor(k))
            }
            assert set(seen[0, node].nonzero().flatten().tolist()) == expected


def _reach(kind: str, size: int) -> Reach:
    return Reach(window=size) if kind == "sliding_attention" else Reach(chunk=size)


def test_one_mask_is_made_for_all_layers_that_see_the_same() -> None:
    made: list[Tensor] = []

    def additive(seen: Tensor) -> Tensor:
        made.append(seen)
        return seen

    def of(layers: dict[str, Reach], columns: int) -> Any:
        made.clear()
        positions = torch.arange(columns)[None]
        allowed = torch.ones(1, columns, columns, dtype=torch.bool).tril()
        return masks(layers, allowed, positions, positions, additive)

    mixed = {"a": Reach(), "b": Reach(window=4), "c": Reach(window=4), "d": Reach(chunk=9)}
    mapping = of(mixed, 5)
    assert mapping["b"] is mapping["c"]
    assert mapping["a"] is mapping["d"], "no row of five columns fills a chunk of nine"
    assert len(made) == 2
    assert isinstance(of(mixed, 4), Tensor), "nothing is out of reach"
    assert isinstance(of({"b": Reach(window=4)}, 5), Tensor)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"": Reach()}),
        ({"sliding_window": 8}, {"": Reach(window=8)}),
        ({"sliding_window": 8, "use_sliding_window": False}, {"": Reach()}),
        ({"sliding_window": 8, "layer_types": ["full_attention"]}, {"full_attention": Reach()}),
        (
            {"attention_chunk_size": 8, "layer_types": ["chunked_attention", "full_attention"]},
            {"chunked_attention": Reach(chunk=8), "full_attention": Reach()},
        ),
    ],
)
def test_a_config_says_how_far_layers_see(
    config: dict[str, Any], expected: dict[str, Reach]
) -> None:
    assert reaches(SimpleNamespace(**config)) == expected


@pytest.mark.parametrize("kinds", [["linear_attention"], ["full_attention", "sliding_attention"]])
def test_other_layers_and_windows_without_a_size_have_no_mask(kinds: list[str]) -> None:
    with pytest.raises(ValueError, match=f"layers of kind {kinds[-1]}"):
        reaches(SimpleNamespace(layer_types=kinds, sliding_window=None))


def _in_columns(reach: Reach, allowed: Tensor, positions: Tensor, keys: Tensor) -> Tensor:
    """As if windows counted columns."""
    columns = torch.arange(allowed.shape[2]).expand_as(keys)
    return _SEEN(reach, allowed, columns[:, -allowed.shape[1] :], columns)


def _longer(reach: Reach, *tensors: Tensor) -> Tensor:
    window, chunk = (size and size + 1 for size in (reach.window, reach.chunk))
    return _SEEN(replace(reach, window=window, chunk=chunk), *tensors)


_SEEN: Seen = Reach.seen
WRONG: dict[str, Seen] = {
    "everything": lambda _, allowed, *positions: allowed,
    "one more": _longer,
    "columns": _in_columns,
}


@pytest.mark.parametrize("family", ["narrow window", "gemma3", "gpt-oss", "chunks"])
def test_self_test_finds_masks_that_see_too_much_or_count_columns(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = forward_of(build(tmp_path, SHARED[family]).model)
    with torch.inference_mode():
        sizes = [(40, 0)], [(100, 140)]
        assert not any(tree_fault(forward, size) for size in (SMALL_TREES, *sizes))
        for wrong in WRONG.values():
            monkeypatch.setattr(Reach, "seen", wrong)
            assert all(tree_fault(forward, size) for size in sizes)
