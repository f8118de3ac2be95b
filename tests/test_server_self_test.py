"""The self-test of model servers: right ones pass, and every fault is found by its probe.

The server is in memory: a two-layer network behind a dialect whose answers a test may bend.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fake_model import Model, from_folder
from hypothesis import example, given
from hypothesis import strategies as st

from harness.engine.checkpoint.load import Checkpoint
from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.dialect import Next, Prompted, Server, Written
from harness.engine.endpoint.self_test import fingerprint as fingerprints
from harness.engine.endpoint.self_test.asking import Asking
from harness.engine.endpoint.self_test.findings import Known, Report
from harness.engine.endpoint.self_test.fingerprint import fingerprint
from harness.engine.endpoint.self_test.limits import _block_by_time, _Speed, measure
from harness.engine.endpoint.self_test.probing import Probing
from harness.engine.endpoint.self_test.prompts import LENGTHS, ODD, fixed_prompts
from harness.engine.endpoint.self_test.run import Needs, self_test
from harness.engine.queries.query import GenerationQuery
from harness.errors import EndpointError, ResponseError

NAMED, TOP = 128, 20
SERVER = Server("memory", "1.0", "tiny", "", 256, "")


class Memory:
    """A server in memory that is its own dialect and transport.

    Args:
        model: what it computes with.
        offers: what it can be asked.
        longest: tokens of the longest prompt that it accepts.
        stated: what it says of prompt and generated tokens together.
        block: tokens of a block of its prefix cache; 0: it has none.
        bend: changes an answer, given what was asked and how many calls were answered before.
    """

    def __init__(
        self,
        model: Model,
        *,
        offers: Iterable[str] = ("prompted", "named", "top", "written", "tokenized"),
        longest: int = 255,
        stated: int | None = 256,
        block: int = 16,
        bend: Callable[[str, Any, int], Any] = lambda kind, answer, count: answer,
    ) -> None:
        self.model, self.offers, self.longest, self.block = model, set(offers), longest, block
        self.server, self.bend = SERVER._replace(longest=stated), bend
        self.calls: list[str] = []
        self._read: list[tuple[int, ...]] = []

    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted] | None:
        return self._ask("prompted", tuple(tokens), first)

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next] | None:
        return self._ask("named", tuple(prompt), tuple(ids))

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next] | None:
        return self._ask("top", tuple(prompt), count)

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written] | None:
        return self._ask("written", query.prompt, query.max_new_tokens)

    def tokenized(self, text: str) -> Ask[tuple[int, ...]] | None:
        return self._ask("tokenized", (), text)

    def _ask(self, kind: str, tokens: tuple[int, ...], more: Any) -> Any:
        if kind not in self.offers:
            return None
        return Ask(Call(kind, {"tokens": tokens, "more": more}), lambda reply: reply())

    def call(self, call: Call) -> Callable[[], Any]:
        assert call.body is not None
        tokens, more = call.body["tokens"], call.body["more"]
        if len(tokens) > self.longest:
            raise EndpointError("the prompt is too long", 400)
        if (call.path == "top" and more > TOP) or (call.path == "named" and len(more) > NAMED):
            raise EndpointError("so many are not allowed", 400)
        count = len(self.calls)
        self.calls.append(call.path)
        answer = self.bend(call.path, getattr(self, f"_{call.path}")(tokens, more), count)

        def read() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return read

    def send(self, calls: Iterable[tuple[Any, Call]]) -> Iterator[tuple[Any, Any]]:
        together = list(calls)
        kinds = {call.path for _, call in together}
        assert kinds != {"named", "top"}, "vLLM mixes up their answers"
        yield from reversed([(key, self.call(call)) for key, call in together])

    def _prompted(self, tokens: tuple[int, ...], first: int) -> Prompted:
        rows = self.model.rows(tokens)[first - 1 : -1]
        own = rows[np.arange(len(rows)), list(tokens[first:])]
        self._read.append(tokens)
        best = rows.max(axis=1)
        return Prompted(own, own == best, best, 0, 0)  # never read from the cache

    def _named(self, tokens: tuple[int, ...], ids: tuple[int, ...]) -> Next:
        row, cached = self._row(tokens)
        return Next({i: float(row[i]) for i in ids}, int(row.argmax()), cached)

    def _top(self, tokens: tuple[int, ...], count: int) -> Next:
        row, cached = self._row(tokens)
        best = np.argsort(-row, kind="stable")[:count].tolist()
        return Next({i: float(row[i]) for i in best}, best[0], cached)

    def _row(self, tokens: tuple[int, ...]) -> tuple[Any, int | None]:
        cached = 0
        for known in self._read if self.block else ():
            pairs = zip(known, tokens, strict=False)
            shared = next((i for i, (a, b) in enumerate(pairs) if a != b), len(tokens))
            shared = min(shared, len(known), len(tokens) - 1)
            cached = max(cached, shared - shared % self.block)
        self._read.append(tokens)
        return self.model.rows(tokens)[-1], cached

    def _written(self, tokens: tuple[int, ...], count: int) -> Written:
        made: list[int] = []
        values: list[float] = []
        for _ in range(count):
            row = self.model.rows([*tokens, *made])[-1]
            made.append(int(row.argmax()))
            values.append(float(row.max()))
        return Written(tuple(made), tuple(values), 0)

    def _tokenized(self, tokens: tuple[int, ...], text: str) -> tuple[int, ...]:
        return tuple(self.model.tokenizer.encode(text))


@pytest.fixture(scope="module")
def model(tiny_folder: Any) -> Model:
    return from_folder(tiny_folder)


def examined(server: Memory, tiny: Checkpoint, *, context: int = 1024, **needs: float) -> Report:
    spread = needs.get("max_spread", 1e-3)
    return self_test(server, server, tiny.tokenizer, Needs(context, 8, spread))


# --- servers that are right -------------------------------------------------------------------


@pytest.mark.parametrize(
    "offers",
    [
        {"prompted", "named", "top", "written", "tokenized"},
        {"prompted", "named", "top", "written"},
        {"named", "written"},
        {"prompted"},
        {"top", "written"},
        {"top"},
    ],
    ids=lambda offers: "+".join(sorted(offers)),
)
def test_a_right_server_passes_and_its_abilities_are_known(
    offers: set[str], model: Model, tiny: Checkpoint
) -> None:
    report = examined(Memory(model, offers=offers), tiny)
    assert report.failure is None, report.failure
    assert report.verdict == "passed"
    assert report.spread < 1e-5
    found = report.abilities
    assert found is not None
    assert (found.prompt_logprobs, found.generates) == ("prompted" in offers, "written" in offers)
    assert found.named == (NAMED if "named" in offers else 0)
    assert found.top == (TOP if "top" in offers else 0)
    assert found.longest == 255
    assert found.block == (16 if offers & {"named", "top"} else None)
    assert 0 < found.seconds_per_token < 1
    assert 0 < found.seconds_per_call < 1


def test_known_values_are_those_of_the_model(model: Model, tiny: Checkpoint) -> None:
    for offers in ({"prompted"}, {"named"}, {"top"}):
        report = examined(Memory(model, offers=offers), tiny)
        assert len(report.known) >= len(LENGTHS)
        for tokens, logprobs in report.known:
            rows = model.rows(tokens)
            first = len(tokens) - len(logprobs)
            expected = [rows[i - 1][tokens[i]] for i in range(first, len(tokens))]
            assert logprobs == pytest.approx(expected)


def test_it_costs_few_calls(model: Model, tiny: Checkpoint) -> None:
    server = Memory(model)
    report = examined(server, tiny)
    assert report.calls == len(server.calls)  # refused ones are not counted
    assert len(server.calls) <= 110


def test_a_tokenizer_without_the_texts_gets_made_up_prompts(tiny: Checkpoint) -> None:
    class Mute:
        end_tokens = frozenset({3})

        def start_tokens(self, bos: str) -> tuple[int, ...]:
            return ()

        def encode(self, texts: Sequence[str]) -> list[list[int]]:
            return [[] for _ in texts]

        def __len__(self) -> int:
            return 9

    prompts = fixed_prompts(Mute(), 256)  # type: ignore[arg-type]
    assert prompts.made_up
    assert [len(ids) for ids in prompts.sequences] == list(LENGTHS)
    assert {i for ids in prompts.sequences for i in ids} == set(range(9)) - {3}
    assert fixed_prompts(Mute(), 256) == prompts  # type: ignore[arg-type]
    assert not fixed_prompts(tiny.tokenizer, 256).made_up


# --- faults -----------------------------------------------------------------------------------


def only(kind: str, change: Callable[[Any, int], Any]) -> Callable[[str, Any, int], Any]:
    """A bend of one kind of answer."""
    return lambda asked, answer, count: change(answer, count) if asked == kind else answer


def moved(answer: Any, nats: float) -> Any:
    """An answer of which all log-probabilities are lower."""
    values = answer.logprobs
    if isinstance(values, dict):
        return answer._replace(logprobs={i: v - nats for i, v in values.items()})
    if isinstance(values, tuple):
        return answer._replace(logprobs=tuple(v - nats for v in values))
    return answer._replace(logprobs=values - np.float32(nats))


FAULTS: dict[str, tuple[str, str, Callable[[str, Any, int], Any]]] = {
    "a reply that the dialect refuses": (
        "prompt log-probabilities",
        "expected 3, got 4",
        only("prompted", lambda answer, count: ResponseError("expected 3, got 4")),
    ),
    "one value fewer": (
        "prompt log-probabilities",
        "values for a prompt of",
        only("prompted", lambda answer, count: answer._replace(logprobs=answer.logprobs[1:])),
    ),
    "rows shifted by one": (
        "shift by one",
        "after the tokens before it",
        only("prompted", lambda answer, count: answer._replace(logprobs=np.roll(answer[0], 1))),
    ),
    "values that depend on the calls before": (
        "spread",
        "asked alone and together",
        only("prompted", lambda answer, count: moved(answer, 0.01 * (count % 7))),
    ),
    "named tokens that depend on the calls before": (
        "spread",
        "tokens by name, asked alone and together",
        only("named", lambda answer, count: moved(answer, 0.01 * (count % 7))),
    ),
    "logits in place of log-probabilities": (
        "sum",
        "add up to 0.1353",
        lambda kind, answer, count: answer if kind == "tokenized" else moved(answer, 2.0),
    ),
    "an inverted greedy flag": (
        "greedy flag",
        "generated greedily, but not greedy in a prompt",
        only("prompted", lambda answer, count: answer._replace(greedy=~answer.greedy)),
    ),
    "every token greedy": (
        "greedy flag",
        "counts as greedy, but the best token is",
        only("prompted", lambda a, count: a._replace(greedy=np.ones_like(a.greedy))),
    ),
    "generation that is not greedy": (
        "greedy flag",
        "where token",
        only("written", lambda a, count: a._replace(tokens=((a.tokens[0] + 1) % 256, *a[0][1:]))),
    ),
    "another tokenizer": (
        "tokenizer",
        "1 of 20 odd texts differ: '",
        only("tokenized", lambda answer, count: (*answer, 7) if count == 5 else answer),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_its_probe(name: str, model: Model, tiny: Checkpoint) -> None:
    probe, seen, bend = FAULTS[name]
    report = examined(Memory(model, bend=bend), tiny)
    assert report.failure is not None
    assert report.failure.probe == probe
    assert seen in report.failure.seen
    assert report.failure.advice
    assert report.verdict == "failed"
    assert report.abilities is None


def test_without_other_ways_rows_are_checked_by_shorter_prompts(
    model: Model, tiny: Checkpoint
) -> None:
    last = only(
        "prompted",
        lambda answer, count: answer._replace(logprobs=answer[0] * 0 - 5 - len(answer[0])),
    )
    report = examined(Memory(model, offers={"prompted"}, bend=last), tiny)
    assert report.failure is not None
    assert report.failure.probe == "shift by one"


def test_generation_is_compared_with_the_best_of_top_k(model: Model, tiny: Checkpoint) -> None:
    _, _, bend = FAULTS["generation that is not greedy"]
    report = examined(Memory(model, offers={"top", "written"}, bend=bend), tiny)
    assert report.failure is not None
    assert report.failure.probe == "greedy flag"


def test_logits_are_found_by_the_bounds_of_a_large_vocabulary(
    model: Model, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.engine.endpoint.self_test.sums.SMALL", 0)
    assert examined(Memory(model), tiny).failure is None
    for nats in (8.0, -2.0):
        bend = only("top", lambda answer, count, nats=nats: moved(answer, nats))
        report = examined(Memory(model, offers={"top"}, bend=bend), tiny)
        assert report.failure is not None
        assert report.failure.probe == "sum"


def test_options_that_are_all_the_same_are_a_warning(model: Model, tiny: Checkpoint) -> None:
    report = examined(Memory(rowless(model), offers={"prompted"}), tiny)
    assert report.failure is None
    warned = {finding.probe for finding in report.findings if finding.state == "warn"}
    assert warned == {"uniform bound", "option order"}


def test_nothing_to_score_with_is_refused(model: Model, tiny: Checkpoint) -> None:
    report = examined(Memory(model, offers={"written"}), tiny)
    assert report.failure is not None
    assert report.failure.probe == "log-probabilities"


def test_named_ids_that_an_older_server_ignores_are_not_offered(
    model: Model, tiny: Checkpoint
) -> None:
    bend = only("named", lambda answer, count: ResponseError("the ids are not there"))
    report = examined(Memory(model, bend=bend), tiny)
    assert report.failure is None
    assert report.abilities is not None
    assert report.abilities.named == 0
    assert any("not offered: the ids are not there" in finding.seen for finding in report.findings)


def test_a_proxy_without_a_tokenizer_is_no_fault(model: Model, tiny: Checkpoint) -> None:
    bend = only("tokenized", lambda answer, count: ResponseError("no tokens"))
    report = examined(Memory(model, bend=bend), tiny)
    assert report.failure is None
    assert [f.state for f in report.findings if f.probe == "tokenizer"] == ["warn"]


# --- spread -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "allowed", "verdict"),
    [
        (0.0, 1e-3, "passed"),
        (0.0004, 1e-3, "passed"),
        (0.004, 1e-3, "failed"),
        (0.004, 5e-3, "spread 0.004 allowed"),
        (0.0004, 1e-4, "failed"),
    ],
)
def test_spread_is_refused_or_allowed_and_recorded(
    noise: float, allowed: float, verdict: str, model: Model, tiny: Checkpoint
) -> None:
    def bend(kind: str, answer: Any, count: int) -> Any:
        return moved(answer, noise * (count % 2)) if kind == "prompted" else answer

    report = examined(Memory(model, bend=bend), tiny, max_spread=allowed)
    assert report.verdict == verdict
    assert report.spread == pytest.approx(noise, abs=1e-5)
    if verdict == "failed":
        assert report.failure is not None
        assert f"expected at most {allowed:g}" in report.failure.advice
        assert "--max-spread 0.00" in report.failure.advice


# --- the longest prompt and the prefix cache --------------------------------------------------


def probing_of(server: Memory, tiny: Checkpoint) -> Probing:
    prompts = fixed_prompts(tiny.tokenizer, server.server.longest)
    return Probing(Asking(server), server, tiny.tokenizer, prompts, 1e-3, named=NAMED)


def rowless(model: Model) -> Model:
    """A model of the same size whose answers cost nothing."""
    row = np.full(model.vocabulary, -math.log(model.vocabulary), np.float32)
    return Model(
        lambda ids: np.broadcast_to(row, (len(ids), len(row))), model.tokenizer, context=9999
    )


@given(
    limit=st.integers(40, 1500),
    off=st.sampled_from([None, -2, 0, 1, 2, 700]),
    wanted=st.integers(40, 1200),
)
@example(limit=1023, off=1, wanted=1025)
@example(limit=1023, off=None, wanted=1025)
def test_the_longest_prompt_is_found_whatever_the_server_says(
    limit: int, off: int | None, wanted: int, model: Model, tiny: Checkpoint
) -> None:
    stated = None if off is None else max(limit + off, 40)
    server = Memory(rowless(model), longest=limit, stated=stated)
    found = measure(probing_of(server, tiny), wanted=wanted, concurrency=2, prompted=True)
    assert found.longest == min(limit, wanted, wanted if stated is None else stated + 1)


@pytest.mark.parametrize("cached", [True, False])
def test_a_short_context_needs_no_long_prompt(cached: bool, model: Model, tiny: Checkpoint) -> None:
    bend = only("named", lambda answer, count: answer if cached else answer._replace(cached=None))
    server = Memory(rowless(model), bend=bend)
    found = measure(probing_of(server, tiny), wanted=9, concurrency=2, prompted=True)
    assert found.longest == max(LENGTHS)
    assert found.seconds_per_token > 0
    assert found.block == (16 if cached else None)


@given(block=st.integers(1, 500), length=st.sampled_from([255, 1023, 1025]))
def test_the_block_of_the_prefix_cache_is_found(
    block: int, length: int, model: Model, tiny: Checkpoint
) -> None:
    server = Memory(rowless(model), longest=length, stated=None, block=block)
    found = measure(probing_of(server, tiny), wanted=length, concurrency=2, prompted=True)
    assert found.block == (block if block < length else None)


def test_a_server_without_a_prefix_cache_has_no_block(model: Model, tiny: Checkpoint) -> None:
    server = Memory(rowless(model), block=0)
    found = measure(probing_of(server, tiny), wanted=1025, concurrency=2, prompted=True)
    assert found.block is None


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("error", [0.75, 1.0, 1.3])
def test_the_block_is_estimated_by_time_where_the_server_is_silent(
    block: int, error: float, model: Model, tiny: Checkpoint
) -> None:
    probing = probing_of(Memory(rowless(model)), tiny)
    speed = _Speed(per_call=0.01, per_token=2e-3)
    assert _block_by_time(probing, 767, 0.01 + error * (block - 1) * 2e-3, speed) == block
    assert _block_by_time(probing, 767, 700 * 2e-3, speed) is None


@pytest.mark.parametrize(("read", "share"), [(3.0, 0.75), (1.0, 0.7), (4.0, 0.95)])
def test_the_share_of_a_token_that_is_only_read(
    read: float, share: float, model: Model, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token takes 4 ms with its log-probability, `read` ms without; the share has bounds."""
    now = [0.0]

    class Timed(Memory):
        def call(self, call: Call) -> Callable[[], Any]:
            assert call.body is not None
            ms = 4.0 if call.path == "prompted" else read
            now[0] += ms / 1e3 * len(call.body["tokens"])
            return super().call(call)

    for module in ("asking", "limits"):
        name = f"harness.engine.endpoint.self_test.{module}.perf_counter"
        monkeypatch.setattr(name, lambda: now[0])
    server = Timed(rowless(model), longest=1023, stated=1024)
    found = measure(probing_of(server, tiny), wanted=1024, concurrency=2, prompted=True)
    assert found.seconds_per_token == pytest.approx(4e-3, rel=0.01)
    assert found.unscored_share == pytest.approx(share, abs=0.01)


