"""vLLM: its own fields of `/v1/completions`, as version 0.32 answers them.

Every call sends all parameters of sampling, because the server takes those that are missing from
the model's `generation_config.json`. It ignores fields that it does not know without an error, so
each reply must show that its fields were read.

`prompt_logprobs: 2` gives the token itself and the two best ones, which shows ties. `rank` does not
show them: it counts a tie upwards, so that no token of it has rank 1, but that of a token among the
best is its place there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

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
    tokenized,
    whole,
)
from harness.engine.endpoint.dialects.completions import (
    Choice,
    generated_tokens,
    next_token,
    only_choice,
)
from harness.engine.endpoint.dialects.dialect import Get, Next, Prompted, Server, Written
from harness.engine.endpoint.dialects.distribution import (
    BESIDE,
    Position,
    best_of,
    following,
    only,
    position,
    prompted,
)
from harness.engine.endpoint.dialects.generation import generated, seed, stop_strings
from harness.engine.queries.query import GenerationQuery

MAX_NAMED = 128  # ids of `logprob_token_ids`
MAX_STOPS = 4
_ID = re.compile("0|[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Vllm:
    """How vLLM is asked."""

    server: Server

    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted] | None:
        """Log-probabilities of `tokens[first:]` by `prompt_logprobs`."""
        call = self._call(tokens, {"prompt_logprobs": BESIDE, "max_tokens": 1, "temperature": 0})
        return Ask(call, partial(_prompted, tuple(tokens), first))

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next] | None:
        """Log-probabilities of at most 128 tokens by `logprob_token_ids`."""
        wanted = sorted(set(ids))
        call = self._call(
            prompt,
            {"logprobs": 0, "logprob_token_ids": wanted, "max_tokens": 1, "temperature": 0},
        )
        return Ask(call, partial(_named, tuple(prompt), frozenset(wanted)))

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next] | None:
        """The best tokens by `logprobs`; never ask so while calls of `named` are in flight."""
        call = self._call(prompt, {"logprobs": count, "max_tokens": 1, "temperature": 0})
        return Ask(call, partial(_top, tuple(prompt), count))

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written] | None:
        """Tokens that end at ours, whatever the model's configuration says; 4 stop strings."""
        fields: dict[str, Any] = {
            "logprobs": 0,
            "max_tokens": query.max_new_tokens,
            "temperature": 0,
            "stop_token_ids": sorted(ends),
        }
        if stop := stop_strings(query, MAX_STOPS):
            fields["stop"] = stop
        if query.top_k > 1:
            fields |= {"temperature": 1, "top_k": query.top_k, "seed": seed(query)}
        return Ask(self._call(query.prompt, fields), partial(_written, query, ends))

    def tokenized(self, text: str) -> Ask[tuple[int, ...]] | None:
        """Token ids of a text by `/tokenize`."""
        body = {"model": self.server.model, "prompt": text, "add_special_tokens": False}
        return Ask(Call("tokenize", body), tokenized)

    def _call(self, prompt: Sequence[int], fields: Mapping[str, Any]) -> Call:
        """A call for one completion of a prompt."""
        body = {
            "model": self.server.model,
            "prompt": list(prompt),
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,
            "top_p": 1,
            "min_p": 0,
            "repetition_penalty": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
        }
        return Call("v1/completions", {**body, **fields})


def vllm(get: Get, model: Mapping[str, Any]) -> Vllm:
    """The dialect of a model in the list of a vLLM server."""
    name = str(model["id"])
    once = get(Call("v1/completions", {"model": name, "prompt": [0], "max_tokens": 1}))
    longest = optional(model, "max_model_len")
    return Vllm(
        Server(
            kind="vllm",
            version=text(optional(get(Call("version")), "version")),
            model=name,
            source=text(optional(model, "root")),
            longest=longest if isinstance(longest, int) else None,
            config=text(optional(once, "system_fingerprint")),
        )
    )


