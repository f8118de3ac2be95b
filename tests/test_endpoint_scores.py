"""Log-probabilities from a server: against this process, in every way of asking; cost; sentinel."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.engine.backends.in_process import InProcess
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.random_model import byte_tokenizer
from harness.engine.checkpoint.settings import Identity
from harness.engine.endpoint.answers.cost import Cost
from harness.engine.endpoint.answers.spans import plans
from harness.engine.endpoint.answers.walk import groups
from harness.engine.endpoint.backend import Endpoint, Verified
from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.dialect import Abilities, Next, Prompted, Server
from harness.engine.endpoint.dialects.distribution import following
from harness.engine.endpoint.http.patience import Unanswered
from harness.engine.endpoint.sentinel import Sentinel
from harness.engine.endpoint.served_model import STRETCH_CALLS
from harness.engine.queries.query import Answer, Query, Span
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import EndpointError, ResponseError

BLOCK = 16
ALL = Abilities(
    longest=257, prompt_logprobs=True, named=128, top=20, generates=True, block=BLOCK,
    seconds_per_call=0.008, seconds_per_token=0.001,
)  # fmt: skip
TOKENIZER = Tokenizer(byte_tokenizer(), name="bytes")
IDENTITY = Identity("http://127.0.0.1:1#tiny", None, "d", "t", 0, "", "", 0, False, 0)
WAYS = {
    "planned": ALL,
    "prompt": ALL._replace(named=0),
    "walk": ALL._replace(prompt_logprobs=False),
    "walk, two ids a call": ALL._replace(prompt_logprobs=False, named=2),
    "walk, no cache": ALL._replace(prompt_logprobs=False, block=None),
    "top": ALL._replace(prompt_logprobs=False, named=0, top=300),
}


@dataclass
class TorchModel:
    """Log-probabilities (T, V) after each token of a prompt from one at `start` on."""

    checkpoint: Checkpoint
    known: dict[tuple[int, ...], Any] = field(default_factory=dict)

    def __call__(self, prompt: Sequence[int], start: int) -> Any:
        key = tuple(prompt)
        if key not in self.known:
            with torch.no_grad():
                logits = self.checkpoint.model(torch.tensor([key])).logits[0].float()
            rows = logits.log_softmax(-1)
            # In float32 on a CPU, the rows of a shorter prompt are the same up to some 1e-7.
            self.known.update({key[:end]: rows[:end] for end in range(1, len(key) + 1)})
        return self.known[key][start:]


def made_up(prompt: Sequence[int], start: int) -> Any:
    """The same as `TorchModel`, from a checksum of each prefix."""
    ends = range(start + 1, len(prompt) + 1)
    rows = [np.random.default_rng(crc32(bytes(prompt[:end]))).random(128) for end in ends]
    return torch.tensor(np.array(rows), dtype=torch.float32).mul(8).log_softmax(-1)


@dataclass
class ModelServer:
    """A transport, and the dialect of the server behind it: a model with a prefix cache."""

    model: Callable[[Sequence[int], int], Any] = made_up
    kind: str = "vllm"
    noise: float = 0.0
    reversed: bool = False  # replies in the other order
    refuses: Callable[[list[int]], EndpointError | None] = lambda prompt: None
    log: list[Call] = field(default_factory=list)
    checked: list[int] = field(default_factory=list)  # replicas that were asked alone
    up: tuple[int, ...] = (0,)
    dead: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()  # another model is behind these
    read: int = 0  # replies that were taken
    on_return: Callable[[int], None] | None = None
    urls: tuple[str, ...] = ("http://127.0.0.1:1",)
    _blocks: set[tuple[int, ...]] = field(default_factory=set)

    @property
    def server(self) -> Server:
        return Server(self.kind, "1.0", "tiny", "", 258, "")

    def logprobs(self, prompt: Sequence[int], start: int) -> Any:
        return self.model(prompt, start) - self.noise

    def cached(self, prompt: Sequence[int], *, reads: bool = True) -> int:
        full = [tuple(prompt[:end]) for end in range(BLOCK, len(prompt) + 1, BLOCK)]
        hits = [len(b) for b in full if b in self._blocks and len(b) < len(prompt)]
        self._blocks.update(full)
        return max(hits, default=0) if reads else 0

    # As a transport.

    def call(self, call: Call, *, replica: int | None = None, patient: bool = True) -> Any:
        self.log.append(call)
        if replica is not None:
            self.checked.append(replica)
        if replica in self.wrong:
            self.noise = 0.01
        if replica in self.dead:
            raise Unanswered("connection refused")
        assert call.body is not None
        assert len(call.body["prompt"]) <= ALL.longest
        if error := self.refuses(call.body["prompt"]):
            raise error
        return call.body

    def send(self, calls: Iterable[tuple[Any, Call]]) -> Iterator[tuple[Any, Any]]:
        replies = []
        for key, call in calls:
            try:
                replies.append((key, self.call(call)))
            except EndpointError as error:
                error.key = key
                raise
            if len(replies) == 16:
                yield from self._in_order(replies)
                replies = []
        yield from self._in_order(replies)

    def _in_order(self, replies: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for reply in replies[::-1] if self.reversed else replies:
            self.read += 1
            yield reply

    def close(self) -> None:
        pass

    # As a dialect.

    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted]:
        def read(reply: Any) -> Prompted:
            ids = torch.tensor(tokens[first:])
            rows = self.logprobs(tokens, first - 1)[:-1]
            values = rows.gather(1, ids[:, None])[:, 0].numpy()
            best = rows.argmax(-1) == ids
            cached = self.cached(tokens[:first] if self.kind == "sglang" else tokens,
                                 reads=self.kind == "sglang")  # fmt: skip
            return Prompted(values, best.numpy(), rows.amax(-1).numpy(), 0, cached)

        return Ask(Call("prompted", {"prompt": list(tokens), "first": first}), read)

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next]:
        assert 0 < len(ids) <= 128

        def read(reply: Any) -> Next:
            row = self.logprobs(prompt, len(prompt) - 1)[0]
            best = int(row.argmax())
            shown = {int(i): float(row[i]) for i in (best, *ids)}
            return Next(shown, best, self.cached(prompt))

        return Ask(Call("named", {"prompt": list(prompt), "ids": list(ids)}), read)

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next]:
        def read(reply: Any) -> Next:
            row = self.logprobs(prompt, len(prompt) - 1)[0]
            values, ids = row.topk(min(count, len(row)))
            shown = dict(zip(ids.tolist(), values.tolist(), strict=True))
            return Next(shown, int(ids[0]), self.cached(prompt))

        return Ask(Call("top", {"prompt": list(prompt), "count": count}), read)


def endpoint(server: ModelServer, abilities: Abilities = ALL, *, sentinel: bool = True) -> Endpoint:
    tokens = tuple(range(40, 50))
    values = (
        server.logprobs(tokens[:-1], 0).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    )
    facts = Verified(abilities, Sentinel(tokens, tuple(values), 1e-3) if sentinel else None)
    identity = replace(IDENTITY, context=abilities.longest - 1)
    return Endpoint(server, server, TOKENIZER, identity, facts, frozenset())


def ask(backend: Any, spans: Sequence[Query], known: Collection[Query] = ()) -> dict[Query, Answer]:
    answers: dict[Query, Answer] = {}
    for batch in backend.answer(spans, known, lambda done, total: None):
        assert not answers.keys() & batch.keys()
        answers |= batch
    return answers


def span(context: Sequence[int], continuation: Sequence[int]) -> Span:
    whole = (*context, *continuation)
    return Span(whole[:-1], tuple(continuation))


def options(length: int, count: int, depth: int, seed: int = 0) -> list[Span]:
    """A question with so many options of so many tokens, which share some of their beginnings."""
    draw = np.random.default_rng(seed)
    context = draw.integers(97, 123, length).tolist()
    texts = {tuple(draw.integers(97, 100, depth).tolist()) for _ in range(count)}
    return [span(context, text) for text in sorted(texts)]


@pytest.fixture(scope="module")
def models(tiny: Checkpoint) -> tuple[InProcess, TorchModel]:
    return InProcess(tiny, share=False), TorchModel(tiny)


TOKENS = st.integers(97, 101)
SPANS = st.lists(
    st.tuples(
        st.sampled_from([[97], [98, 99], [97] * 31, [97] * 31 + [98], [99] * 100]),
        st.lists(TOKENS, max_size=3),
        st.lists(TOKENS, min_size=1, max_size=18),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(parts=SPANS, way=st.sampled_from(list(WAYS)), reverse=st.booleans())
def test_every_way_of_asking_equals_this_process(
    models: tuple[InProcess, TorchModel],
    parts: list[tuple[list[int], list[int], list[int]]],
    way: str,
    reverse: bool,
) -> None:
    spans = list(dict.fromkeys(span(a + b, c) for a, b, c in parts))
    in_process, model = models
    expected = ask(in_process, spans)
    got = ask(endpoint(ModelServer(model, reversed=reverse), WAYS[way]), spans)
    assert got.keys() == expected.keys()
    for one, answer in got.items():
        assert answer.asked == expected[one].asked
        assert answer.value.logprobs.dtype == np.float32
        np.testing.assert_allclose(answer.value.logprobs, expected[one].value.logprobs, atol=1e-5)
        assert answer.value.greedy.tolist() == expected[one].value.greedy.tolist()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize(("length", "depth"), [(50, 1), (50, 2), (64, 7), (79, 25), (120, 40)])
def test_the_cost_model_counts_the_tokens_that_a_server_computes(
    kind: str, length: int, depth: int
) -> None:
    spans = options(length, 6, depth)
    for abilities in (ALL._replace(named=0), ALL._replace(prompt_logprobs=False)):
        server = ModelServer(kind=kind)
        backend = endpoint(server, abilities, sentinel=False)
        [plan] = plans(spans, Cost(abilities, prompt_reads_cache=kind == "sglang"))
        ask(backend, spans)
        assert backend.tokens.computed == plan.tokens
        assert len(server.log) == plan.calls
        assert backend.estimate(dict.fromkeys(spans, 1), ()).computed == plan.tokens


def test_a_question_with_one_token_per_option_is_one_call() -> None:
    server = ModelServer()
    spans = [span(range(97, 117), [token]) for token in (97, 98, 99, 100)]
    ask(endpoint(server, sentinel=False), spans)
    assert [(call.path, call.body["ids"]) for call in server.log] == [("named", [97, 98, 99, 100])]


@pytest.mark.parametrize("way", WAYS)
def test_no_prompt_is_longer_than_the_server_accepts(way: str) -> None:
    server = ModelServer()
    backend = endpoint(server, WAYS[way])
    whole = [97 + k % 20 for k in range(backend.identity.context + 1)]
    spans = [span(whole[:-2], whole[-2:]), span(whole[:1], whole[1:])]
    assert len(ask(backend, spans)) == 2
    longest = max(len(call.body["prompt"]) for call in server.log)
    assert longest == ALL.longest - (WAYS[way].prompt_logprobs is False)


def test_a_server_without_log_probabilities_is_refused() -> None:
    abilities = ALL._replace(prompt_logprobs=False, named=0, top=0)
    with pytest.raises(EndpointError, match="shows no log-probabilities of given tokens, expected"):
        ask(endpoint(ModelServer(), abilities, sentinel=False), [span([97], [98])])


@settings(max_examples=30)
@given(parts=SPANS)
def test_the_nodes_of_a_tree_are_every_target_after_its_prompt_once(parts: Any) -> None:
    spans = [span(a + b, c) for a, b, c in parts]
    asked = [
        (*group.root, *node.path, child)
        for group in groups(dict.fromkeys(spans))
        for node in group.nodes()
        for child in node.children
    ]
    wanted = {
        (*one.inputs, one.targets[-1])[: len(one.inputs) - k]
        for one in spans
        for k in range(-1, len(one.targets) - 1)
    }
    assert len(asked) >= len(set(asked)) == len(wanted)
    assert set(asked) == wanted


def test_calls_of_a_group_follow_its_root_at_a_distance() -> None:
    server = ModelServer()
    spans = [one for k in range(30) for one in options(40 + k, 4, 5, seed=k)]
    ask(endpoint(server, WAYS["walk"]), spans)
    prompts = [tuple(call.body["prompt"]) for call in server.log]
    distances = []
    for group in groups(spans):
        places = [k for k, prompt in enumerate(prompts) if prompt[: len(group.root)] == group.root]
        assert prompts[places[0]] == group.root
        distances.append(places[1] - places[0])
        assert len({server.log[k].group for k in places}) == 1
    # Only those of the first stretch follow within one round of calls.
    assert sum(distance < 16 for distance in distances) <= 6


def test_a_resumed_run_asks_for_what_is_left_in_the_same_way() -> None:
    spans = [one for k in range(6) for one in options(40 + k, 5, 6, seed=k)]
    whole, rest = ModelServer(), ModelServer()
    answers = ask(endpoint(whole), spans)
    known = spans[: len(spans) // 2]
    progress: list[tuple[int, int]] = []
    found: dict[Query, Answer] = {}
    resumed = endpoint(rest)
    for batch in resumed.answer(spans, known, lambda done, total: progress.append((done, total))):
        found |= batch
    assert found.keys() == set(spans) - set(known)
    assert {call.path for call in rest.log} == {call.path for call in whole.log}
    assert len(rest.log) < len(whole.log)
    for one, answer in found.items():
        np.testing.assert_array_equal(answer.value.logprobs, answers[one].value.logprobs)
    assert progress[-1][0] == progress[-1][1] > 0
    estimated = resumed.estimate(dict.fromkeys(spans, 1), known)
    assert estimated.asked - estimated.stored == sum(len(one.inputs) for one in found)
    assert 0 < estimated.seconds < 60


@pytest.mark.parametrize("way", WAYS)
def test_answers_of_a_server_that_changes_are_not_used(way: str) -> None:
    server = ModelServer()
    backend = endpoint(server, WAYS[way])
    spans = [span([97 + k % 20, 98, 97 + k // 20], [99]) for k in range(3 * STRETCH_CALLS)]
    answers: dict[Query, Answer] = {}

    def run() -> None:
        for batch in backend.answer(spans, (), lambda done, total: None):
            answers.update(batch)
            server.noise = 0.01  # from now on

    with pytest.raises(EndpointError, match=r"changed.* moved by 0\.01 nats, expected at most"):
        run()
    assert 0 < len(answers) < len(spans)
    server.noise = 0.0
    kept = ask(endpoint(ModelServer(), WAYS[way]), spans)
    for one, answer in answers.items():
        np.testing.assert_allclose(answer.value.logprobs, kept[one].value.logprobs, atol=1e-6)


@pytest.mark.parametrize("calls", [1, 40, STRETCH_CALLS - 1, STRETCH_CALLS + 50])
def test_a_server_that_changes_at_any_call_leaves_no_wrong_answer(calls: int) -> None:
    @dataclass
    class Changes(ModelServer):
        def _in_order(self, replies: list[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
            for reply in super()._in_order(replies):
                self.noise = 0.01 if self.read > calls else 0.0
                yield reply

    spans = [span([97 + k % 20, 98, 97 + k // 20], [99]) for k in range(3 * STRETCH_CALLS)]
    expected = ask(endpoint(ModelServer()), spans)
    answers: dict[Query, Answer] = {}

    def run() -> None:
        for batch in endpoint(Changes()).answer(spans, (), lambda done, total: None):
            answers.update(batch)

    with pytest.raises(EndpointError, match="the server changed"):
        run()
    assert len(answers) == calls // STRETCH_CALLS * STRETCH_CALLS
    for one, answer in answers.items():
        np.testing.assert_array_equal(answer.value.logprobs, expected[one].value.logprobs)


def test_a_server_that_is_back_is_checked() -> None:
    server = ModelServer()
    endpoint(server)
    assert server.on_return is not None
    server.on_return(0)
    server.noise = 0.5
    with pytest.raises(EndpointError, match="the server changed"):
        server.on_return(0)


@pytest.mark.parametrize(
    ("token", "known", "moved"), [(5, -2.5, ""), (5, -5.0, "2.5"), (7, -2.0, "0.5"), (7, -9.0, "")]
)
def test_the_sentinel_among_the_most_probable_tokens(token: int, known: float, moved: str) -> None:
    class Shows(ModelServer):
        def top(self, prompt: Sequence[int], count: int) -> Ask[Next]:
            shown = Next({3: -0.5, 5: -2.5}, 3, None)
            return Ask(Call("top", {"prompt": list(prompt)}), lambda reply: shown)

    abilities = ALL._replace(prompt_logprobs=False, named=0, top=2)
    ask = Sentinel((1, 2, token), (known,), 1e-3).ask(Shows(), abilities, named=False)
    assert ask is not None
    if not moved:
        ask.read({})
        return
    with pytest.raises(EndpointError, match=f"moved by {moved} nats"):
        ask.read({})


def test_several_servers_are_asked_in_turn_and_each_for_the_sentinel() -> None:
    urls = tuple(f"http://127.0.0.1:{port}" for port in range(4))
    server = ModelServer(urls=urls, up=(0, 1, 3), dead=(1,))
    spans = [one for k in range(24) for one in options(40 + k, 8, 5, seed=k)]
    backend = endpoint(server, WAYS["walk"])
    stretches = sum(1 for _ in backend.answer(spans, (), lambda done, total: None))
    assert stretches > 1
    assert server.checked == [0, 1, 3] * stretches
    nodes = [call.group for call in server.log[60:100]]
    assert max(nodes.count(group) for group in set(nodes)) < 20


def test_nothing_is_kept_of_a_stretch_after_which_one_of_two_servers_is_wrong() -> None:
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2")
    backend = endpoint(ModelServer(urls=urls, up=(0, 1), wrong=(1,)))
    answers = backend.answer(options(40, 4, 2), (), lambda done, total: None)
    with pytest.raises(EndpointError, match="the server changed"):
        next(answers)


@pytest.mark.parametrize(
    ("error", "is_named"),
    [
        (EndpointError("no such token", 400), True),
        (EndpointError("a fault, in 8 attempts", 500), True),
        (Unanswered("a fault, for minutes", 500), False),
        (EndpointError("no such model", 404), False),
        (EndpointError("the key is wrong", 401), False),
    ],
)
def test_a_prompt_that_a_server_refuses_is_named(error: EndpointError, is_named: bool) -> None:
    spans = [span([97, 98, k], [99, 100]) for k in range(97, 107)]
    server = ModelServer(refuses=lambda prompt: error if 105 in prompt else None)
    with pytest.raises(ResponseError if is_named else EndpointError, match=str(error)) as caught:
        ask(endpoint(server), spans)
    assert getattr(caught.value, "query", None) == (spans[8] if is_named else None)


def test_tokens_that_a_server_does_not_show_are_refused_and_counted() -> None:
    abilities = WAYS["top"]._replace(top=3)
    [row] = made_up([97], 0)
    first = [int(token) for token in row.argsort(descending=True)]
    shown, hidden = span([97], first[2:3]), span([97], first[3:4])
    backend = endpoint(ModelServer(), abilities, sentinel=False)
    batches = backend.answer([hidden, shown], (), lambda done, total: None)
    assert next(batches).keys() == {shown}
    with pytest.raises(ResponseError, match="1 of 2 items asked have a token beyond") as caught:
        next(batches)
    assert caught.value.query == hidden


@pytest.mark.parametrize(("width", "calls", "tied"), [(128, 1, 1), (1, 3, 2)])
def test_the_lowest_id_of_equal_tokens_is_the_first(width: int, calls: int, tied: int) -> None:
    """5, 7 and 9 tie; 7, which is not asked for, is the one that the server chooses."""

    @dataclass
    class Tied(ModelServer):
        def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next]:
            shown = {7: -2.0, **{token: -2.0 if token in (5, 9) else -3.0 for token in ids}}
            call = Call("named", {"prompt": list(prompt)})
            return Ask(call, lambda reply: following(shown, 7, None, "reply"))

    backend = endpoint(Tied(), WAYS["walk"]._replace(named=width), sentinel=False)
    spans = [span([97], [token]) for token in (5, 9, 11)]
    answers = ask(backend, spans)
    assert [bool(answers[one].value.greedy[0]) for one in spans] == [True, False, False]
    assert (backend.tokens.checked, backend.tokens.tied) == (calls, tied)


# Measured with a vLLM on a CPU, for ten options of m tokens after a context of n tokens:
# (n, m, nodes of the tree, block) -> CPU-seconds by prompt log-probabilities, and by a walk.
MEASURED = {
    (550, 7, 61, 128): (25.1, 16.5),
    (336, 7, 63, 128): (18.2, 24.1),
    (550, 25, 241, 128): (28.6, 65.7),
    (550, 7, 61, 32): (24.5, 8.4),
    (336, 7, 63, 32): (17.9, 13.8),
    (550, 25, 241, 32): (28.2, 35.9),
}


# The same with one thread instead of two, where a call costs less.
MEASURED_ALONE = {
    (336, 25, 241, 32): (13.3, 16.5),
    (336, 7, 61, 32): (13.3, 5.0),
    (550, 7, 61, 128): (22.1, 9.3),
    (550, 25, 241, 128): (22.2, 39.8),
    (550, 7, 61, 32): (24.0, 4.2),
    (550, 25, 241, 32): (23.4, 19.4),
}
SEEN = [
    *((case, times, calls) for case, times in MEASURED.items() for calls in (12, 24, 32)),
    *((case, times, calls) for case, times in MEASURED_ALONE.items() for calls in (4, 6)),
]


@pytest.mark.parametrize(("case", "times", "call_tokens"), SEEN, ids=str)
def test_the_chosen_way_is_the_faster_one_of_a_real_server(
    case: tuple[int, int, int, int], times: tuple[float, float], call_tokens: float
) -> None:
    length, depth, nodes, block = case
    longer = nodes - (10 * depth - 9)  # options that part at once, and some have one token more
    texts = [[k] * (depth + (k < longer)) for k in range(10)]
    spans = [span(range(1000, 1000 + length), text) for text in texts]
    [group] = groups(spans)
    assert len(group.nodes()) == nodes
    abilities = ALL._replace(
        block=block,
        seconds_per_call=call_tokens * ALL.seconds_per_token,
        unscored_share=0.77,  # 3.0 ms and 3.9 ms a token
    )
    [plan] = plans(spans, Cost(abilities))
    prompt, walk = times
    assert (prompt if plan.way == "prompt" else walk) <= 1.1 * min(prompt, walk)