# --- the fingerprint --------------------------------------------------------------------------

VALUES = (-0.5, -11.25, -0.0004999, -3.1415926)
KNOWN = (Known((1, 2, 3), VALUES[:2]), Known((4, 5, 6), VALUES[2:]))


def changed(nats: float, place: int = 0) -> tuple[Known, ...]:
    values = list(VALUES)
    values[place] -= nats
    return (Known((1, 2, 3), tuple(values[:2])), Known((4, 5, 6), tuple(values[2:])))


@given(noise=st.floats(-9e-5, 9e-5), place=st.integers(0, 3))
def test_noise_does_not_change_the_fingerprint(noise: float, place: int) -> None:
    before = fingerprint(SERVER, KNOWN, 0.0, store=True)
    assert fingerprint(SERVER, changed(noise, place), 0.0, store=True) == before


def test_everything_else_changes_the_fingerprint() -> None:
    prints = [
        fingerprint(server, known, 1e-5, store=True)
        for server, known in (
            (SERVER, KNOWN),
            (SERVER, changed(2e-3)),
            (SERVER, changed(2e-3, 3)),
            (SERVER._replace(version="1.1"), changed(4e-3)),
            (SERVER, (Known((1, 2, 9), VALUES[:2]), KNOWN[1])),
        )
    ]
    assert len(set(prints)) == len(prints)
    again = fingerprint(SERVER, KNOWN, 1e-5, store=True)
    assert again == prints[0]  # the model is back


def test_a_noisy_server_keeps_its_fingerprint_and_an_exact_one_does_not() -> None:
    noisy = fingerprint(SERVER, KNOWN, 2e-3, store=True)
    assert fingerprint(SERVER, changed(5e-3), 1e-3, store=True) == noisy
    other = SERVER._replace(model="other")
    exact = fingerprint(other, KNOWN, 0.0, store=True)
    assert fingerprint(other, changed(5e-3), 0.0, store=True) != exact


def test_nothing_is_stored_without_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(SERVER, KNOWN, 0.0, store=False)
    assert not (fingerprints.cache_root() / fingerprints.FILE).exists()
    assert fingerprint(SERVER, changed(1e-9), 0.0, store=False) == before
    assert fingerprint(SERVER, changed(2e-3), 0.0, store=False) != before


def test_a_damaged_file_is_no_fingerprint() -> None:
    path = fingerprints.cache_root() / fingerprints.FILE
    path.write_text('{"x|y": {"fingerprint": 3, "values": "no"}, "z": 1}')
    assert fingerprint(SERVER, KNOWN, 0.0, store=True)


def test_odd_texts_are_distinct() -> None:
    assert len(set(ODD)) == 20
