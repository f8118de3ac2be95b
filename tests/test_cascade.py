"""Attention in parts, and decoding with cascade attention."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixed import skip_self_tests
from test_generate import answers, siblings, turns
from torch.nn.functional import scaled_dot_product_attention

from harness.core import Encoding, Generate, Request
from harness.engine.attention.cascade import (
    Cascade,
    KeysValues,
    OwnColumns,
    OwnLevel,
    PromptLevel,
    close_gaps,
    move_rows,
)
from harness.engine.attention.cascade_cache import attention_configs, cascading, takes_cascade
from harness.engine.attention.parts import attend, merge
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.decoding import verify_decoding
from harness.engine.decoding.cascade_rows import MAX_OWN, CascadeRows, _Layout
from harness.engine.decoding.plan import PromptRow
from harness.engine.decoding.rows import Limits
from harness.engine.decoding.shared_rows import SharedRows
from harness.engine.engine import Engine
from harness.engine.queries.prefix_tree import arrange
from harness.engine.queries.query import GenerationQuery, Sharing

STORY = "the sand and the sea said, “é” the end.\n"


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("heads", [2, 6])
def test_two_parts_are_the_attention_over_all_columns(
    heads: int, dtype: torch.dtype, bound: float
) -> None:
    torch.manual_seed(0)
    query, keys, values = (
        torch.randn(3, count, length, 16, dtype=dtype)
        for count, length in ((heads, 5), (2, 9), (2, 9))
    )
    hidden = torch.zeros(3, 5, 9, dtype=dtype).masked_fill_(torch.rand(3, 5, 9) < 0.4, -torch.inf)
    hidden[..., [0, 8]] = 0
    want = scaled_dot_product_attention(
        query.double(),
        keys.double().repeat_interleave(heads // 2, 1),
        values.double().repeat_interleave(heads // 2, 1),
        hidden[:, None].double(),
        scale=0.3,
    )
    one, two = (
        attend(query, keys[:, :, part], values[:, :, part], hidden[:, :, part], 0.3)
        for part in (slice(0, 4), slice(4, 9))
    )
    assert (merge(one, two) - want).abs().max() < bound


def test_a_part_with_scores_far_below_the_other_counts_for_nothing() -> None:
    query, keys = torch.ones(1, 1, 1, 4), torch.full((1, 1, 2, 4), 50.0)
    low = attend(query, -keys, torch.full((1, 1, 2, 4), 7.0), None, 1.0)
    high = attend(query, keys, torch.full((1, 1, 2, 4), 3.0), None, 1.0)
    assert merge(low, high).unique().tolist() == merge(high, low).unique().tolist() == [3.0]


@given(st.lists(st.booleans(), max_size=12))
def test_gaps_are_closed_by_the_last(alive: list[bool]) -> None:
    kept = close_gaps(alive)
    rows = torch.arange(len(alive))
    move_rows(rows, kept)
    assert sorted(rows[: len(kept)].tolist()) == [k for k, lives in enumerate(alive) if lives]
    assert sum(place != source for place, source in enumerate(kept)) <= alive.count(False)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(prefill=64, completions=1, cache_bytes=1),
        Limits(prefill=256, completions=5, cache_bytes=1 << 18),
        Limits(prefill=4096, completions=64, cache_bytes=1 << 24),
    ],
    ids=lambda limits: limits.completions,
)
def test_cascade_and_masks_give_the_same_answers(
    limits: Limits, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns that extend each other, siblings, long ends, prompts alone, several samples of one."""
    new = iter([3, 9, 1, 6] * 20)
    requests: list[Request] = [
        *turns(5, new=next(new)),
        *siblings(9, new=next(new)),
        *(Generate((STORY, f"{k} " * MAX_OWN), next(new)) for k in "ab"),
        *(Generate((f"{k}{STORY}",), next(new)) for k in "xyz"),
        *(Generate((STORY, "?"), next(new), top_k=4, seed=(k,)) for k in range(3)),
    ]

    def run() -> tuple[Engine, list[object]]:
        engine = Engine(tiny)
        engine.backend.generator._limits = limits  # type: ignore[attr-defined]
        skip_self_tests(engine)
        found = answers(engine, requests)
        return engine, [(answer.tokens, answer.logprobs) for answer in found]

    engine, in_cascade = run()
    assert engine.backend.generator._sharing() is CascadeRows  # type: ignore[attr-defined]
    monkeypatch.setattr(verify_decoding, "_may_take_cascade", lambda forward: False)
    engine, under_masks = run()
    assert engine.backend.generator._sharing() is SharedRows  # type: ignore[attr-defined]
    for (tokens, logprobs), (others, want) in zip(in_cascade, under_masks, strict=True):  # type: ignore[misc]
        assert tokens == others
        assert logprobs == pytest.approx(want, abs=1e-4)


