"""Spans that share a prefix go on from copies of the model's state, where that is right."""

import logging

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import build

from harness.core import Encoding, Loglikelihood, NextWord, Request, Scored
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine
from harness.engine.model import caches
from harness.engine.queries.prefix_groups import GroupCost, GroupRow, arrange_groups
from harness.engine.queries.query import Span
from harness.engine.scoring import shared_states, verify_states
from harness.engine.scoring.shared_states import StateMethod
from harness.errors import CheckpointError

CHEAP = GroupCost(pass_cost=2, at_once=True, max_rests=64, keep_searched=True)
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
spans = st.lists(
    st.builds(lambda ids, reads, top: Span(ids, ids[:reads] if not top else (), top),
              tokens, st.integers(1, 4), st.booleans()),
    min_size=1, max_size=12, unique=True,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(spans=spans, limit=st.one_of(st.none(), st.integers(3, 9)))
def test_every_span_is_read_on_its_own_path(spans: list[Span], limit: int | None) -> None:
    rows = arrange_groups(spans, CHEAP, limit)
    assert sorted(s for row in rows for s in row.nodes) == list(range(len(spans)))
    for row in rows:
        for s, nodes in row.nodes.items():
            inputs = spans[s].inputs
            assert [row.positions[n] for n in nodes] == [*range(len(inputs))][-len(nodes) :]
            path = [j for j in range(nodes[-1] + 1) if row.ends[j] > nodes[-1]]
            assert tuple(row.tokens[j] for j in path) == inputs
        if isinstance(row, GroupRow):
            assert limit is None or row.depth <= limit
            columns = [j for begin, end in row.rests for j in range(begin, end)]
            assert columns == [*range(row.prefix, len(row))], "rests follow the prefix"
            assert all(row.positions[begin] == row.prefix for begin, _ in row.rests)


def question(context: int, options: int, length: int) -> list[Span]:
    return [Span((*range(context), *[k] * length), (0,)) for k in range(options)]


@pytest.mark.parametrize(
    ("asked", "cost", "groups"),
    [
        (question(50, 10, 3), CHEAP, 1),
        (question(2, 2, 3), CHEAP, 0),  # a pass costs more than the prefix
        (question(50, 10, 3), GroupCost(200, True, 64, True), 1),
        (question(50, 10, 3), GroupCost(200, False, 64, True), 0),  # four passes
        (question(50, 10, 8), CHEAP, 2),  # of rests for which there is room
        ([*question(50, 3, 3), *[Span((7, *s.inputs), (0,)) for s in question(50, 3, 3)]],
         CHEAP, 2),
    ],
)  # fmt: skip
def test_a_group_is_made_where_it_pays(asked: list[Span], cost: GroupCost, groups: int) -> None:
    rows = arrange_groups(asked, cost)
    assert sum(isinstance(row, GroupRow) for row in rows) == groups


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip


def lfm2(vocabulary: int) -> tf.PreTrainedModel:
    """Convolutions and attention; several tokens may follow a state."""
    kinds = ["conv", "full_attention"]
    return tf.Lfm2ForCausalLM(
        tf.Lfm2Config(vocab_size=vocabulary, **SIZES, layer_types=kinds, block_multiple_of=8)
    )


def mamba(vocabulary: int) -> tf.PreTrainedModel:
    """Its state is left out where several tokens follow it."""
    config = tf.MambaConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, state_size=4,
        initializer_range=0.3, use_mambapy=False,
    )  # fmt: skip
    return tf.MambaForCausalLM(config)


def rwkv(vocabulary: int) -> tf.PreTrainedModel:
    """Makes its state itself, and fails on single tokens of several rows."""
    config = tf.RwkvConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        attention_hidden_size=32, context_length=256,
    )  # fmt: skip
    return tf.RwkvForCausalLM(config)


CONTEXT = "the sand and the sea said that the end of the land was by the night boat and far"
OPTIONS = (" a", " sand", " the sea", " an end", " far")
REQUESTS: list[Request] = [
    Loglikelihood(context, option) for context in (CONTEXT, CONTEXT[::-1]) for option in OPTIONS
]


def answers(engine: Engine, asked: list[Request] = REQUESTS) -> list[float]:
    found = dict(engine.answer(asked, engine.encode(asked, Encoding())))
    return [a.logprob for i in range(len(asked)) if isinstance(a := found[i], Scored)]


def naive(checkpoint: Checkpoint) -> list[float]:
    """One pass of transformers per request."""
    found: list[float] = []
    encode = checkpoint.tokenizer.encode
    start = checkpoint.tokenizer.start_tokens("auto")
    for request in REQUESTS:
        assert isinstance(request, Loglikelihood)
        context = [*start, *encode([request.context])[0]]
        ids = context + encode([request.continuation])[0]
        with torch.no_grad():
            rows = checkpoint.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found.append(sum(float(rows[k - 1, ids[k]]) for k in range(len(context), len(ids))))
    return found


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return build(tmp_path_factory.mktemp("model"), lfm2, context=256)


