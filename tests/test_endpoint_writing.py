"""Words and texts from a server: against this process, and whatever a server makes of the ends."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, groupby, pairwise, repeat
from typing import Any

import pytest
from fake_model import torch_model
from fake_server import FakeServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed import REQUESTS, answers

from harness.core import (
    Encoding,
    Generate,
    Generated,
    Loglikelihood,
    NextWord,
    Request,
    Word,
    WordRule,
)
from harness.engine.backends.in_process import InProcess
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.decoding.completion import Endings
from harness.engine.endpoint import served_model
from harness.engine.endpoint.answers.texts import GROUP_SIZE, PIECE, _in_groups, text_answers
from harness.engine.endpoint.answers.words import word_answers
from harness.engine.endpoint.backend import Endpoint, Verified
from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.dialect import Abilities, Server, Written
from harness.engine.endpoint.dialects.sglang import Sglang
from harness.engine.endpoint.dialects.vllm import Vllm
from harness.engine.endpoint.served_model import ServedModel
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoder
from harness.engine.queries.prefix_tree import common_prefix
from harness.engine.queries.query import Answer, GenerationQuery, Query
from harness.engine.scoring.word_search import first_tokens
from harness.errors import EndpointError, ResponseError

CAN = Abilities(
    longest=255, prompt_logprobs=True, named=128, top=128, generates=True, block=16,
    seconds_per_call=0.008, seconds_per_token=0.001,
)  # fmt: skip
STORY = "the sand and the sea said, “é” the end.\n"


class InMemory:
    """A transport to a fake server, without a network; replies come in the other order."""

    urls = ("http://127.0.0.1:1",)
    on_return: Any = None

    def __init__(self, server: FakeServer) -> None:
        self.server = server

    def send(self, calls: Iterable[tuple[Any, Call]]) -> Iterator[tuple[Any, Any]]:
        replies: list[tuple[Any, Any]] = []
        for key, call in calls:
            status, reply = self.server.reply(f"/{call.path}", call.body)
            assert status == 200, reply
            replies.append((key, reply))
            if len(replies) == 16:
                yield from reversed(replies)
                replies = []
        yield from reversed(replies)


@pytest.fixture(scope="module")
def server(tiny: Checkpoint) -> FakeServer:
    model = torch_model(tiny.model, tiny.tokenizer._hf)
    return FakeServer(model, most_logprobs=len(tiny.tokenizer))


def served_by(transport: Any, dialect: Any = None, **changes: Any) -> ServedModel:
    dialect = dialect or Vllm(Server("vllm", "0.32.0", "tiny", "", 256, ""))
    return ServedModel(transport, dialect, CAN._replace(**changes), None)


def queries_of(tiny: Checkpoint, requests: Sequence[Request]) -> list[Any]:
    encoder = Encoder(tiny.tokenizer, CAN.longest - 1)
    return list(dict.fromkeys(e.queries[0] for e in encoder.encode(requests, Encoding())))


def together(batches: Iterable[dict[Query, Answer]]) -> dict[Query, Answer]:
    answers: dict[Query, Answer] = {}
    for batch in batches:
        assert batch
        assert not answers.keys() & batch.keys()
        answers |= batch
    return answers


def asked(
    batches: Iterable[dict[Query, Answer]],
) -> tuple[dict[Query, Answer], ResponseError | None]:
    """The answers that come, and the error after them."""
    answers: dict[Query, Answer] = {}
    try:
        for batch in batches:
            answers |= batch
    except ResponseError as error:
        return answers, error
    return answers, None


def in_process(tiny: Checkpoint, queries: Sequence[Query]) -> dict[Query, Answer]:
    return together(InProcess(tiny).answer(queries, (), lambda done, total: None))


# --- the backend ----------------------------------------------------------------------------


def test_all_kinds_of_requests_one_after_the_other(tiny: Checkpoint, server: FakeServer) -> None:
    """A vLLM answers plain `logprobs` wrongly while it is asked for tokens by id."""
    requests = [r for r in REQUESTS if isinstance(r, Loglikelihood | NextWord | Generate)]
    requests = [r for r in requests if getattr(r, "top_k", 1) == 1]
    server.bodies.clear()
    backend = Endpoint(
        InMemory(server),  # type: ignore[arg-type]
        Vllm(Server("vllm", "0.32.0", "tiny", "", 256, "")),
        tiny.tokenizer,
        replace(tiny.identity, context=CAN.longest - 1),
        Verified(CAN._replace(prompt_logprobs=False)),
        tiny.end_tokens,
    )
    engine = Engine(backend)
    encoded = engine.encode(requests, Encoding())
    progress: list[tuple[int, int]] = []
    found = dict(engine.answer(requests, encoded, lambda *done: progress.append(done)))
    wanted = answers(Engine(tiny), requests)
    for i, want in enumerate(wanted):
        got = found[i]
        assert type(got) is type(want)
        if isinstance(got, Word):
            assert got == want
        if isinstance(got, Generated) and isinstance(want, Generated):
            assert (got.text, got.tokens) == (want.text, want.tokens)
    kinds = [
        "id" if "logprob_token_ids" in body else "text" if body["max_tokens"] > 1 else "top"
        for _, body in server.bodies
    ]
    assert [kind for kind, _ in groupby(kinds)] == ["id", "top", "text"]
    assert all(done <= total for done, total in progress)
    assert len({total for _, total in progress}) == 3, "spans, words, texts"

    queries = list(dict.fromkeys(query for e in encoded for query in e.queries))
    server.bodies.clear()
    assert not list(backend.answer(queries, queries, lambda done, total: None))
    assert not server.bodies, "what is known is not asked"


# --- words ----------------------------------------------------------------------------------

RULES: tuple[WordRule, ...] = ("word", "first-token", "every-token")
SKIPS = (frozenset[str](), frozenset({"the", "s", "a", "0", "1", "b", "an", "sa"}))
CONTEXTS = [
    "the sand",
    "the sea said, the",
    "é and",
    f"{STORY * 2}the",
    *map("{} an".format, range(9)),
]


def words(tiny: Checkpoint) -> list[Any]:
    lists = (None, frozenset({"the", "and", "sand", "7", "x"}))
    return queries_of(
        tiny,
        [
            NextWord(c, s, among, r)
            for c in CONTEXTS
            for s in SKIPS
            for among in lists
            for r in RULES
        ],
    )


def test_words_are_those_of_this_process(tiny: Checkpoint, server: FakeServer) -> None:
    queries = words(tiny)
    want = in_process(tiny, queries)
    served = served_by(InMemory(server))
    got = together(word_answers(served, tiny.tokenizer, queries))
    assert {q: a.value for q, a in got.items()} == {q: a.value for q, a in want.items()}
    assert any(a.value.skipped for a in got.values())  # type: ignore[union-attr]
    assert all(a.asked <= want[q].asked for q, a in got.items()), "one candidate at a time"
    assert served.tokens.scored == served.tokens.checked > len(queries)
    assert served.tokens.computed < sum(a.asked for a in got.values()), "the cache is read"


def test_a_server_that_shows_few_tokens_answers_rightly_or_refuses(
    tiny: Checkpoint, server: FakeServer
) -> None:
    queries = words(tiny)
    want = in_process(tiny, queries)
    refused = 0
    for query in queries:
        answers, error = asked(
            word_answers(served_by(InMemory(server), top=5), tiny.tokenizer, [query])
        )
        if error is None:
            assert answers[query].value == want[query].value
            continue
        assert not answers
        assert error.query == query
        assert f"--max-logprobs {first_tokens(query)}" in str(error)
        refused += 1
    assert 0 < refused < len(queries)


def test_refused_words_are_counted_after_those_begun_have_their_answers(
    tiny: Checkpoint, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(tiny.tokenizer)
    all_tokens = frozenset(t.strip().lower() for t in tiny.tokenizer.token_texts(range(size)))
    requests = [
        NextWord(f"{k} the sand", all_tokens if k in (3, 5) else frozenset(), None, "first-token")
        for k in range(60)
    ]
    queries = queries_of(tiny, requests)
    monkeypatch.setattr(served_model, "STRETCH_CALLS", 10)
    served = served_by(InMemory(server), top=40)
    answers, error = asked(word_answers(served, tiny.tokenizer, queries))
    assert error is not None
    assert re.search(
        r"^the server shows the 40 most .* \(so for 2 of the first \d\d items\)$", str(error)
    )
    assert error.query == queries[3]
    want = in_process(tiny, queries)
    assert {q: a.value for q, a in answers.items()} == {q: want[q].value for q in answers}
    assert {*queries[:3], queries[4]} <= answers.keys()
    assert len(answers) < len(queries), "no more are begun"


def test_words_need_the_most_probable_tokens(tiny: Checkpoint, server: FakeServer) -> None:
    [query] = queries_of(tiny, [NextWord("the", frozenset())])
    with pytest.raises(EndpointError, match="does not show which tokens are the most probable"):
        list(word_answers(served_by(InMemory(server), top=0), tiny.tokenizer, [query]))


# --- texts ----------------------------------------------------------------------------------


def endings_of(tiny: Checkpoint) -> Endings:
    tokenizer = tiny.tokenizer
    return Endings(tokenizer, tiny.end_tokens, tokenizer.largest_id + 1)


def written(tiny: Checkpoint, served: ServedModel, queries: Sequence[Any]) -> dict[Query, Answer]:
    return together(text_answers(served, endings_of(tiny), queries))


def prompts(new: int = 12, stop: tuple[str, ...] = (), **sample: Any) -> list[Request]:
    """The turns of a conversation, and questions that share nothing."""
    said = [f"Q: the sea {i}\nA: sand {i}\n" for i in range(4)]
    turns = [(STORY, *said[:k], "Q: why\nA:") for k in range(len(said))]
    alone = [(f"{k} {'the ' * k}",) for k in range(9)]
    return [Generate(parts, new + k % 3, stop, **sample)
            for k, parts in enumerate([*turns, *alone])]  # fmt: skip


STOPS = {"none": (), "one": ("e",), "several tokens": ("th", "\n\n", "é"),
         "six": ("\n", "Q:", "zz", "#", "e", "a")}  # fmt: skip


@pytest.mark.parametrize("stop", STOPS)
def test_texts_are_those_of_this_process(tiny: Checkpoint, server: FakeServer, stop: str) -> None:
    queries = queries_of(tiny, prompts(stop=STOPS[stop]))
    want = in_process(tiny, queries)
    served = served_by(InMemory(server))
    got = written(tiny, served, queries)
    assert got.keys() == want.keys()
    for query, answer in got.items():
        text, other = answer.value, want[query].value
        assert (text.text, text.tokens, text.num_tokens, text.ended, answer.asked) == (  # type: ignore[union-attr]
            other.text, other.tokens, other.num_tokens, other.ended, want[query].asked  # type: ignore[union-attr]
        )  # fmt: skip
        assert text.logprobs == pytest.approx(other.logprobs, abs=1e-5)  # type: ignore[union-attr]
    assert {a.value.ended for a in got.values()} >= ({"stop"} if stop == "six" else {"length"})  # type: ignore[union-attr]
    assert served.tokens.computed < sum(a.asked for a in got.values()), "the cache is read"


def text_of(answer: Answer) -> Generated:
    assert isinstance(answer.value, Generated)
    return answer.value


def test_a_sample_depends_on_its_query_alone(tiny: Checkpoint, server: FakeServer) -> None:
    sampled = [r for seed in (1, 2) for r in prompts(9, ("\n",), top_k=3, seed=(seed,))[::3]]
    queries = queries_of(tiny, sampled)
    first = written(tiny, served_by(InMemory(server)), queries)
    again = written(tiny, served_by(InMemory(server)), queries[::-3])
    assert again
    assert all(text_of(a).tokens == text_of(first[query]).tokens for query, a in again.items())
    assert len({text_of(a).text for a in first.values()}) > len(queries) // 2
    for query in queries:
        text = text_of(first[query])
        rows = server.model.rows((*query.prompt, *text.tokens))[len(query.prompt) - 1 : -1]
        assert all((row > row[t]).sum() < 3 for row, t in zip(rows, text.tokens, strict=True))
        got = [row[t] for row, t in zip(rows, text.tokens, strict=True)]
        assert text.logprobs == pytest.approx(got, abs=1e-5), "over the whole vocabulary"


# --- servers that end texts elsewhere -------------------------------------------------------


@dataclass
class Scripted:
    """A transport and a dialect: a server that writes these tokens, stopping where it likes."""

    script: Sequence[int]
    counts: Iterator[int]  # how many tokens each reply has, if it may have as many
    urls: tuple[str, ...] = InMemory.urls
    bodies: list[GenerationQuery] = field(default_factory=list)
    server = Server("openai", "", "script", "", None, "")

    def send(self, calls: Iterable[tuple[Any, Call]]) -> Iterator[tuple[Any, Any]]:
        yield from ((key, call.body) for key, call in calls)

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written]:
        self.bodies.append(query)
        done = len(query.prompt) - len(PROMPT)
        assert tuple(self.script[:done]) == query.prompt[len(PROMPT) :]
        count = next(self.counts) if query.stop else query.max_new_tokens
        tokens = tuple(self.script[done:][: min(count, query.max_new_tokens)])
        return Ask(Call("written"), lambda reply: Written(tokens, (-0.5,) * len(tokens), 0))


PROMPT = (5, 6, 7)
PIECES = st.text(alphabet="the sand\né“.", max_size=24)


def ended(tiny: Checkpoint, tokens: Sequence[int], query: GenerationQuery) -> tuple[str, int, str]:
    """The referee: text, tokens and ending of a completion, looked at after every token."""
    for count in range(1, len(tokens) + 1):
        end = tokens[count - 1] in tiny.end_tokens
        text = tiny.tokenizer.new_text(query.prompt, tokens[: count - end])
        cuts = [text.find(stop) for stop in query.stop if stop in text]
        if end or cuts or count == query.max_new_tokens:
            how = "end" if end else "stop" if cuts else "length"
            return text[: min(cuts)] if cuts and not end else text, count, how
    raise AssertionError("the script is too short")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    said=PIECES,
    stop=st.lists(st.text(alphabet="the sand\né", min_size=1, max_size=3), max_size=6),
    most=st.integers(1, 20),
    counts=st.lists(st.integers(0, 20), min_size=1),
    end=st.booleans(),
)
def test_texts_end_by_our_rules_wherever_the_server_stops(
    tiny: Checkpoint, said: str, stop: list[str], most: int, counts: list[int], end: bool
) -> None:
    script = [*tiny.tokenizer.encode([said])[0], *(tiny.end_tokens if end else ()), *range(20, 50)]
    query = GenerationQuery(PROMPT, most, tuple(dict.fromkeys(stop)), 1, ())
    server = Scripted(script, cycle(counts))
    served = served_by(server, server)
    answer = text_of(written(tiny, served, [query])[query])
    want = ended(tiny, script, query)
    assert (answer.text, len(answer.tokens), answer.ended) == want
    assert answer.tokens == tuple(script[: want[1]])
    assert len(answer.logprobs) == len(answer.tokens)
    assert all(body.max_new_tokens + len(body.prompt) <= 3 + most for body in server.bodies)


def test_a_server_that_writes_past_stop_strings_is_asked_for_pieces(tiny: Checkpoint) -> None:
    script = [*tiny.tokenizer.encode(["the sand and\nthe"])[0], *range(20, 120)]
    queries = [GenerationQuery(PROMPT, 90 + k, ("\n",), 1, ()) for k in range(3)]
    server = Scripted(script, repeat(1000))
    writer = served_by(server, server, seconds_per_call=1.0)
    answers = written(tiny, writer, queries)
    assert {text_of(answer).text for answer in answers.values()} == {"the sand and"}
    assert server.bodies[0].max_new_tokens == 90
    assert server.bodies[-1].max_new_tokens == PIECE
    sample = GenerationQuery(PROMPT, 90, ("\n",), 2, (1,))
    server.bodies.clear()
    written(tiny, writer, [sample, queries[0]])
    assert sample in server.bodies, "a sample in pieces would be another one"


def test_a_server_that_writes_nothing_is_an_error(tiny: Checkpoint) -> None:
    query = GenerationQuery(PROMPT, 9, (), 1, ())
    server = Scripted((), repeat(0))
    with pytest.raises(ResponseError, match="wrote no token") as caught:
        written(tiny, served_by(server, server), [query])
    assert caught.value.query == query


def test_a_server_that_cannot_write_is_an_error(tiny: Checkpoint) -> None:
    server = Scripted((), repeat(0))
    with pytest.raises(EndpointError, match="does not show the tokens that it generates"):
        written(
            tiny,
            served_by(server, server, generates=False),
            [GenerationQuery(PROMPT, 9, (), 1, ())],
        )


def test_a_server_without_seeds_refuses_samples(tiny: Checkpoint) -> None:
    server = Sglang(Server("sglang", "", "tiny", "", None, ""), seeded=False)
    query = GenerationQuery(PROMPT, 9, (), 3, (1,))
    with pytest.raises(EndpointError, match="no sample that can be repeated"):
        written(tiny, served_by(Scripted((), repeat(0)), server), [query])


def test_tokens_that_the_tokenizer_lacks_add_no_text(tiny: Checkpoint) -> None:
    query = GenerationQuery(PROMPT, 9, ("\n",), 1, ())
    script = [99_999, *tiny.tokenizer.encode(["the\n"])[0]]
    server = Scripted(script, repeat(9))
    answer = text_of(written(tiny, served_by(server, server), [query])[query])
    assert (answer.text, answer.tokens) == ("the", tuple(script))


BEGINNINGS = st.sampled_from([(), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6)])
ENDS = st.lists(st.integers(1, 3), min_size=1, max_size=5)


@given(st.lists(st.builds(lambda a, b: (*a, *b), BEGINNINGS, ENDS), unique=True, max_size=80))
def test_groups_of_prompts_share_a_beginning(prompts: list[tuple[int, ...]]) -> None:
    queries = [GenerationQuery(prompt, 3, (), 1, ()) for prompt in prompts]
    placed = list(_in_groups(queries))
    assert Counter(query for query, _ in placed) == Counter(queries)
    sizes = Counter(place.group for _, place in placed)
    assert max(sizes.values(), default=0) <= GROUP_SIZE
    assert sum(place.first for _, place in placed) == len(sizes)
    for (one, here), (other, there) in pairwise(placed):
        assert there.group == here.group + there.first
        if not there.first:
            assert 2 * common_prefix(one.prompt, other.prompt) >= len(other.prompt)
