"""How servers are asked, and that a reply of the wrong shape is an error and never a value.

Referees: real replies of vLLM with the values written in them, and the tiny model of
`reply_shapes`, whose log-probabilities are known.
"""

import json
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reply_shapes import KINDS, Server, best, continuation, following

from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.detect import detect
from harness.engine.endpoint.dialects.dialect import Dialect, Next, Prompted, Written
from harness.engine.endpoint.dialects.dialect import Server as Facts
from harness.engine.endpoint.dialects.generation import seed
from harness.engine.endpoint.dialects.llama_cpp import LlamaCpp
from harness.engine.endpoint.dialects.openai import OpenAi
from harness.engine.endpoint.dialects.sglang import Sglang
from harness.engine.endpoint.dialects.vllm import Vllm
from harness.engine.queries.query import GenerationQuery
from harness.errors import EndpointError, ResponseError

PROMPT = (3, 17, 5, 5, 31, 8)
ENDS = frozenset({0})
VLLM = Vllm(Facts("vllm", "0.32.0", "smol", "./model", 1024, ""))
CLASSES = {
    "vllm": Vllm,
    "sglang": Sglang,
    "llama.cpp": LlamaCpp,
    "openai": OpenAi,
    "texts": OpenAi,
}


def asked(kind: str, ask: Ask[Any]) -> Any:
    return ask.read(json.loads(json.dumps(Server(kind).call(ask.call))))


def query(prompt: tuple[int, ...] = PROMPT, count: int = 5, **options: Any) -> GenerationQuery:
    return GenerationQuery(
        prompt, count, options.get("stop", ()), options.get("top_k", 1), options.get("seed", ())
    )


# --- against the tiny model ---------------------------------------------------------------


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_server_is_recognised(kind: str) -> None:
    dialect = detect(Server(kind), None)
    assert isinstance(dialect, CLASSES[kind])
    version = {"vllm": "0.32.0", "sglang": "0.5.10", "llama.cpp": "b11434-abc"}.get(kind, "")
    assert dialect.server.version == version
    assert dialect.server.model == "tiny"
    assert dialect.server.longest == (63 if kind == "sglang" else 64)
    assert "secret" not in repr(dialect)


@pytest.mark.parametrize("first", [1, 4, 5])
def test_prompted(kind: str, first: int) -> None:
    ask = detect(Server(kind), None).prompted(PROMPT, first)
    if kind == "llama.cpp":
        assert ask is None
        return
    assert ask is not None
    answer = asked(kind, ask)
    places = range(first, len(PROMPT))
    expected = [following(PROMPT[:at])[PROMPT[at]] for at in places]
    assert answer.logprobs.dtype == np.float32
    assert answer.logprobs.tolist() == expected
    assert answer.greedy.tolist() == [best(PROMPT[:at], 1) == [PROMPT[at]] for at in places]
    assert answer.ties == 0


def test_prompted_with_greedy_tokens(kind: str) -> None:
    prompt = (*PROMPT, *continuation(PROMPT, 3, ()))
    ask = detect(Server(kind), None).prompted(prompt, len(PROMPT))
    if ask is not None:
        assert asked(kind, ask).greedy.tolist() == [True, True, True]


def test_named(kind: str) -> None:
    ids = [31, 4, best(PROMPT, 1)[0], 4]
    ask = detect(Server(kind), None).named(PROMPT, ids)
    if kind not in ("vllm", "sglang"):
        assert ask is None
        return
    assert ask is not None
    answer = asked(kind, ask)
    assert dict(answer.logprobs) == {token: following(PROMPT)[token] for token in ids}
    assert answer.best == best(PROMPT, 1)[0]
    assert answer.cached == 0


def test_top(kind: str) -> None:
    ask = detect(Server(kind), None).top(PROMPT, 7)
    if kind == "texts":
        assert ask is None
        return
    assert ask is not None
    answer = asked(kind, ask)
    assert list(answer.logprobs.items()) == [
        (token, following(PROMPT)[token]) for token in best(PROMPT, 7)
    ]
    assert answer.best == best(PROMPT, 1)[0]


