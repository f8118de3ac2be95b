"""SGLang: its own `/generate`, which reads its prefix cache even for log-probabilities of a prompt.

By its code of version 0.5.10. What is odd there:

* The entry at `logprob_start_len` is null: the first token of interest is the one after it.
* The last id of the vocabulary is shown as 0 among the input tokens; its log-probability is right.
* `ignore_eos` switches `stop_token_ids` off too, so that texts also end at the model's own tokens.
* Seeds are read only by a server started with `--enable-deterministic-inference`.
* A prompt and what is generated after it must be shorter than the context, not just as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.check import (
    counted,
    equal,
    items,
    logprob,
    optional,
    part,
    refuse,
    same_tokens,
    text,
    token_ids,
    tokenized,
    whole,
)
from harness.engine.endpoint.dialects.dialect import Get, Next, Prompted, Server, Written
from harness.engine.endpoint.dialects.distribution import (
    BESIDE,
    best_of,
    following,
    merged,
    only,
    position,
    prompted,
)
from harness.engine.endpoint.dialects.generation import generated, seed, stop_strings
from harness.engine.queries.query import GenerationQuery
from harness.errors import EndpointError

_GREEDY = {"temperature": 0, "max_new_tokens": 1}


@dataclass(frozen=True, slots=True)
class Sglang:
    """How SGLang is asked; `seeded` says whether it reads seeds."""

    server: Server
    seeded: bool

    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted] | None:
        """Log-probabilities of `tokens[first:]` by `logprob_start_len`."""
        call = _call(tokens, _GREEDY, {"logprob_start_len": first - 1, "top_logprobs_num": BESIDE})
        return Ask(call, partial(_prompted, tuple(tokens), first))

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next] | None:
        """Log-probabilities of tokens by `token_ids_logprob`."""
        wanted = sorted(set(ids))
        call = _call(prompt, _GREEDY, {"token_ids_logprob": wanted})
        return Ask(call, partial(_named, len(prompt), wanted))

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next] | None:
        """The best tokens by `top_logprobs_num`."""
        call = _call(prompt, _GREEDY, {"top_logprobs_num": count})
        return Ask(call, partial(_top, len(prompt), count))

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written] | None:
        """Generated tokens; None for a sample if the server reads no seeds."""
        sampling: dict[str, Any] = {
            "max_new_tokens": query.max_new_tokens,
            "stop": stop_strings(query),
            "stop_token_ids": sorted(ends),
            "temperature": 0,
        }
        if query.top_k > 1:
            if not self.seeded:
                return None
            sampling |= {"temperature": 1, "top_k": query.top_k, "sampling_seed": seed(query)}
        return Ask(_call(query.prompt, sampling, {}), partial(_written, query, ends))

    def tokenized(self, text: str) -> Ask[tuple[int, ...]] | None:
        """Token ids of a text by `/tokenize`."""
        body = {"model": self.server.model, "prompt": text, "add_special_tokens": False}
        return Ask(Call("tokenize", body), tokenized)


def sglang(get: Get, model: Mapping[str, Any]) -> Sglang:
    """The dialect of a model in the list of an SGLang server."""
    name = str(model["id"])
    if optional(model, "parent"):
        raise EndpointError(f"{name} is an adapter of SGLang; serve it merged into its model")
    about = get(Call("server_info")) or get(Call("get_server_info"))
    served = get(Call("model_info")) or get(Call("get_model_info"))
    longest = optional(model, "max_model_len")
    return Sglang(
        Server(
            kind="sglang",
            version=text(optional(about, "version")),
            model=name,
            source=text(optional(served, "model_path")),
            longest=longest - 1 if isinstance(longest, int) else None,
            config=text(optional(served, "weight_version")),
        ),
        seeded=optional(about, "enable_deterministic_inference") is True,
    )


def _call(prompt: Sequence[int], sampling: Mapping[str, Any], fields: Mapping[str, Any]) -> Call:
    """A call for one completion of a prompt."""
    neutral = {
        "top_p": 1,
        "min_p": 0,
        "repetition_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
    }
    body = {
        "input_ids": list(prompt),
        "sampling_params": {**neutral, **sampling},
        "return_logprob": True,
    }
    return Call("generate", {**body, **fields})


class _Reply(NamedTuple):
    meta: Any
    tokens: tuple[int, ...]  # generated
    logprobs: tuple[float, ...]  # of these
    cached: int | None


def _reply(sent: int, reply: Any) -> _Reply:
    """The reply to a prompt of `sent` tokens."""
    meta = part(reply, "meta_info")
    equal(part(meta, "prompt_tokens"), sent, "prompt_tokens")
    if (reason := part(meta, "finish_reason", "type")) not in ("length", "stop"):
        refuse("finish_reason", "length or stop", reason)
    written = [
        _pair(entry, f"output_token_logprobs[{at}]")
        for at, entry in enumerate(_list(meta, "output_token_logprobs"))
    ]
    chosen = token_ids(part(reply, "output_ids"), "output_ids")
    same_tokens([token for token, _ in written], chosen, "output_token_logprobs")
    equal(part(meta, "completion_tokens"), len(chosen), "completion_tokens")
    cached = counted(optional(meta, "cached_tokens"), "cached_tokens")
    return _Reply(meta, chosen, tuple(value for _, value in written), cached)


def _list(meta: Any, name: str) -> list[Any]:
    if not isinstance(value := part(meta, name), list):
        refuse(name, "a list", value)
    return value


def _pair(entry: Any, what: str) -> tuple[int, float]:
    """A token id and its log-probability, from `[log-probability, id, text]`."""
    value, token, *_ = items(entry, 3, what)
    return whole(token, what), logprob(value, what)


def _pairs(entries: Any, count: int, what: str) -> dict[int, float]:
    """Log-probabilities of `count` different tokens."""
    pairs = dict(_pair(entry, what) for entry in items(entries, count, what))
    if len(pairs) != count:
        refuse(what, f"{count} different tokens", len(pairs))
    return pairs


def _prompted(sent: Sequence[int], first: int, reply: Any) -> Prompted:
    meta, _, _, cached = _reply(len(sent), reply)
    what, count = "input_token_logprobs", len(sent) - first + 1
    entries = items(part(meta, what), count, what)
    best = items(part(meta, "input_top_logprobs"), count, "input_top_logprobs")
    equal(items(entries[0], 3, f"{what}[0]")[0], None, f"{what}[0]")
    equal(best[0], None, "input_top_logprobs[0]")
    positions, largest = [], max(sent)
    for at, token in enumerate(sent[first:], start=1):
        shown, value = _pair(entries[at], f"{what}[{at}]")
        if shown != token and not (shown == 0 and token == largest):
            refuse(f"{what}[{at}]", f"token {token}", shown)
        beside = f"input_top_logprobs[{at}]"
        positions.append(position(token, value, _pairs(best[at], BESIDE, beside), beside))
    return prompted(positions, cached)


def _named(sent: int, ids: Sequence[int], reply: Any) -> Next:
    meta, (chosen,), (value,), cached = _next(sent, reply)
    what = "output_token_ids_logprobs"
    (entries,) = items(part(meta, what), 1, what)
    shown = _pairs(entries, len(ids), f"{what}[0]")
    same_tokens(sorted(shown), ids, what)
    return only(following(merged(shown, chosen, value, what), chosen, cached, what), ids)


def _top(sent: int, count: int, reply: Any) -> Next:
    meta, (chosen,), (value,), cached = _next(sent, reply)
    what = "output_top_logprobs"
    (entries,) = items(part(meta, what), 1, what)
    shown = _pairs(entries, count, f"{what}[0]")
    return best_of(following(merged(shown, chosen, value, what), chosen, cached, what), count)


def _next(sent: int, reply: Any) -> _Reply:
    """The reply to a call for one token."""
    one = _reply(sent, reply)
    items(list(one.tokens), 1, "output_ids")
    return one


def _written(query: GenerationQuery, ends: frozenset[int], reply: Any) -> Written:
    meta, chosen, logprobs, cached = _reply(len(query.prompt), reply)
    matched = optional(meta, "finish_reason", "matched")
    stopped = matched in query.stop or (not ends and [matched] == list(chosen[-1:]))
    return generated(query, ends, chosen, logprobs, stopped=stopped, cached=cached)
