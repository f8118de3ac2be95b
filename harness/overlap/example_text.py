"""The text of each example whose n-grams are looked up in a corpus.

Running text is one example. The text of any other example is the longest text that is asked, with
the correct choice filled in, or followed by the first reference if the answer is generated.
Few-shot examples are left out: they are the same for every example.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core import (
    Example,
    Generate,
    Loglikelihood,
    Request,
    RollingLoglikelihood,
    request_text,
)
from harness.overlap.ngrams import DOCUMENT_END
from harness.runner import Job, prepare
from harness.text import common_prefix_length


@dataclass(frozen=True, slots=True)
class ExampleText:
    """The text of one example, in the pieces that have outcomes of their own; mostly one."""

    id: str
    pieces: tuple[bytes, ...]


def example_texts(job: Job) -> list[ExampleText]:
    """The texts of a job's examples, without few-shot examples."""
    if job.pool:
        job = replace(job, pool=replace(job.pool, rows=(), source_kind="sample"))
    prepared = prepare(job)
    return [
        ExampleText(example.id, _pieces(example, requests))
        for example, requests in zip(prepared.examples, prepared.groups, strict=True)
    ]


def as_documents(texts: Iterable[ExampleText]) -> bytes:
    """One block for `harness.overlap.scan`: each example is a document."""
    return b"".join(
        b"".join(text.pieces).replace(DOCUMENT_END, b" ") + DOCUMENT_END for text in texts
    )


def _pieces(example: Example, requests: Sequence[Request]) -> tuple[bytes, ...]:
    first = requests[0]
    if len(requests) == 1 and isinstance(first, RollingLoglikelihood):
        pieces = [p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in first.pieces]
        return align_to_characters(pieces)
    text = _asked_text(example, requests)
    if isinstance(first, Generate) and example.references:
        text += f" {example.references[0]}"
    return (text.encode("utf-8", "replace"),)


def align_to_characters(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """Move the cuts between pieces so that none begins inside a UTF-8 character."""
    aligned = list(pieces)
    for k in range(1, len(aligned)):
        rest = aligned[k].lstrip(bytes(range(0x80, 0xC0)))
        aligned[k - 1] += aligned[k][: len(aligned[k]) - len(rest)]
        aligned[k] = rest
    return tuple(aligned)


def _asked_text(example: Example, requests: Sequence[Request]) -> str:
    """The longest text that is asked; among choices, the one with the reference filled in."""
    texts = list(dict.fromkeys(map(_full_text, requests)))
    longest = [t for t in texts if not any(o != t and o.startswith(t) for o in texts)]
    if len(longest) <= 1:
        return longest[0] if longest else ""
    common = common_prefix_length(longest)
    for text in longest:
        for reference in example.references:
            # The reference may begin with words that all choices share.
            place = text[max(0, common - len(reference)) : common + len(reference) + 1]
            if reference.lower() in place.lower():
                return text
    return longest[0][:common]


def _full_text(request: Request) -> str:
    if isinstance(request, Loglikelihood):
        return request.context + request.continuation
    return request_text(request)
