"""The fake server against what a real vLLM answered, and against the network behind it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_model import constant, from_folder
from fake_server import FakeServer
from fake_traps import TRAPS

from harness.engine.checkpoint.load import Checkpoint

PROMPT = [40, 71, 80, 10, 90, 41, 9, 17, 200, 3, 4, 5, 6, 7, 8, 30, 31, 32, 33, 34]
SKIPPED = ("gen_", "gscore", "render", "chat", "plp0_stream", "gpt2_1024")  # not served
IGNORED = {"id", "created", "stop_reason"}  # what stops a text: below


@pytest.fixture(scope="module")
def smol() -> Iterator[FakeServer]:
    with FakeServer(constant(), name="smol") as server:
        yield server


def call(server: FakeServer, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of one call; a string is sent as it is."""
    data = body if body is None or isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json"} | headers
    url = server.url.removesuffix("/v1") + path
    asked = urllib.request.Request(url, data and data.encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            status, text = reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    return status, json.loads(text) if text else ""


def filled(value: Any) -> Any:
    """A transcript's request with its elided tokens: as many as were sent."""
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    gaps = [i for i, each in enumerate(value) if isinstance(each, str) and "... " in each]
    if not gaps:
        return [filled(each) for each in value]
    length = int(value[gaps[0]].split("(len ")[1].split(")")[0])
    missing = [value[0]] * (length - len(value) + 1)
    return [*value[: gaps[0]], *missing, *value[gaps[0] + 1 :]]


def shape(value: Any, key: str = "") -> Any:
    """Keys and types; of a list what its first and its last element are made of."""
    if isinstance(value, dict):
        if key == "top_logprobs" or any(each.isdigit() for each in value):
            return [shape(each) for each in value.values()][:1]  # keyed by tokens
        return {k: shape(v, k) for k, v in value.items() if k not in IGNORED}
    if isinstance(value, list):
        return [shape(each, key) for each in (value[:1] + value[-1:])]
    return type(value).__name__


def test_replies_have_the_shapes_of_vllm(data_dir: Path, smol: FakeServer) -> None:
    files = sorted((data_dir / "vllm").glob("*.json"))
    compared = 0
    for file in files:
        if file.name.startswith(SKIPPED):
            continue
        seen = json.loads(file.read_text())
        if seen["note"] == "text/plain" or file.name == "bad_method.json":
            continue
        status, reply = call(smol, seen["path"], filled(seen["request"]))
        assert status == seen["status"], (file.name, reply)
        expected = seen["response"]
        if "error" in expected and "validation error" in expected["error"]["message"]:
            for error in (expected["error"], reply["error"]):
                error["message"] = error["message"][2:18]  # theirs lists every type it tried
        assert shape(reply) == shape(expected), file.name
        if "error" in expected or "detail" in expected:
            assert reply == expected, file.name
        compared += 1
    assert compared > 70


@pytest.fixture
def served(tiny_folder: Path) -> Iterator[FakeServer]:
    with FakeServer(from_folder(tiny_folder)) as server:
        yield server


def completion(server: FakeServer, **body: Any) -> Any:
    """The only choice of a completion."""
    asked = {"prompt": PROMPT, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    status, reply = call(server, "/v1/completions", asked | body)
    assert status == 200, reply
    return reply["choices"][0] | {"cached": reply["usage"]["prompt_tokens_details"]}


def logprobs(tiny: Checkpoint, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return tiny.model(torch.tensor([ids])).logits[0].log_softmax(-1)


def test_values_are_those_of_the_network(served: FakeServer, tiny: Checkpoint) -> None:
    expected = logprobs(tiny, PROMPT)
    choice = completion(served, prompt_logprobs=1)
    for place, entry in enumerate(choice["prompt_logprobs"][1:]):
        token = str(PROMPT[place + 1])
        assert next(iter(entry)) == token
        assert entry[token]["logprob"] == pytest.approx(
            float(expected[place, int(token)]), abs=1e-5
        )
        best = max(each["logprob"] for each in entry.values())
        assert best == pytest.approx(float(expected[place].max()), abs=1e-5)
    assert choice["token_ids"] == [int(expected[-1].argmax())]
    named = completion(
        served, logprobs=0, logprob_token_ids=[5, 9], return_tokens_as_token_ids=True
    )
    shown = named["logprobs"]["top_logprobs"][0]
    assert [*shown] == [f"token_id:{i}" for i in (*choice["token_ids"], 5, 9)]
    assert shown["token_id:9"] == pytest.approx(float(expected[-1, 9]), abs=1e-5)


def test_prefix_cache_is_read_in_blocks(served: FakeServer) -> None:
    def cached(**body: Any) -> int:
        return int(completion(served, **body)["cached"]["cached_tokens"])

    assert cached(prompt_logprobs=1) == 0
    assert cached() == 16
    assert cached(prompt_logprobs=1) == 0  # such a request reads nothing
    assert cached(prompt=PROMPT[:16]) == 0  # the last token is always computed
    assert cached(prompt=PROMPT[:17]) == 16
    served.kill()
    served.start()
    assert cached() == 0


def test_text_ends_before_its_stop_string(served: FakeServer) -> None:
    whole = completion(served, max_tokens=8, ignore_eos=True)
    stop = served.model.tokenizer.decode(whole["token_ids"][2:3])
    choice = completion(served, max_tokens=8, ignore_eos=True, stop=[stop], logprobs=0)
    end = next(i for i in range(9) if stop in served.model.tokenizer.decode(whole["token_ids"][:i]))
    assert choice["token_ids"] == whole["token_ids"][:end]
    assert choice["text"] == whole["text"].partition(stop)[0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert len(choice["logprobs"]["token_logprobs"]) == end
    by_id = completion(served, max_tokens=8, stop_token_ids=whole["token_ids"][:1])
    assert (by_id["text"], by_id["stop_reason"]) == ("", whole["token_ids"][0])


def test_sampled_text_depends_on_its_seed(served: FakeServer) -> None:
    def text(seed: int) -> list[int]:
        asked = {"temperature": 1, "top_k": 40, "seed": seed, "max_tokens": 8}
        return list(completion(served, ignore_eos=True, **asked)["token_ids"])

    assert text(1) == text(1)
    assert len({tuple(text(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("kind", ["sglang", "llama.cpp", "openai"])
def test_other_servers_have_the_same_values(kind: str, tiny_folder: Path, tiny: Checkpoint) -> None:
    expected = logprobs(tiny, PROMPT)
    best = expected[-1].topk(3)
    with FakeServer(from_folder(tiny_folder), kind=kind) as server:
        if kind == "sglang":
            asked = {"input_ids": PROMPT, "return_logprob": True, "logprob_start_len": 17,
                     "token_ids_logprob": [5], "top_logprobs_num": 3,
                     "sampling_params": {"max_new_tokens": 1, "temperature": 0}}  # fmt: skip
            meta = call(server, "/generate", asked)[1]["meta_info"]
            assert meta["input_token_logprobs"][0] == [None, PROMPT[17], None]
            assert meta["input_token_logprobs"][1][0] == pytest.approx(
                float(expected[17, PROMPT[18]]), abs=1e-5
            )
            assert [entry[1] for entry in meta["output_top_logprobs"][0]] == best.indices.tolist()
            named = meta["output_token_ids_logprobs"][0][0]
            assert named[0] == pytest.approx(float(expected[-1, 5]), abs=1e-5)
        elif kind == "llama.cpp":
            asked = {"prompt": PROMPT, "n_predict": 1, "n_probs": 3, "temperature": -1}
            entry = call(server, "/completion", asked)[1]["completion_probabilities"][0]
            assert [each["id"] for each in entry["top_logprobs"]] == best.indices.tolist()
            assert entry["logprob"] == pytest.approx(float(best.values[0]), abs=1e-5)
        else:
            asked = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1,
                     "return_token_ids": True}  # fmt: skip
            choice = call(server, "/v1/completions", asked)[1]["choices"][0]
            assert sorted(choice) == ["finish_reason", "index", "logprobs", "text"]
            assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(
                [float(row[i]) for row, i in zip(expected[:-1], PROMPT[1:], strict=True)], abs=1e-5
            )


REPLACED = [name for name, trap in TRAPS.items() if trap.place == "sent"]
ASKED = {"prompt_logprobs": 1, "logprobs": 1, "return_tokens_as_token_ids": True}


@pytest.mark.parametrize("name", [n for n in TRAPS if n not in (*REPLACED, "tokenizer", "mixed")])
def test_traps_change_a_reply_after_so_many_calls(name: str, tiny_folder: Path) -> None:
    with FakeServer(from_folder(tiny_folder), trap=name, after=2) as server:
        asked = {"prompt": PROMPT * 8, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
        other = {**asked, "prompt": PROMPT}
        right = [call(server, "/v1/completions", body | ASKED)[1] for body in (asked, other)]
        wrong = [call(server, "/v1/completions", body | ASKED)[1] for body in (asked, other)]
    assert any(
        "error" in reply or reply["choices"] != expected["choices"]
        for reply, expected in zip(wrong, right, strict=True)
    )


def test_mixed_calls_lose_plain_logprobs(tiny_folder: Path) -> None:
    with FakeServer(from_folder(tiny_folder), trap="mixed") as server:
        assert len(completion(server, **ASKED)["logprobs"]["top_logprobs"][0]) == 1
        server._in_flight.append({"logprob_token_ids": [1]})
        top = completion(server, **ASKED)["logprobs"]["top_logprobs"][0]
    assert top["token_id:0"] == -9999.0