def _reply(prompt: Sequence[int], reply: Any) -> tuple[Choice, int | None]:
    """The only choice of a reply to this prompt, and how many of its tokens were cached."""
    choice = only_choice(reply)
    if (echoed := choice.get("prompt_token_ids")) is None:
        refuse("prompt_token_ids", "those that were sent, as from vLLM 0.10.2 on", None)
    same_tokens(echoed, prompt, "prompt_token_ids")
    equal(part(reply, "usage", "prompt_tokens"), len(prompt), "usage.prompt_tokens")
    cached = optional(reply, "usage", "prompt_tokens_details", "cached_tokens")
    return choice, counted(cached, "cached_tokens")


def _prompted(sent: Sequence[int], first: int, reply: Any) -> Prompted:
    choice, cached = _reply(sent, reply)
    entries = items(choice.get("prompt_logprobs"), len(sent), "prompt_logprobs")
    equal(entries[0], None, "prompt_logprobs[0]")
    for at in range(1, first):
        _entry(entries[at], sent[at], f"prompt_logprobs[{at}]")
    return prompted(
        [
            _position(entries[at], sent[at], f"prompt_logprobs[{at}]")
            for at in range(first, len(sent))
        ],
        cached,
    )


def _entry(entry: Any, token: int, what: str) -> Mapping[str, Any]:
    """The value of a token in its entry of `prompt_logprobs`."""
    if not isinstance(entry, dict):
        refuse(what, f"log-probabilities of token {token} and the best", entry)
    if not isinstance(own := entry.get(str(token)), dict):
        refuse(what, f"the log-probability of token {token}", sorted(entry))
    return own


def _position(entry: Any, token: int, what: str) -> Position:
    own = _entry(entry, token, what)
    others = {key: value for key, value in entry.items() if key != str(token)}
    best = entry if len(entry) == BESIDE else others
    if len(best) != BESIDE or not all(_ID.fullmatch(key) for key in best):
        refuse(what, f"token {token} and the best {BESIDE}", sorted(entry))
    ranks = sorted(whole(part(value, "rank"), f"{what} rank") for value in best.values())
    equal(ranks, [*range(1, BESIDE + 1)], f"{what} ranks of the best tokens")
    shown = {int(key): logprob(part(value, "logprob"), what) for key, value in best.items()}
    return position(token, logprob(own.get("logprob"), what), shown, what)


def _next(prompt: Sequence[int], reply: Any) -> tuple[int, dict[int, float], int | None]:
    """The only generated token, and the log-probabilities at its position."""
    choice, cached = _reply(prompt, reply)
    chosen, shown = next_token(choice)
    same_tokens(choice.get("token_ids"), [chosen], "token_ids")
    return chosen, shown, cached


def _named(prompt: Sequence[int], ids: frozenset[int], reply: Any) -> Next:
    chosen, shown, cached = _next(prompt, reply)
    if shown.keys() != ids | {chosen}:
        expected = f"the {len(ids)} tokens of logprob_token_ids and token {chosen}"
        refuse("top_logprobs[0]", expected, sorted(shown))
    return only(following(shown, chosen, cached, "top_logprobs[0]"), sorted(ids))


def _top(prompt: Sequence[int], count: int, reply: Any) -> Next:
    chosen, shown, cached = _next(prompt, reply)
    # A tie may leave the chosen token out of the best `count`; it then comes in addition.
    if not count <= len(shown) <= count + 1:
        refuse("top_logprobs[0]", f"{count} tokens", len(shown))
    return best_of(following(shown, chosen, cached, "top_logprobs[0]"), count)


def _written(query: GenerationQuery, ends: frozenset[int], reply: Any) -> Written:
    choice, cached = _reply(query.prompt, reply)
    chosen, logprobs = generated_tokens(choice)
    same_tokens(choice.get("token_ids"), chosen, "token_ids")
    stopped = choice.get("finish_reason") == "stop" and choice.get("stop_reason") in query.stop
    return generated(query, ends, chosen, logprobs, stopped=stopped, cached=cached)
