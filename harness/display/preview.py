"""Requests as lines for the terminal: tokens apart, the scored span marked, answers below it."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.cells import cell_len
from rich.text import Text

from harness.records.trace import RequestTrace, TokenTrace

EDGE = 40  # tokens shown at either end of what is fed, and of what is scored
WINDOWS = 3  # shown of a rolling text
WIDTH = 100  # columns of the scored tokens with their numbers
SCORED = "bold green"


def preview(requests: Sequence[RequestTrace]) -> Iterator[Text]:
    """Lines for an item's requests; scored tokens are bold and stand after a double bar.

    A context that is the one of the request before is not shown again. Where there are answers,
    scored tokens stand with their log-probability in nats and their rank below them.
    """
    before: Sequence[TokenTrace] = ()
    for request in requests:
        yield Text(f"  {_label(request)}: {', '.join(_facts(request))}")
        windows = [list(group) for _, group in groupby(request.tokens, lambda t: t.window)]
        for number, window in enumerate(windows[:WINDOWS]):
            first = next((i for i, t in enumerate(window) if _behind(t)), len(window))
            context, scored = window[:first], window[first:]
            same = bool(context) and context == before
            shown = ["... the same context ..."] if same else [t.text for t in context]
            line = _line(_tokens(shown, "dim"), _tokens([t.text for t in scored], SCORED))
            yield line if scored else line.append(request.wanted, SCORED)
            yield from _numbers(scored)
            before = context if number == 0 else before
        if len(windows) > WINDOWS:
            yield Text(f"    ... and {len(windows) - WINDOWS} more windows")
        yield from _output(request)


def _behind(token: TokenTrace) -> bool:
    """Whether a token stands after the bar: scored, or written by the model."""
    return token.scored or token.logprob is not None


def _line(context: Text, scored: Text) -> Text:
    return Text("    ").append_text(context).append(" ‖ ").append_text(scored)


def _label(request: RequestTrace) -> str:
    kind = request.kind.replace("_", " ")
    return f"{kind} ({request.how})" if request.how else kind


def _facts(request: RequestTrace) -> list[str]:
    said = [] if request.logprob is None else [f"{request.logprob:.4f} nats"]
    return [*request.facts, *said]


def _output(request: RequestTrace) -> Iterator[Text]:
    if request.output is not None:
        note = f"  ({request.note})" if request.note else ""
        yield Text("    output: ").append(repr(request.output), SCORED).append(note)


def _tokens(strings: Sequence[str], style: str) -> Text:
    shown = [_plain(s) for s in strings]
    if len(shown) > 2 * EDGE:
        left_out = f"[... {len(shown) - 2 * EDGE} tokens ...]"
        shown = [*shown[:EDGE], left_out, *shown[-EDGE:]]
    return Text("|".join(shown), style)


def _plain(text: str) -> str:
    """A token on one line, line breaks and the like written out."""
    return repr(text)[1:-1]


def _numbers(tokens: Sequence[TokenTrace]) -> Iterator[Text]:
    """Scored tokens over their log-probabilities and ranks, as many a line as fit."""
    if not any(t.logprob is not None for t in tokens):
        return
    columns = [_column(t) for t in tokens]
    if len(columns) > 2 * EDGE:
        left_out = (f"... {len(columns) - 2 * EDGE} more ...", "", "")
        columns = [*columns[:EDGE], left_out, *columns[-EDGE:]]
    row: list[tuple[str, str, str]] = []
    for column in columns:
        if row and sum(_width(c) + 2 for c in [*row, column]) > WIDTH:
            yield from _grid(row)
            row = []
        row.append(column)
    yield from _grid(row)


def _column(token: TokenTrace) -> tuple[str, str, str]:
    """Token, log-probability, rank."""
    logprob = "" if token.logprob is None else f"{token.logprob:.2f}"
    return _plain(token.text), logprob, "-" if token.rank is None else str(token.rank)


def _width(column: Sequence[str]) -> int:
    return max(cell_len(text) for text in column)


def _grid(row: Sequence[tuple[str, str, str]]) -> Iterator[Text]:
    for number, (name, style) in enumerate((("token", SCORED), ("nats", ""), ("rank", "dim"))):
        cells = (" " * (_width(c) - cell_len(c[number])) + c[number] for c in row)
        yield Text(f"      {name:5}  ").append("  ".join(cells), style)