@pytest.mark.parametrize("prompt", [PROMPT, (1, 2), (9, 9, 9)])
def test_written(kind: str, prompt: tuple[int, ...]) -> None:
    tokens = continuation(prompt, 12, [0])
    ask = detect(Server(kind), None).written(query(prompt, 12), ENDS)
    if kind == "texts":
        assert ask is None
        return
    assert ask is not None
    answer = asked(kind, ask)
    assert (
        list(answer.tokens)
        == continuation(prompt, 12, ENDS if kind != "openai" else ())[: len(tokens)]
    )
    values = [following((*prompt, *tokens[:at]))[token] for at, token in enumerate(tokens)]
    assert list(answer.logprobs) == values


@pytest.mark.parametrize("kind", ["sglang", "llama.cpp", "openai"])
def test_an_end_of_the_models_own(kind: str) -> None:
    """Where the caller knows no end tokens, that of the model ends a text; else it is refused.

    vLLM is told not to stop there.
    """
    prompt = next(p for n in range(99) if 0 in continuation(p := (n, 1), 9, (0,)))
    dialect = detect(Server(kind), None)
    ask = dialect.written(query(prompt, 30), frozenset())
    assert ask is not None
    reply = Server(kind).call(ask.call)
    assert ask.read(reply).tokens[-1] == 0
    other = dialect.written(query(prompt, 30), frozenset({33}))
    assert other is not None
    with pytest.raises(ResponseError, match="end of text at token 0"):
        other.read(reply)


# --- mutations of valid replies ---------------------------------------------------------------

