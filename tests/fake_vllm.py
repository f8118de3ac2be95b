"""Replies in the shapes of vLLM 0.32, and of a plain OpenAI-compatible server with `echo`."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, count
from typing import Any, Protocol

import numpy as np
from fake_asked import Asked, Refusal, asked_of
from fake_model import Model, Sampling, Text
from numpy.typing import NDArray

VERSION = "0.32.0"
FLOOR = -9999.0  # how minus infinity is sent
OPENAI_FIELDS = (
    "model", "prompt", "max_tokens", "temperature", "seed", "stop", "echo", "logprobs", "n",
)  # fmt: skip
_numbers = count(1)


class Computing(Protocol):
    """What replies are made of: a model, behind whatever trap is set."""

    model: Model
    name: str
    most_logprobs: int

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """The prompt that is computed."""

    def rows(self, ids: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log-probabilities of the tokens of a prompt but the first, and of what comes next."""

    def write(self, ids: Sequence[int], how: Sampling) -> Text:
        """What is generated."""


def routes(kind: str) -> dict[str, Any]:
    """The function of each path, which takes the server and the body of a call."""
    if kind == "openai":
        return {"/v1/completions": openai_completions, "/v1/models": _openai_models}
    return {
        "/v1/completions": completions,
        "/v1/models": _models,
        "/version": lambda server, body: {"version": VERSION},
        "/health": lambda server, body: "",
        "/tokenize": tokenize,
        "/detokenize": _detokenize,
    }


def _models(server: Computing, body: None) -> Any:
    permission = {
        "id": "modelperm-1", "object": "model_permission", "created": 1,
        "allow_create_engine": False, "allow_sampling": True,
        "allow_logprobs": True, "allow_search_indices": False,
        "allow_view": True, "allow_fine_tuning": False, "organization": "*", "group": None,
        "is_blocking": False,
    }  # fmt: skip
    model = {
        "id": server.name, "object": "model", "created": 1, "owned_by": "vllm",
        "root": server.model.source, "parent": None, "max_model_len": server.model.context,
        "permission": [permission],
    }  # fmt: skip
    return {"object": "list", "data": [model]}


def _openai_models(server: Computing, body: None) -> Any:
    model = {"id": server.name, "object": "model", "created": 1, "owned_by": "someone"}
    return {"object": "list", "data": [model]}


def tokenize(server: Computing, body: Mapping[str, Any]) -> Any:
    """The ids of a text."""
    ids = server.model.tokenizer.encode(body["prompt"])
    texts = [server.model.piece(i) for i in ids]
    shown = texts if body.get("return_token_strs") else None
    return {
        "count": len(ids),
        "max_model_len": server.model.context,
        "tokens": ids,
        "token_strs": shown,
    }


def _detokenize(server: Computing, body: Mapping[str, Any]) -> Any:
    return {"prompt": server.model.tokenizer.decode(body["tokens"])}


def openai_completions(server: Computing, body: Mapping[str, Any]) -> Any:
    """As vLLM, without its own fields: unknown ones are ignored without a word."""
    reply = completions(server, {key: body[key] for key in OPENAI_FIELDS if key in body})
    for choice in reply["choices"]:
        for key in ("stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids"):
            del choice[key]
        del choice["routed_experts"]
    usage = {k: v for k, v in reply["usage"].items() if not k.endswith("_details")}
    kept = ("id", "object", "created", "model", "choices")
    return {key: reply[key] for key in kept} | {"usage": usage}


