"""Replies in the shapes of SGLang's `/generate` and of llama.cpp's `/completion`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from fake_asked import Refusal
from fake_model import Sampling, Text
from fake_vllm import Computing, best, tokenize
from numpy.typing import NDArray

POSTED = ("completions", "generate", "completion", "tokenize", "detokenize")
Row = NDArray[np.float32]


# --- SGLang ----------------------------------------------------------------------------------


def _sglang_models(server: Computing, body: None) -> Any:
    model = {
        "id": server.name, "object": "model", "created": 1, "owned_by": "sglang",
        "root": server.name, "parent": None, "max_model_len": server.model.context,
    }  # fmt: skip
    return {"object": "list", "data": [model]}


def _sglang_info(server: Computing, body: None) -> Any:
    source = server.model.source
    return {"model_path": source, "tokenizer_path": source, "is_generation": True,
            "preferred_sampling_params": None, "weight_version": "default"}  # fmt: skip


def _sglang_server(server: Computing, body: None) -> Any:
    return {"model_path": server.model.source, "served_model_name": server.name,
            "context_length": server.model.context, "version": "0.5.9",
            "enable_deterministic_inference": True}  # fmt: skip


def generate(server: Computing, body: Mapping[str, Any]) -> Any:
    """The reply to POST /generate, of one prompt or of several."""
    ids = body.get("input_ids")
    if ids is None:
        ids = server.model.tokenizer.encode(body["text"])
    if ids and isinstance(ids[0], list):
        return [generate(server, {**body, "input_ids": each}) for each in ids]
    longest = server.model.context
    if len(ids) >= longest:
        raise _sglang_refusal(
            f"The input ({len(ids)} tokens) is longer than the model's context length "
            f"({longest} tokens)."
        )
    params = body.get("sampling_params") or {}
    if len(ids) + params.get("max_new_tokens", 128) >= longest:
        raise _sglang_refusal(
            f"Requested token count exceeds the model's maximum context length of {longest} tokens."
        )
    if not ids or max(ids) >= server.model.vocabulary or min(ids) < 0:
        raise _sglang_refusal("The input_ids contain values outside of the vocabulary.")
    prompt = server.prompt(ids)
    how = _sglang_sampling(params)
    start = body.get("logprob_start_len", -1)
    start = len(prompt) - 1 if start is None or start < 0 else min(start, len(prompt) - 1)
    cached = server.model.cached(prompt)
    before, _ = server.rows(prompt)
    server.model.keep(prompt)
    text = server.write(prompt, how)
    matched = {"type": "stop", "matched": text.stopped}
    meta: dict[str, Any] = {
        "id": "1",
        "finish_reason": matched
        if text.reason == "stop"
        else {"type": "length", "length": how.most},
        "prompt_tokens": len(prompt),
        "weight_version": "default",
    }
    if body.get("return_logprob"):
        cached = min(cached, start)  # what is asked for must be computed
        meta |= _sglang_logprobs(body, prompt, start, before, text)
    meta |= {"completion_tokens": len(text.ids), "cached_tokens": cached, "e2e_latency": 0.001}
    return {"text": text.text, "output_ids": text.ids, "meta_info": meta}


def _sglang_refusal(message: str) -> Refusal:
    refusal = Refusal(message)
    refusal.body = {"error": {"message": message}}
    return refusal


def _sglang_sampling(params: Mapping[str, Any]) -> Sampling:
    stop, ignore = params.get("stop") or (), bool(params.get("ignore_eos"))
    return Sampling(
        max(1, params.get("max_new_tokens", 128)),
        float(params.get("temperature", 1.0)),
        max(0, params.get("top_k", 0)),
        params.get("sampling_seed"),
        (stop,) if isinstance(stop, str) else tuple(stop),
        frozenset() if ignore else frozenset(params.get("stop_token_ids") or ()),
        ignore,
    )


def _sglang_logprobs(
    body: Mapping[str, Any], prompt: Sequence[int], start: int, before: Row, text: Text
) -> dict[str, Any]:
    """Lists of `[logprob, id, text]`; the entry at `logprob_start_len` is null."""
    count, named = body.get("top_logprobs_num") or 0, body.get("token_ids_logprob")
    scored = list(zip(before[start:], prompt[start + 1 :], strict=True))
    written = list(zip(text.rows, text.ids, strict=True))

    def entries(row: Row, ids: Sequence[int]) -> list[list[Any]]:
        return [[float(row[i]), int(i), None] for i in ids]

    meta: dict[str, Any] = {
        "input_token_logprobs": [
            [None, prompt[start], None],
            *(entries(row, [i])[0] for row, i in scored),
        ],
        "output_token_logprobs": [entries(row, [i])[0] for row, i in written],
    }
    shown: list[tuple[str, Callable[[Row], Sequence[int]]]] = []
    if count:
        shown.append(("top_logprobs", lambda row: best(row, count)))
    if named is not None:
        shown.append(("token_ids_logprobs", lambda row: named))
    for what, choose in shown:
        meta[f"input_{what}"] = [None, *(entries(row, choose(row)) for row, _ in scored)]
        meta[f"output_{what}"] = [entries(row, choose(row)) for row, _ in written]
    return meta


SGLANG: Mapping[str, Callable[..., Any]] = {
    "/generate": generate,
    "/v1/models": _sglang_models,
    "/get_model_info": _sglang_info,
    "/model_info": _sglang_info,
    "/get_server_info": _sglang_server,
    "/server_info": _sglang_server,
    "/health": lambda server, body: "",
    "/tokenize": tokenize,
}


# --- llama.cpp -------------------------------------------------------------------------------


def _llama_models(server: Computing, body: None) -> Any:
    meta = {"n_vocab": server.model.vocabulary, "n_ctx_train": server.model.context}
    model = {"id": server.name, "object": "model", "created": 1, "owned_by": "llamacpp"}
    return {"object": "list", "data": [model | {"meta": meta}]}


def _llama_props(server: Computing, body: None) -> Any:
    settings = {"id": 0, "n_ctx": server.model.context, "params": {}}
    return {
        "default_generation_settings": settings,
        "total_slots": 1,
        "model_path": server.model.source,
        "model_alias": server.name,
        "build_info": "b9999-abcdef",
    }


def completion(server: Computing, body: Mapping[str, Any]) -> Any:
    """The reply to POST /completion: the most probable tokens of each generated position."""
    ids = body["prompt"]
    ids = server.model.tokenizer.encode(ids) if isinstance(ids, str) else ids
    longest = server.model.context
    if len(ids) >= longest:
        raise _llama_refusal(
            f"the request exceeds the available context size ({longest} tokens)",
            "exceed_context_size_error",
        )
    if not ids or max(ids) >= server.model.vocabulary or min(ids) < 0:
        raise _llama_refusal("Prompt contains invalid tokens", "invalid_request_error")
    prompt = server.prompt(ids)
    asked = body.get("n_predict", -1)
    room = longest - len(prompt)
    how = Sampling(
        max(1, room if asked < 0 else min(asked, room)),
        max(0.0, body.get("temperature", 0.8)),
        body.get("top_k", 40),
        body.get("seed"),
        tuple(body.get("stop") or ()),
        ignore_end=bool(body.get("ignore_eos")),
    )
    cached = server.model.cached(prompt)
    server.rows(prompt)
    server.model.keep(prompt)
    text = server.write(prompt, how)
    reply = {
        "index": 0,
        "content": text.text,
        "tokens": text.ids if body.get("return_tokens") else [],
        "id_slot": 0,
        "stop": True,
        "model": server.name,
        "tokens_predicted": len(text.ids),
        "tokens_evaluated": len(prompt),
        "has_new_line": "\n" in text.text,
        "truncated": False,
        "stop_type": _stop_type(text),
        "stopping_word": text.stopped or "",
        "tokens_cached": len(prompt) + len(text.ids) - 1,
        "timings": {"cache_n": cached, "prompt_n": len(prompt) - cached},
    }
    if body.get("n_probs"):
        reply["completion_probabilities"] = [
            _llama_entry(server, row, token, body["n_probs"])
            for row, token in zip(text.rows, text.ids, strict=True)
        ]
    return reply


def _stop_type(text: Text) -> str:
    if text.reason == "length":
        return "limit"
    return "eos" if text.stopped is None else "word"


def _llama_entry(server: Computing, row: Row, token: int, count: int) -> dict[str, Any]:
    def entry(i: int) -> dict[str, Any]:
        piece = server.model.piece(i)
        return {"id": i, "token": piece, "bytes": list(piece.encode()), "logprob": float(row[i])}

    return entry(token) | {"top_logprobs": [entry(i) for i in best(row, count)]}


def _llama_refusal(message: str, kind: str) -> Refusal:
    refusal = Refusal(message)
    refusal.body = {"error": {"code": 400, "message": message, "type": kind}}
    return refusal


def _llama_completions(server: Computing, body: Mapping[str, Any]) -> Any:
    """As of 2026: echo is refused, and no log-probabilities of the prompt are to be had."""
    if body.get("echo"):
        raise _llama_refusal("Only no echo is supported", "invalid_request_error")
    reply = completion(server, {"prompt": body["prompt"], "n_predict": body.get("max_tokens", 16)})
    choice = {"text": reply["content"], "index": 0, "logprobs": None, "finish_reason": "length"}
    return {"id": "1", "object": "text_completion", "model": server.name, "choices": [choice]}


def _llama_tokenize(server: Computing, body: Mapping[str, Any]) -> Any:
    return {"tokens": server.model.tokenizer.encode(body["content"])}


LLAMA_CPP: Mapping[str, Callable[..., Any]] = {
    "/completion": completion,
    "/v1/completions": _llama_completions,
    "/v1/models": _llama_models,
    "/props": _llama_props,
    "/health": lambda server, body: {"status": "ok"},
    "/tokenize": _llama_tokenize,
}