@pytest.fixture(scope="module", params=[lfm2, mamba, rwkv], ids=lambda make: make.__name__)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    return build(tmp_path_factory.mktemp("model"), request.param, context=256)


def test_scores_are_those_of_a_naive_loop(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint)
    assert answers(engine) == pytest.approx(naive(checkpoint), abs=1e-4)
    assert engine.tokens.computed < 0.4 * engine.tokens.asked, "each context once"
    method = engine.backend.planner.state_method
    assert method.at_once is (checkpoint.model.config.model_type != "mamba")


def test_words_are_searched_after_the_kept_state(short: Checkpoint) -> None:
    asked: list[Request] = [
        NextWord(text, frozenset({"the"})) for text in (CONTEXT, CONTEXT[20:], "by the")
    ]
    found, fed = [], []
    for engine in (Engine(short), Engine(short, share=False)):
        found.append(dict(engine.answer(asked, engine.encode(asked, Encoding()))))
        fed.append(engine.tokens.computed)
    assert found[0] == found[1]
    assert fed[0] < fed[1] / 2


def test_memory_that_runs_out_halves_the_copies(
    short: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(short)
    want = answers(engine)
    sizes: list[int] = []
    real = shared_states.repeated

    def small_memory(cache: object, rows: torch.Tensor) -> object:
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("not enough memory")
        return real(cache, rows)

    monkeypatch.setattr(shared_states, "repeated", small_memory)
    with caplog.at_level(logging.WARNING, "harness"):
        assert answers(engine) == pytest.approx(want, abs=1e-5)
    assert "out of memory" in caplog.text
    assert max(sizes[-3:]) <= 2
    monkeypatch.setattr(shared_states, "repeated", lambda cache, rows: torch.empty(1 << 50))
    with pytest.raises(CheckpointError, match="out of memory on a single row"):
        answers(engine)


def test_a_resumed_run_computes_the_same_bits(short: Checkpoint) -> None:
    """Groups are planned from all queries, answered or not."""
    backend = Engine(short, budget=80).backend
    engine = Engine(short)
    queries = list(dict.fromkeys(s for e in engine.encode(REQUESTS, Encoding()) for s in e.spans))
    whole = [*backend.answer(queries, (), lambda done, total: None)]
    assert len(whole) > 1
    known = whole[0].keys()
    left = [*Engine(short, budget=80).backend.answer(queries, known, lambda *_: None)]
    assert left
    assert not any(known & part.keys() for part in left)
    for part in left:
        for query, answer in part.items():
            other = next(p[query] for p in whole[1:] if query in p)
            assert answer.value.logprobs.tolist() == other.value.logprobs.tolist()


@pytest.mark.parametrize("fault", ["forgets", "counts on", "one row"])
def test_the_self_test_finds_wrong_copies(
    fault: str, short: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that is wrong after a copied state with every method scores separate rows."""
    real = caches.repeated

    def wrong(cache: object, rows: torch.Tensor) -> object:
        if fault == "one row":
            return real(cache, rows[:1])
        new = real(cache, rows)
        for layer in new.layers:  # type: ignore[attr-defined]
            if fault == "forgets" and hasattr(layer, "conv_states"):
                layer.reset()
            if fault == "counts on" and hasattr(layer, "keys"):
                layer.keys = layer.keys.roll(1, 2)
        return new

    monkeypatch.setattr(shared_states, "repeated", wrong)
    engine = Engine(short)
    with caplog.at_level(logging.WARNING, "harness"):
        assert answers(engine) == pytest.approx(naive(short), abs=1e-4)
    assert engine.describe()["sharing"] is False
    [message] = caplog.messages
    assert message.startswith("prefixes are not shared: the model has layers of kind conv; ")


def test_a_window_shows_only_at_its_length(
    short: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that fails at the lengths of the run is not used."""
    forward = Engine(short).backend.forward
    real = StateMethod.feed

    def wrong_at_length(self, forward, cache, ids, start):  # type: ignore[no-untyped-def]
        states = real(self, forward, cache, ids, start)
        return states + (self.at_once and start > 60)

    monkeypatch.setattr(StateMethod, "feed", wrong_at_length)
    methods = verify_states.StateMethods(forward)
    assert methods.method().at_once
    assert methods.method(50, 4).at_once
    assert methods.method(80, 4) == StateMethod(at_once=False)
    assert "log-probabilities move by" in methods.fault
