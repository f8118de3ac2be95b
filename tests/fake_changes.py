"""Changes of a finished reply, in the shape of any server."""

from collections.abc import Callable, Iterator
from typing import Any

Slot = tuple[Any, Any]
"""A container, and the key or index of a log-probability in it."""


def value(new: float | None) -> Callable[[Any], None]:
    """A log-probability in the middle of each list, and the last one, become `new`."""

    def change(reply: Any) -> None:
        for container, key in [*_slots(reply)]:
            container[key] = new

    return change


def _some(entries: list[Any] | None) -> list[Any]:
    """The middle and the end of a list, without what is null."""
    found = entries or []
    return [each for each in [*found[len(found) // 2 :][:1], *found[-1:]] if each is not None]


def _slots(reply: Any) -> Iterator[Slot]:
    for choice in reply.get("choices", []):
        for entry in _some(choice.get("prompt_logprobs")):
            yield from ((each, "logprob") for each in [*entry.values()][:1])
        logprobs = choice.get("logprobs") or {}
        values = logprobs.get("token_logprobs") or []
        yield from ((values, i) for i in {len(values) // 2, len(values) - 1} if i > 0 or values)
        yield from ((top, [*top][-1]) for top in _some(logprobs.get("top_logprobs")) if top)
    for _, entries in _lists(reply):
        for entry in _some(entries):
            last = entry[-1] if isinstance(entry[0], list) else entry
            if last[0] is not None:
                yield last, 0
    for entry in reply.get("completion_probabilities", []):
        yield from ((shown, "logprob") for shown in [entry, *entry["top_logprobs"][-1:]])


def _lists(reply: Any) -> Iterator[tuple[str, list[Any]]]:
    """The lists of log-probabilities of SGLang."""
    for key, entries in (reply.get("meta_info") or {}).items():
        if key.endswith("logprobs"):
            yield key, entries


def empty(reply: Any) -> None:
    """All lists are there, with nothing in them."""
    for choice in reply.get("choices", []):
        if choice.get("prompt_logprobs"):
            choice["prompt_logprobs"] = []
        if choice.get("logprobs"):
            choice["logprobs"] = {key: [] for key in choice["logprobs"]}
    for _, entries in _lists(reply):
        entries.clear()
    if "completion_probabilities" in reply:
        reply["completion_probabilities"] = []


def short(reply: Any) -> None:
    """One entry fewer."""
    for choice in reply.get("choices", []):
        for entries in [choice.get("prompt_logprobs"), *(choice.get("logprobs") or {}).values()]:
            del (entries or [])[-1:]
    for _, entries in _lists(reply):
        del entries[-1:]
    for entry in reply.get("completion_probabilities", []):
        del entry["top_logprobs"][-1:]


def quiet(reply: Any) -> None:
    """As if the server did not know the fields that show ids."""
    for choice in reply.get("choices", []):
        choice |= dict.fromkeys({"token_ids", "prompt_token_ids"} & choice.keys())


def other_tokens(reply: Any) -> None:
    """Another tokenizer's ids."""
    if isinstance(reply.get("tokens"), list):
        reply["tokens"] = [i + 1 for i in reply["tokens"]]