def test_a_model_is_left_as_it_was(tiny: Checkpoint) -> None:
    model = tiny.model
    assert takes_cascade(model)
    with cascading(attention_configs(model)):
        assert not takes_cascade(model)
    assert takes_cascade(model)
    answers(Engine(tiny), siblings(3))
    assert model.config._attn_implementation == "sdpa"


def test_modules_whose_config_says_nothing_of_attention_take_no_cascade() -> None:
    model = torch.nn.Module()
    model.config = SimpleNamespace(width=3)
    assert not takes_cascade(model)


def zeros(rows: int, columns: int) -> KeysValues:
    return KeysValues(torch.zeros(rows, 2, columns, 4), torch.zeros(rows, 2, columns, 4))


def test_a_prefilled_layer_is_free_once_it_is_copied() -> None:
    prefilled = [zeros(1, 3) for _ in range(4)]
    keys = [weakref.ref(layer.keys) for layer in prefilled]
    alive: list[int] = []

    def choose_columns(buffer: torch.Tensor) -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in keys))
        return buffer[:, :, :1].clone()

    cascade = Cascade(OwnLevel(1, 4))
    level = PromptLevel([object()], None, rows=1)
    cascade.add(prefilled, [OwnColumns(0, [1, 2])], [(level, choose_columns)])
    assert alive[::2] == [4, 3, 2, 1]
    assert not prefilled
    assert [layer.keys.shape[2] for layer in level.layers] == [1] * 4


def held(cascade: Cascade) -> int:
    """Bytes of all keys and values, with those of which only a view is in use."""
    layers = [*cascade.own._layers, *(layer for level in cascade.prompts for layer in level.layers)]
    storages = [buffer.untyped_storage() for layer in layers for buffer in layer]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_keys_and_values_stay_within_the_limits(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that share nothing, of which one in each batch goes on for long."""
    limits = Limits(prefill=128, completions=8, cache_bytes=1 << 18)
    engine = Engine(tiny)
    engine.backend.generator._limits = limits  # type: ignore[attr-defined]
    skip_self_tests(engine)
    column = engine.backend.forward.cache_bytes_per_token()  # type: ignore[attr-defined]
    sizes: list[int] = []
    feed = CascadeRows.feed

    def measured(self: CascadeRows) -> object:
        step = feed(self)
        sizes.append(held(self._cascade))
        return step

    monkeypatch.setattr(CascadeRows, "feed", measured)
    asked = [Generate((f"{k}{STORY}",), 1 if k % 4 else 40) for k in range(40)]
    answers(engine, asked)
    assert max(sizes) <= limits.cache_bytes + limits.prefill * column


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_own_buffers_are_no_wider_than_twice_the_average(ends: list[int]) -> None:
    prompts = [GenerationQuery((0, 1, k + 2, *[9] * n), 1, (), 1, ()) for k, n in enumerate(ends)]
    spans = [query.span for query in prompts]
    [row] = arrange(spans, Sharing(pair_cost=0.0, max_row=1 << 20))
    layout = _Layout(PromptRow(row, {s: [query] for s, query in enumerate(prompts)}))
    widest = max(map(len, layout.own))
    assert widest * len(ends) <= 2 * len(row)
    assert widest <= MAX_OWN
    assert {*map(len, layout.own)} <= {0, *(n + 1 for n in ends)}
    if len(ends) > 1 and max(ends) < MAX_OWN:
        assert widest > min(ends)


def test_own_buffers_are_free_as_soon_as_nobody_needs_them() -> None:
    gc.disable()
    try:
        own = OwnLevel(2, 8)
        own.add([OwnColumns(0, [1, 2])], [zeros(1, 3)])
        buffer = weakref.ref(own._layers[0].keys)
        assert buffer() is not None
        del own
        assert buffer() is None
    finally:
        gc.enable()


def test_a_run_makes_no_cycle_that_keeps_buffers(tiny: Checkpoint) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []
    before = OwnLevel.add

    def add(self: OwnLevel, *given: object) -> None:
        before(self, *given)  # type: ignore[arg-type]
        kept.append(weakref.ref(self._layers[0].keys))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnLevel, "add", add)
        engine = Engine(tiny)
        asked = siblings(4)
        gc.disable()
        try:
            list(engine.answer(asked, engine.encode(asked, Encoding())))
            assert kept
            assert all(ref() is None for ref in kept)
        finally:
            gc.enable()