WRONG: list[Any] = [None, math.nan, -math.inf, 0.5, 3.0, -9999.0, -3.4e38, "x", True, [], {}]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in JSON."""
    if path:
        yield path
    if isinstance(node, dict):
        for key in node:
            yield from places(node[key], (*path, key))
    if isinstance(node, list):
        for at, item in enumerate(node):
            yield from places(item, (*path, at))


def parent(reply: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        reply = reply[key]
    return reply


def drop(reply: Any, path: tuple[Any, ...]) -> None:
    del parent(reply, path)[path[-1]]


def duplicate(reply: Any, path: tuple[Any, ...]) -> None:
    holder = parent(reply, path)
    if isinstance(holder, list):
        holder.insert(path[-1], deepcopy(holder[path[-1]]))


def shift(reply: Any, path: tuple[Any, ...]) -> None:
    value = parent(reply, path)[path[-1]]
    if isinstance(value, list) and value:
        value.append(value.pop(0))


def other_id(reply: Any, path: tuple[Any, ...]) -> None:
    """Another token id, except among the best tokens, which nothing else tells."""
    holder, key = parent(reply, path), path[-1]
    if any("top" in str(part) for part in path):
        return
    if type(holder[key]) is int:
        holder[key] += 1
    if isinstance(key, str) and key.isdecimal():
        holder[str(int(key) + 1)] = holder.pop(key)


def no_id(reply: Any, path: tuple[Any, ...]) -> None:
    holder, key = parent(reply, path), path[-1]
    if type(holder[key]) is int:
        holder[key] = -1


def wrong(value: Any) -> Callable[[Any, tuple[Any, ...]], None]:
    def put(reply: Any, path: tuple[Any, ...]) -> None:
        parent(reply, path)[path[-1]] = value

    return put


MUTATIONS = [drop, duplicate, shift, other_id, no_id, *map(wrong, WRONG)]


def asks(dialect: Dialect) -> list[Ask[Any]]:
    possible = [
        dialect.prompted(PROMPT, 1),
        dialect.prompted((*PROMPT, *continuation(PROMPT, 2, ())), 4),
        dialect.named(PROMPT, [31, 4, best(PROMPT, 1)[0]]),
        dialect.named(PROMPT, [4]),
        dialect.top(PROMPT, 4),
        dialect.written(query(), ENDS),
        dialect.written(query((9, 9, 9), 30), ENDS),
    ]
    return [ask for ask in possible if ask is not None]


def same(one: Any, other: Any) -> bool:
    """Whether two answers have the same values; what was cached is no value."""
    match one, other:
        case Prompted(), Prompted():
            return (
                one.logprobs.tolist() == other.logprobs.tolist()
                and one.greedy.tolist() == other.greedy.tolist()
                and one.ties == other.ties
            )
        case (Next(), Next()) | (Written(), Written()):
            return bool(one._replace(cached=None) == other._replace(cached=None))
    raise AssertionError


@given(st.data())
def test_a_mutated_reply_is_refused_or_reads_the_same(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    ask = data.draw(st.sampled_from(asks(detect(Server(kind), None))))
    reply = json.loads(json.dumps(Server(kind).call(ask.call)))
    valid = ask.read(reply)
    path = data.draw(st.sampled_from(list(places(reply))))
    mutate = data.draw(st.sampled_from(MUTATIONS))
    mutate(reply, path)
    try:
        message = "" if same(ask.read(reply), valid) else f"{mutate} at {path} changes the answer"
    except ResponseError as error:
        message = "" if "\n" not in str(error) and len(str(error)) < 250 else str(error)
    assert not message


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "meta_info", "usage", "tokens", "logprobs", "prompt_tokens"]
                ),
                inner,
            )
        ),
    )
)
def test_any_other_json_is_refused(reply: Any) -> None:
    for name in KINDS:
        for ask in asks(detect(Server(name), None)):
            with pytest.raises(ResponseError, match="the server's"):
                ask.read(reply)


# --- details of each server ---------------------------------------------------------------


def test_every_parameter_of_sampling_is_sent() -> None:
    body = VLLM.prompted(PROMPT, 1).call.body
    assert body["temperature"] == 0
    assert body["repetition_penalty"] == body["top_p"] == 1
    assert body["add_special_tokens"] is False
    assert "truncate_prompt_tokens" not in body


def test_stop_strings_of_vllm() -> None:
    ask = VLLM.written(query(stop=("", "a", "b", "c", "d", "e")), ENDS)
    assert ask.call.body["stop"] == ["a", "b", "c", "d"]
    assert ask.call.body["stop_token_ids"] == [0]
    assert "stop" not in VLLM.written(query(stop=("",)), ENDS).call.body


def test_a_seed_depends_on_the_query_alone() -> None:
    sampled = query(top_k=40, seed=(1, 2))
    body = VLLM.written(sampled, ENDS).call.body
    assert (body["seed"], body["top_k"], body["temperature"]) == (seed(sampled), 40, 1)
    assert seed(sampled) == seed(query(count=9, top_k=40, seed=(1, 2)))
    others = [query((*PROMPT, 1), seed=(1, 2)), query(seed=(1, 3)), query(seed=(12,))]
    assert len({seed(sampled), *map(seed, others)}) == 4
    assert 0 <= seed(sampled) < 2**31


def test_samples_need_seeds() -> None:
    """A server that ignores seeds or `top_k` would answer another question."""
    sampled = query(top_k=40, seed=(1,))
    facts = Facts("sglang", "", "tiny", "", None, "")
    assert Sglang(facts, seeded=False).written(sampled, ENDS) is None
    asked = Sglang(facts, seeded=True).written(sampled, ENDS)
    assert asked.call.body["sampling_params"]["sampling_seed"] == seed(sampled)
    assert OpenAi(facts, keyed=True).written(sampled, ENDS) is None
    assert LlamaCpp(facts).written(sampled, ENDS).call.body["samplers"] == ["top_k", "temperature"]


def test_sglang_shows_the_last_id_of_the_vocabulary_as_0() -> None:
    prompt = (5, 39, 7)
    ask = detect(Server("sglang"), None).prompted(prompt, 1)
    reply = Server("sglang").call(ask.call)
    reply["meta_info"]["input_token_logprobs"][1][1] = 0
    assert ask.read(reply).logprobs[0] == np.float32(following((5,))[39])
    reply["meta_info"]["input_token_logprobs"][2][1] = 0
    with pytest.raises(ResponseError, match="expected token 7, got 0"):
        ask.read(reply)


def test_llama_cpp_has_no_probability_of_half_a_character() -> None:
    ask = detect(Server("llama.cpp"), None).top(PROMPT, 3)
    reply = Server("llama.cpp").call(ask.call)
    del reply["completion_probabilities"]
    with pytest.raises(ResponseError, match="part of a character"):
        ask.read(reply)


@pytest.mark.parametrize(
    ("own", "shown", "greedy"),
    [
        (-0.5, {" a": -0.5, " b": -2.0}, True),
        (-2.0, {" b": -0.5, " a": -2.0}, False),
        (-3.0, {" a": -0.5, " b": -2.0}, False),  # another token with the same text is the best
        (-0.5, {" a": -0.5}, None),  # perhaps two tokens with the same text
    ],
)
def test_texts_that_stand_for_several_tokens(
    own: float, shown: dict[str, float], greedy: bool | None
) -> None:
    ask = OpenAi(Facts("openai", "", "tiny", "", None, ""), keyed=False).prompted((1, 2), 1)
    logprobs = {
        "tokens": [" x", " a"],
        "token_logprobs": [None, own],
        "top_logprobs": [None, shown],
    }
    reply = {
        "choices": [{"logprobs": logprobs}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 0},
    }
    if greedy is None:
        with pytest.raises(ResponseError, match="2 different tokens"):
            ask.read(reply)
    else:
        assert ask.read(reply).greedy.tolist() == [greedy]


def test_an_echo_that_is_ignored_is_refused() -> None:
    """What llama.cpp answers: the generated token only. Others take that for a score of 0."""
    ask = OpenAi(Facts("openai", "", "tiny", "", None, ""), keyed=False).prompted(PROMPT, 1)
    reply = Server("texts").call(Call("v1/completions", {**ask.call.body, "echo": False}))
    with pytest.raises(ResponseError, match=r"expected 7 items, got 1$"):
        ask.read(reply)


@pytest.mark.parametrize(
    ("path", "found"),
    [("version", {"version": "0.32"}), ("model_info", {"model_path": "x"}), ("none", {})],
)
def test_a_server_behind_a_proxy(path: str, found: dict[str, str]) -> None:
    class Proxy(Server):
        def _about(self, asked: str) -> Any:
            if asked == "v1/models":
                return {"data": [{"id": "tiny", "owned_by": "me"}]}
            if asked == path:
                return found
            raise EndpointError("a page instead of JSON", status=200)

    expected = {"version": "vllm", "model_info": "sglang"}.get(path, "openai")
    assert detect(Proxy("vllm"), None).server.kind == expected


def models(*entries: Any) -> Server:
    server = Server("vllm")
    pages = server._about
    server._about = lambda path: {"data": list(entries)} if path == "v1/models" else pages(path)
    return server


def entry(name: str, root: str = "") -> dict[str, str]:
    return {"id": name, "owned_by": "vllm", "root": root or name}


def test_several_models() -> None:
    two = models(entry("a"), entry("b"))
    assert detect(two, "b").server.model == "b"
    with pytest.raises(EndpointError, match=r"several models \(a, b\); choose one, as in #a"):
        detect(two, None)
    with pytest.raises(EndpointError, match="no model 'c'; it has a, b"):
        detect(two, "c")
    assert detect(models(entry("a", "/x"), entry("alias", "/x")), None).server.model == "a"
    with pytest.raises(EndpointError, match="add #NAME"):
        detect(models(), None)


def test_adapters_of_sglang_are_refused() -> None:
    """Its `/generate` would answer for the model below the adapter."""
    adapter = {"id": "lora", "owned_by": "sglang", "parent": "tiny"}
    with pytest.raises(EndpointError, match="adapter"):
        detect(models({"id": "tiny", "owned_by": "sglang"}, adapter), "lora")


# --- real replies of vLLM -----------------------------------------------------------------


@pytest.fixture(scope="module")
def transcripts(data_dir: Path) -> Path:
    if not (data_dir / "vllm").is_dir():
        pytest.skip("HARNESS_DATA has no folder vllm with replies of a server")
    return data_dir / "vllm"


def transcript(folder: Path, name: str) -> tuple[Any, Any]:
    """Prompt and reply; `return_token_ids` was not always asked for, so that ids are filled in."""
    found = json.loads((folder / f"{name}.json").read_text())
    choice = found["response"]["choices"][0]
    choice["prompt_token_ids"] = prompt = found["request"]["prompt"]
    return prompt, found["response"]


def best_two(reply: Any, prompt: list[int]) -> None:
    """Make of a reply to `prompt_logprobs: 5` one to 2."""
    entries = reply["choices"][0]["prompt_logprobs"]
    for at, token in enumerate(prompt[1:], start=1):
        kept = {key: e for key, e in entries[at].items() if e["rank"] <= 2 or key == str(token)}
        entries[at] = kept


@pytest.mark.parametrize(("last", "greedy"), [(100, True), (7042, False), (49000, False)])
def test_a_tie_of_three(transcripts: Path, last: int, greedy: bool) -> None:
    """Greedy decoding takes the lowest id, 100; the server has 49000 as the second."""
    prompt, reply = transcript(transcripts, f"tie_plp5_{last}")
    best_two(reply, prompt)
    answer = VLLM.prompted(prompt, 1).read(reply)
    assert answer.logprobs[-1] == np.float32(-1.1922305822372437)
    assert answer.greedy.tolist() == [False, True, False, True, greedy]
    assert answer.ties == 1


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize(("asked", "chosen", "best"), [(7, 9, 7), (9, 7, 7), (7, 7, 7)])
def test_a_tie_with_a_token_that_is_asked_for(
    kind: str, asked: int, chosen: int, best: int
) -> None:
    """Whichever of the two the server chooses."""
    ask = detect(Server(kind), None).named(PROMPT, [asked])
    reply = Server(kind).call(ask.call)
    if kind == "vllm":
        values = {f"token_id:{token}": -1.0 for token in (chosen, asked)}
        choice = reply["choices"][0]
        choice["token_ids"] = [chosen]
        choice["logprobs"] |= {"tokens": [f"token_id:{chosen}"], "token_logprobs": [-1.0]}
        choice["logprobs"]["top_logprobs"] = [values]
    else:
        reply["output_ids"] = [chosen]
        reply["meta_info"]["output_token_logprobs"] = [[-1.0, chosen, None]]
        reply["meta_info"]["output_token_ids_logprobs"] = [[[-1.0, asked, None]]]
    assert ask.read(reply) == Next({asked: -1.0}, best, 0, tie=asked != chosen)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize(("token", "greedy"), [(7, True), (9, False)])
def test_a_tie_of_two_in_a_prompt(kind: str, token: int, greedy: bool) -> None:
    """A server shows either of them first, also the one with the higher id."""
    prompt, other = (*PROMPT, token), {7: 9, 9: 7}[token]
    ask = detect(Server(kind), None).prompted(prompt, len(PROMPT))
    reply = Server(kind).call(ask.call)
    for first, second in ((7, 9), (9, 7)):
        if kind == "vllm":
            values = {first: {"logprob": -1.0, "rank": 1}, second: {"logprob": -1.0, "rank": 2}}
            own = values.pop(token)
            entry = {str(token): own, str(other): values[other]}
            reply["choices"][0]["prompt_logprobs"][-1] = entry
        else:
            meta = reply["meta_info"]
            meta["input_token_logprobs"][-1] = [-1.0, token, None]
            meta["input_top_logprobs"][-1] = [[-1.0, first, None], [-1.0, second, None]]
        answer = ask.read(reply)
        assert (answer.greedy.tolist(), answer.ties) == ([greedy], 1)


def test_a_token_that_the_best_ones_lack(transcripts: Path) -> None:
    """It is more probable than the second of them: the row is that of another place."""
    prompt, reply = transcript(transcripts, "tie_plp5_100")
    best_two(reply, prompt)
    reply["choices"][0]["prompt_logprobs"][1]["3575"]["logprob"] = -1.5
    with pytest.raises(ResponseError, match=r"token 3575 with -1\.5 to be among the best, got"):
        VLLM.prompted(prompt, 1).read(reply)


def test_the_best_of_a_tie(transcripts: Path) -> None:
    prompt, reply = transcript(transcripts, "tie_greedy_lp3")
    reply["choices"][0]["token_ids"] = [100]
    answer = VLLM.top(prompt, 3).read(reply)
    assert list(answer.logprobs) == [100, 7042, 49000]
    assert answer.best == 100


def test_a_text_that_a_stop_string_ends(transcripts: Path) -> None:
    prompt, reply = transcript(transcripts, "stop_lp")
    logprobs = reply["choices"][0]["logprobs"]
    logprobs["tokens"] = ["token_id:7042", "token_id:30"]
    for top, name in zip(logprobs["top_logprobs"], logprobs["tokens"], strict=True):
        top[name] = top.pop(next(iter(top)))
    stopped = query(tuple(prompt), 16, stop=(".",))
    answer = VLLM.written(stopped, ENDS).read(reply)
    assert answer == Written((7042, 30), (-0.25807321071624756, -0.3801261782646179), 0)
    with pytest.raises(ResponseError, match=r"expected 16 of them, or .* at token 30, got 2$"):
        VLLM.written(stopped._replace(stop=("!",)), ENDS).read(reply)


def test_named_tokens_with_the_field_ignored(transcripts: Path) -> None:
    """An older server answers as if `logprob_token_ids` had not been sent."""
    prompt, reply = transcript(transcripts, "tie_greedy_lp3")
    reply["choices"][0]["token_ids"] = [100]
    with pytest.raises(ResponseError, match="the 2 tokens of logprob_token_ids"):
        VLLM.named(prompt, [28, 30]).read(reply)


def test_the_facts_of_a_server(transcripts: Path) -> None:
    class Recorded:
        urls = ("http://127.0.0.1:8000",)

        def call(self, call: Call, *, patient: bool = True) -> Any:
            names = {"v1/models": "models", "version": "version", "v1/completions": "no_model"}
            return json.loads((transcripts / f"{names[call.path]}.json").read_text())["response"]

    facts = Facts("vllm", "0.32.0", "smol", "./model", 1024, "vllm-0.32.0-c083266e")
    assert detect(Recorded(), None).server == facts


def test_a_prompt_that_was_cut(transcripts: Path) -> None:
    prompt, reply = transcript(transcripts, "tie_plp1_100")
    with pytest.raises(ResponseError, match=r"expected the 7 token ids that were sent, got 6$"):
        VLLM.prompted([5, *prompt], 1).read(reply)


def test_the_bug_of_mixed_batches(transcripts: Path) -> None:
    prompt, reply = transcript(transcripts, "tie_greedy_lp3")
    choice = reply["choices"][0]
    choice["token_ids"] = [100]
    choice["logprobs"]["top_logprobs"] = [
        {"token_id:100": -1.1922305822372437, "token_id:0": -9999.0}
    ]
    with pytest.raises(ResponseError, match=r"between -9999 and 0, got -9999\.0"):
        VLLM.top(prompt, 2).read(reply)
