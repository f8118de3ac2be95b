"""llama.cpp: its own `/completion`, which has the best tokens after a prompt and nothing else.

By its code of 2026-10 (b11434). There are no log-probabilities of a prompt: `/v1/completions`
ignores `echo` or refuses it. What is odd about those of generated tokens:

* A token that leaves a character unfinished has none, so that such a text is refused.
* The tokens of a stop string have none, so that stop strings are not sent and the caller cuts.
* `ignore_eos` changes probabilities, so that texts end at the model's own tokens.
* A probability of 0 is sent as the smallest number there is, which is refused.
"""

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
    text,
    token_ids,
    tokenized,
    whole,
)
from harness.engine.endpoint.dialects.dialect import Get, Next, Prompted, Server, Written
from harness.engine.endpoint.dialects.distribution import best_of, following, merged
from harness.engine.endpoint.dialects.generation import generated, seed
from harness.engine.queries.query import GenerationQuery


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """How llama-server is asked."""

    server: Server

    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted] | None:
        """None: it has no log-probabilities of a prompt."""
        return None

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next] | None:
        """None: it has log-probabilities of the best tokens only."""
        return None

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next] | None:
        """The best tokens by `n_probs`, over the whole vocabulary."""
        call = self._call(prompt, {"n_predict": 1, "n_probs": count})
        return Ask(call, partial(_top, len(prompt), count))

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written] | None:
        """Generated tokens, past any stop string."""
        fields: dict[str, Any] = {"n_predict": query.max_new_tokens, "n_probs": 1}
        if query.top_k > 1:
            fields |= {
                "samplers": ["top_k", "temperature"],
                "temperature": 1,
                "top_k": query.top_k,
                "seed": seed(query),
            }
        return Ask(self._call(query.prompt, fields), partial(_written, query, ends))

    def tokenized(self, text: str) -> Ask[tuple[int, ...]] | None:
        """Token ids of a text by `/tokenize`."""
        body = {"content": text, "add_special": False, "model": self.server.model}
        return Ask(Call("tokenize", body), tokenized)

    def _call(self, prompt: Sequence[int], fields: Mapping[str, Any]) -> Call:
        """A call for one completion of a prompt."""
        body = {
            "model": self.server.model,
            "prompt": list(prompt),
            "samplers": ["temperature"],
            "temperature": 0,
            "repeat_penalty": 1,
            "ignore_eos": False,
            "return_tokens": True,
            "cache_prompt": True,
            "post_sampling_probs": False,
        }
        return Call("completion", {**body, **fields})


def llama_cpp(get: Get, model: Mapping[str, Any]) -> LlamaCpp:
    """The dialect of a model in the list of a llama-server."""
    about = get(Call("props"))
    longest = optional(about, "default_generation_settings", "n_ctx")
    return LlamaCpp(
        Server(
            kind="llama.cpp",
            version=text(optional(about, "build_info")),
            model=str(model["id"]),
            source=text(optional(about, "model_path")),
            longest=longest if isinstance(longest, int) else None,
            config="",
        )
    )


def _reply(sent: int, reply: Any) -> tuple[tuple[int, ...], list[Any], int | None]:
    """Generated tokens after a prompt of `sent`, their probabilities, and tokens from the cache."""
    equal(part(reply, "tokens_evaluated"), sent, "tokens_evaluated")
    if (reason := optional(reply, "stop_type")) not in ("eos", "limit"):
        refuse("stop_type", "eos or limit", reason)
    chosen = token_ids(part(reply, "tokens"), "tokens")
    equal(part(reply, "tokens_predicted"), len(chosen), "tokens_predicted")
    found = optional(reply, "completion_probabilities") or []
    if isinstance(found, list) and len(found) < len(chosen):
        expected = f"{len(chosen)} (llama.cpp has none for a token that is part of a character)"
        refuse("completion_probabilities", expected, len(found))
    probabilities = items(found, len(chosen), "completion_probabilities")
    for token, entry in zip(chosen, probabilities, strict=True):
        equal(part(entry, "id"), token, "completion_probabilities")
    cached = counted(optional(reply, "timings", "cache_n"), "timings.cache_n")
    return chosen, probabilities, cached


def _top(sent: int, count: int, reply: Any) -> Next:
    chosen, probabilities, cached = _reply(sent, reply)
    (entry,) = items(probabilities, 1, "completion_probabilities")
    what = "top_logprobs"
    entries = items(part(entry, what), count, what)
    shown = {whole(part(e, "id"), what): logprob(part(e, "logprob"), what) for e in entries}
    if len(shown) != count:
        refuse(what, f"{count} different tokens", len(shown))
    shown = merged(shown, chosen[0], logprob(part(entry, "logprob"), what), what)
    return best_of(following(shown, chosen[0], cached, what), count)


def _written(query: GenerationQuery, ends: frozenset[int], reply: Any) -> Written:
    chosen, probabilities, cached = _reply(len(query.prompt), reply)
    what = "completion_probabilities"
    logprobs = [logprob(part(entry, "logprob"), what) for entry in probabilities]
    stopped = not ends and part(reply, "stop_type") == "eos"
    return generated(query, ends, chosen, logprobs, stopped=stopped, cached=cached)
