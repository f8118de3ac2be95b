"""Which text of an item counts when it is looked for elsewhere: what is asked, and its answer.

Running text is the item. Of other items it is the longest text that is asked, with the right
choice put in, or with the first reference after it where an answer is to be written. Example
pairs before a question are the same for every item and are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core import Example, Generate, Loglikelihood, Request, RollingLoglikelihood
from harness.records.dump import request_text
from harness.runner import Job, prepare
from harness.text import common_prefix_length


@dataclass(frozen=True, slots=True)
class Item:
    """One item's text, in the pieces that have outcomes of their own; mostly one."""

    id: str
    pieces: tuple[bytes, ...]


def items(job: Job) -> list[Item]:
    """The items of a job, without its example pairs.

    Raises:
        DataError: a row cannot be read.
    """
    if job.pool:
        job = replace(job, pool=replace(job.pool, rows=(), source_kind="sample"))
    asked = prepare(job)
    pairs = zip(asked.examples, asked.groups, strict=True)
    return [Item(example.id, _pieces(example, group)) for example, group in pairs]


def _pieces(example: Example, group: Sequence[Request]) -> tuple[bytes, ...]:
    if len(group) == 1 and isinstance(group[0], RollingLoglikelihood):
        parts = group[0].pieces
        whole = [p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in parts]
        return whole_characters(whole)
    text = _question(example, group)
    if isinstance(group[0], Generate) and example.references:
        text += f" {example.references[0]}"
    return (text.encode("utf-8", "replace"),)


def whole_characters(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """The same bytes, cut so that no piece begins inside a character of UTF-8."""
    found = list(pieces)
    for k in range(1, len(found)):
        head = len(found[k]) - len(found[k].lstrip(bytes(range(0x80, 0xC0))))
        found[k - 1], found[k] = found[k - 1] + found[k][:head], found[k][head:]
    return tuple(found)


def _question(example: Example, group: Sequence[Request]) -> str:
    """The longest text that is asked; of choices, the one with the reference in its place."""
    texts = list(dict.fromkeys(map(_whole, group)))
    longest = [t for t in texts if not any(o != t and o.startswith(t) for o in texts)]
    if len(longest) <= 1:
        return longest[0] if longest else ""
    common = common_prefix_length(longest)
    for text in longest:
        for reference in example.references:
            # The place may begin with words that all choices have in common.
            place = text[max(0, common - len(reference)) : common + len(reference) + 1]
            if reference.lower() in place.lower():
                return text
    return longest[0][:common]


def _whole(request: Request) -> str:
    if isinstance(request, Loglikelihood):
        return request.context + request.continuation
    return request_text(request)
