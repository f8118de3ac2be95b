"""What each kind of server replies to a call, for a model of a few tokens.

The shapes are those of `HARNESS_DATA/vllm` for vLLM, and of the servers' code for the others.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from harness.engine.endpoint.call import Call
from harness.errors import EndpointError

VOCABULARY = 40
KINDS = ("vllm", "sglang", "llama.cpp", "openai", "texts")
"""`openai` shows token ids, `texts` does not."""


@cache
def following(prompt: tuple[int, ...]) -> tuple[float, ...]:
    """The log-probability of each token after a prompt, in float32."""
    logits = np.random.default_rng([7, *prompt]).normal(scale=2.0, size=VOCABULARY)
    logprobs = logits - math.log(np.exp(logits).sum())
    return tuple(map(float, logprobs.astype(np.float32)))


def best(prompt: Sequence[int], count: int) -> list[int]:
    """The most probable tokens after a prompt."""
    values = following(tuple(prompt))
    return sorted(range(VOCABULARY), key=lambda token: -values[token])[:count]


def continuation(prompt: Sequence[int], count: int, end: Collection[int]) -> list[int]:
    """Greedily decoded tokens."""
    made: list[int] = []
    while len(made) < count and not (made and made[-1] in end):
        made += best([*prompt, *made], 1)
    return made


class Server:
    """Answers calls as one kind of server does, in place of a transport."""

    urls = ("http://127.0.0.1:8000",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def call(self, call: Call, *, patient: bool = True) -> Any:
        body = call.body
        if body is None:
            return self._about(call.path)
        if call.path == "v1/completions" and self.kind in ("vllm", "openai", "texts"):
            return self._completion(body)
        if call.path == "generate" and self.kind == "sglang":
            return _generate(body)
        if call.path == "completion" and self.kind == "llama.cpp":
            return _llama_cpp(body)
        raise EndpointError(f"{call.path} is not found", status=404)

    def _about(self, path: str) -> Any:
        owner = {"llama.cpp": "llamacpp", "vllm": "vllm", "sglang": "sglang"}.get(self.kind, "me")
        model = {"id": "tiny", "owned_by": owner, "root": "/models/tiny", "max_model_len": 64}
        if path == "v1/models":
            return {"object": "list", "data": [model]}
        pages: Mapping[tuple[str, str], Any] = {
            ("vllm", "version"): {"version": "0.32.0"},
            ("sglang", "get_server_info"): {"version": "0.5.10", "api_key": "secret"},
            ("sglang", "get_model_info"): {"model_path": "/models/tiny"},
            ("llama.cpp", "props"): {
                "build_info": "b11434-abc",
                "model_path": "/models/tiny.gguf",
                "default_generation_settings": {"n_ctx": 64},
            },
        }
        if (self.kind, path) in pages:
            return pages[self.kind, path]
        raise EndpointError(f"{path} is not found", status=404)

    def _completion(self, body: Mapping[str, Any]) -> Any:
        prompt, ids = body["prompt"], self.kind != "texts"
        count = body["max_tokens"]
        ends = body.get("stop_token_ids", (0,))
        made = continuation(prompt, count, ends)
        ended = made[-1] in ends
        choice: dict[str, Any] = {
            "index": 0,
            "text": _text(made),
            "logprobs": None,
            "finish_reason": "stop" if ended else "length",
            "stop_reason": made[-1] if ended else None,
        }
        if "logprobs" in body:
            choice["logprobs"] = _logprobs(prompt, made, body, ids=ids)
        if self.kind == "vllm":
            choice |= {"token_ids": made, "prompt_token_ids": list(prompt), "prompt_logprobs": None}
            if "prompt_logprobs" in body:
                choice["prompt_logprobs"] = _prompt_logprobs(prompt, body["prompt_logprobs"])
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": "tiny",
            "choices": [choice],
            "system_fingerprint": "vllm-0.32.0-abc" if self.kind == "vllm" else None,
            "usage": {
                "prompt_tokens": len(prompt),
                "total_tokens": len(prompt) + len(made),
                "completion_tokens": len(made),
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }


def _text(tokens: Sequence[int]) -> str:
    return "".join(f" t{token}" for token in tokens)


def _logprobs(
    prompt: Sequence[int], made: Sequence[int], body: Mapping[str, Any], *, ids: bool
) -> Any:
    """The field `logprobs` of a choice."""

    def name(token: int) -> str:
        return f"token_id:{token}" if ids else f" t{token}"

    tokens, first = list(made), len(prompt)
    if body.get("echo"):
        tokens, first = [*prompt, *made], 0
    values: list[float | None] = []
    tops: list[Any] = []
    for at, token in enumerate(tokens, start=first):
        before = (*prompt, *made)[:at]
        if not before:
            values.append(None)
            tops.append(None)
            continue
        after = following(before)
        shown = [token, *body.get("logprob_token_ids", best(before, body["logprobs"]))]
        values.append(after[token])
        tops.append({name(other): after[other] for other in shown})
    return {
        "text_offset": [4 * at for at in range(len(tokens))],
        "token_logprobs": values,
        "tokens": [name(token) for token in tokens],
        "top_logprobs": tops,
    }


def _prompt_logprobs(prompt: Sequence[int], count: int) -> list[Any]:
    entries: list[Any] = [None]
    for at, token in enumerate(prompt[1:], start=1):
        after = following(tuple(prompt[:at]))
        ranks = {token: sum(value >= after[token] for value in after)}
        ranks |= {other: place for place, other in enumerate(best(prompt[:at], count), start=1)}
        entries.append(
            {
                str(other): {"logprob": after[other], "rank": rank, "decoded_token": "t"}
                for other, rank in ranks.items()
            }
        )
    return entries


def _generate(body: Mapping[str, Any]) -> Any:
    """SGLang."""
    prompt, sampling = body["input_ids"], body["sampling_params"]
    ends = {0, *sampling.get("stop_token_ids", ())}
    made = continuation(prompt, sampling["max_new_tokens"], ends)
    steps = [(*prompt, *made)[: len(prompt) + at] for at in range(len(made))]
    k, start = body.get("top_logprobs_num", 0), body.get("logprob_start_len", -1)

    def triples(before: Sequence[int], tokens: Sequence[int]) -> list[Any]:
        return [[following(tuple(before))[token], token, None] for token in tokens]

    ended = made[-1] in ends
    meta: dict[str, Any] = {
        "id": "1",
        "finish_reason": {"type": "stop", "matched": made[-1]} if ended else {"type": "length"},
        "prompt_tokens": len(prompt),
        "completion_tokens": len(made),
        "cached_tokens": 0,
        "input_token_logprobs": [],
        "output_token_logprobs": [
            triples(before, [token])[0] for before, token in zip(steps, made, strict=True)
        ],
    }
    if start >= 0:
        inner = range(start + 1, len(prompt))
        meta["input_token_logprobs"] = [
            [None, prompt[start], None],
            *(triples(prompt[:at], [prompt[at]])[0] for at in inner),
        ]
        meta["input_top_logprobs"] = [
            None,
            *(triples(prompt[:at], best(prompt[:at], k)) for at in inner),
        ]
    if k:
        meta["output_top_logprobs"] = [triples(before, best(before, k)) for before in steps]
    if "token_ids_logprob" in body:
        meta["output_token_ids_logprobs"] = [
            triples(before, body["token_ids_logprob"]) for before in steps
        ]
    return {"text": _text(made), "output_ids": made, "meta_info": meta}


def _llama_cpp(body: Mapping[str, Any]) -> Any:
    prompt = body["prompt"]
    made = continuation(prompt, body["n_predict"], (0,))
    probabilities = []
    for at, token in enumerate(made):
        before = (*prompt, *made[:at])
        after = following(before)
        probabilities.append(
            {
                "id": token,
                "token": "t",
                "bytes": [116],
                "logprob": after[token],
                "top_logprobs": [
                    {"id": other, "token": "t", "bytes": [116], "logprob": after[other]}
                    for other in best(before, body["n_probs"])
                ],
            }
        )
    return {
        "index": 0,
        "content": _text(made),
        "tokens": made,
        "stop": True,
        "model": "tiny",
        "tokens_predicted": len(made),
        "tokens_evaluated": len(prompt),
        "truncated": False,
        "stop_type": "eos" if made[-1] == 0 else "limit",
        "stopping_word": "",
        "completion_probabilities": probabilities,
        "timings": {"cache_n": 0, "prompt_n": len(prompt)},
    }
