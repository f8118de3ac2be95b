"""What replies of `/v1/completions` have in common, where tokens come as `token_id:28`.

Decoded tokens would not do: two ids with the same text are one key of `top_logprobs`.
"""

from collections.abc import Mapping
from typing import Any

from harness.engine.endpoint.dialects.check import (
    ROUNDING,
    items,
    keyed_token,
    logprob,
    part,
    refuse,
)

Choice = Mapping[str, Any]


def only_choice(reply: Any) -> Choice:
    """The only choice of a reply."""
    items(part(reply, "choices"), 1, "choices")
    if not isinstance(choice := part(reply, "choices", 0), dict):
        refuse("choices[0]", "an object", choice)
    return choice


def generated_tokens(choice: Choice) -> tuple[list[int], list[float]]:
    """The generated tokens of a choice and their log-probabilities."""
    names = part(choice, "logprobs", "tokens")
    if not isinstance(names, list):
        refuse("logprobs.tokens", "a list", names)
    tokens = [keyed_token(name, f"logprobs.tokens[{at}]") for at, name in enumerate(names)]
    what = "token_logprobs"
    values = [
        logprob(value, f"{what}[{at}]")
        for at, value in enumerate(items(part(choice, "logprobs", what), len(tokens), what))
    ]
    what = "top_logprobs"
    for name, value, shown in zip(names, values, _tops(choice, len(tokens)), strict=True):
        if abs(logprob(shown.get(name), what) - value) > ROUNDING:
            refuse(what, f"{value:g} of {name}, as in token_logprobs", shown)
    return tokens, values


def next_token(choice: Choice) -> tuple[int, dict[int, float]]:
    """The only generated token, and the log-probabilities at its position."""
    tokens, _ = generated_tokens(choice)
    (chosen,) = items(tokens, 1, "logprobs.tokens")
    (entries,) = _tops(choice, 1)
    what = "top_logprobs[0]"
    return chosen, {keyed_token(key, what): logprob(entries[key], what) for key in entries}


def _tops(choice: Choice, count: int) -> list[dict[str, Any]]:
    """What is shown at each position of `top_logprobs`, with the generated token."""
    what = "top_logprobs"
    shown = items(part(choice, "logprobs", what), count, what)
    for at, entries in enumerate(shown):
        if not isinstance(entries, dict):
            refuse(f"{what}[{at}]", "log-probabilities by token", entries)
    return shown
