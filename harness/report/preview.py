"""One encoded request as lines for the terminal: tokens apart, the scored span marked."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from rich.text import Text

from harness.core import Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood

EDGE = 40  # tokens shown at either end of what is fed
WINDOWS = 3  # shown of a rolling text
SCORED = "bold green"


class EncodedRequest(Protocol):
    """What the engine's encoder makes of a request."""

    @property
    def spans(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def truncated(self) -> bool: ...  # noqa: D102
    @property
    def crossing(self) -> bool: ...  # noqa: D102


def preview(
    pairs: Sequence[tuple[Request, EncodedRequest]],
    strings: Callable[[Sequence[int]], list[str]],
) -> Iterator[Text]:
    """Lines for an example's requests; scored tokens are bold and stand after a double bar.

    A context that is the one of the request before is not shown again.
    """
    before: Sequence[int] = ()
    for request, encoded in pairs:
        yield Text(f"  {_kind(request)}: {_facts(encoded)}")
        for number, span in enumerate(encoded.spans):
            if number == WINDOWS:
                yield Text(f"    ... and {len(encoded.spans) - WINDOWS} more windows")
                break
            context = _context(span)
            shown = ["... the same context ..."] if context == before else strings(context)
            wanted = _open_end(request) if span.top else ""
            yield _line(_tokens(shown, "dim"), _tokens(strings(span.targets), SCORED), wanted)
            before = context


def _context(span: Any) -> Sequence[int]:
    """What is fed before the first scored token."""
    found: Sequence[int] = span.inputs[: len(span.inputs) - max(len(span.targets) - 1, 0)]
    return found


def _line(context: Text, scored: Text, wanted: str) -> Text:
    line = Text("    ").append_text(context).append(" ‖ ").append_text(scored)
    return line.append(wanted, SCORED)


def _open_end(request: Request) -> str:
    """What is wanted after the last token, where no target is given."""
    if not isinstance(request, Generate):
        return "<best words follow>"
    how = "greedy" if request.top_k == 1 else f"top-{request.top_k} sampling"
    stop = f", until {' or '.join(map(repr, request.stop))}" if request.stop else ""
    return f"<up to {request.max_new_tokens} new tokens, {how}{stop}>"


def _kind(request: Request) -> str:
    match request:
        case Loglikelihood():
            return "loglikelihood"
        case RollingLoglikelihood():
            return "rolling"
        case Generate():
            return "generate"
        case NextWord():
            return f"next word ({len(request.skip)} stop words, filter {request.rule})"


def _facts(encoded: EncodedRequest) -> str:
    fed = sum(len(span.inputs) for span in encoded.spans)
    scored = sum(len(span.targets) for span in encoded.spans)
    facts = [f"{fed} tokens fed", f"{scored} scored"]
    if len(encoded.spans) > 1:
        facts.append(f"{len(encoded.spans)} windows")
    facts += ["cut to fit the context"] * encoded.truncated
    facts += ["a token crosses the boundary: encoded apart"] * encoded.crossing
    return ", ".join(facts)


def _tokens(strings: Iterable[str], style: str) -> Text:
    shown = [repr(s)[1:-1] for s in strings]
    if len(shown) > 2 * EDGE:
        left_out = f"[... {len(shown) - 2 * EDGE} tokens ...]"
        shown = [*shown[:EDGE], left_out, *shown[-EDGE:]]
    return Text("|".join(shown), style)