def completions(server: Computing, body: Mapping[str, Any]) -> Any:
    """The reply to POST /v1/completions."""
    if body.get("model", server.name) != server.name:
        message = f"The model `{body['model']}` does not exist. Valid aliases: {server.name}."
        raise Refusal(message, "model", 404)
    asked = asked_of(body, server.model, server.most_logprobs)
    choices: list[dict[str, Any]] = []
    prompt_tokens = written_tokens = cached = 0
    for ids in asked.prompts:
        prompt = server.prompt(ids)
        # A request with prompt log-probabilities never reads the prefix cache, but it writes it.
        full = asked.prompt_logprobs is not None or (asked.echo and asked.logprobs is not None)
        cached += 0 if full else server.model.cached(prompt)
        before, _ = server.rows(prompt)
        server.model.keep(prompt)
        for number in range(body.get("n", 1)):
            written = server.write(prompt, _sampling(body, asked, len(prompt), number))
            prompt_tokens += 0 if number else len(prompt)
            written_tokens += len(written.ids)
            choices.append(
                _choice(server, asked, prompt, before, written) | {"index": len(choices)}
            )
    details = {"cached_tokens": cached, "created_cache_tokens": None, "multimodal_tokens": None}
    return {
        "id": f"cmpl-{next(_numbers):016x}",
        "object": "text_completion",
        "created": 1795602744,
        "model": server.name,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": f"vllm-{VERSION}-c083266e",
        "usage": {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + written_tokens,
            "completion_tokens": written_tokens,
            "prompt_tokens_details": details,
            "completion_tokens_details": None,
        },
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _choice(
    server: Computing,
    asked: Asked,
    prompt: list[int],
    before: NDArray[np.float32],
    written: Text,
) -> dict[str, Any]:
    decode = server.model.tokenizer.decode
    k = asked.prompt_logprobs
    if asked.echo and asked.logprobs is not None:
        k = asked.logprobs
    shown = written if asked.most else Text([], written.rows[:0], "", "length")
    text = ("" if asked.show_ids else decode(prompt) + shown.text) if asked.echo else shown.text
    logprobs = None
    if asked.logprobs is not None:
        logprobs = _logprobs(server, asked, prompt if asked.echo else [], before, shown)
    return {
        "index": 0,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": shown.reason,
        "stop_reason": shown.stopped,
        "token_ids": written.ids if asked.show_ids else None,
        "prompt_logprobs": None if k is None else _prompt_logprobs(server, prompt, before, k),
        "prompt_token_ids": list(prompt) if asked.show_ids else None,
        "routed_experts": None,
    }


def _prompt_logprobs(
    server: Computing, prompt: Sequence[int], before: NDArray[np.float32], k: int
) -> list[Any]:
    """Per token its own entry first, then the k best; the first token has none."""
    entries: list[Any] = [None]
    targets = np.array(prompt[1:], np.int64)
    # The rank counts ties upward; a place among the best takes its stead.
    own = (before >= np.take_along_axis(before, targets[:, None], 1)).sum(1)
    tops = _best_of_each(before, k)
    for row, token, rank, top in zip(before, prompt[1:], own, tops, strict=True):
        ranks = {token: int(rank)} | {best: place for place, best in enumerate(top, 1)}
        entries.append(
            {
                str(i): {
                    "logprob": _sent(row[i]),
                    "rank": rank,
                    "decoded_token": server.model.piece(i),
                }
                for i, rank in ranks.items()
            }
        )
    return entries


def _best_of_each(rows: NDArray[np.float32], k: int) -> list[list[int]]:
    """The k most probable tokens of each row, of equal ones the lowest id first."""
    left, places = rows.copy(), np.arange(len(rows))
    tops = np.empty((len(rows), k), np.int64)
    for column in range(k):
        tops[:, column] = left.argmax(1)
        left[places, tops[:, column]] = -np.inf
    return [[int(i) for i in top] for top in tops]


def _logprobs(
    server: Computing,
    asked: Asked,
    prompt: Sequence[int],
    before: NDArray[np.float32],
    written: Text,
) -> dict[str, Any]:
    def key(token: int) -> str:
        return f"token_id:{token}" if asked.as_ids else server.model.piece(token)

    tokens, values, tops = [], [], []
    if prompt:
        tokens, values, tops = [key(prompt[0])], [None], [None]
        for row, token in zip(before, prompt[1:], strict=True):
            shown = [token, *best(row, asked.logprobs or 0)]
            tokens.append(key(token))
            values.append(_sent(row[token]))
            tops.append({key(i): _sent(row[i]) for i in shown})
    for row, token in zip(written.rows, written.ids, strict=True):
        others = best(row, asked.logprobs or 0) if asked.named is None else asked.named
        tokens.append(key(token))
        values.append(_sent(row[token]))
        tops.append({key(i): _sent(row[i]) for i in [token, *others]})
    return {
        "text_offset": [0, *accumulate(map(len, tokens))][: len(tokens)],
        "token_logprobs": values,
        "tokens": tokens,
        "top_logprobs": tops,
    }


def best(row: NDArray[np.float32], k: int) -> list[int]:
    """The k most probable tokens, of equal ones the lowest id first."""
    if k <= 1:
        return [int(row.argmax())][:k]
    edge = np.partition(row, -k)[-k]
    candidates = np.flatnonzero(row >= edge)
    return [int(i) for i in candidates[np.argsort(-row[candidates], kind="stable")][:k]]


def _sent(value: np.float32) -> float:
    return max(float(value), FLOOR)


def _sampling(body: Mapping[str, Any], asked: Asked, length: int, number: int) -> Sampling:
    seed = body.get("seed")
    stop = body.get("stop") or ()
    return Sampling(
        max(1, asked.most),
        float(body.get("temperature", 1)),
        max(0, int(body.get("top_k") or 0)),
        seed if seed is None else seed + number,
        (stop,) if isinstance(stop, str) else tuple(stop),
        frozenset(body.get("stop_token_ids") or ()),
        bool(body.get("ignore_eos")),
    )
