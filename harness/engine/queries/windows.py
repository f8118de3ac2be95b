"""Windows of tokens over a text that is longer than the context."""

from typing import NamedTuple


class Window(NamedTuple):
    """Feed tokens [start, stop-1), score tokens [first, stop) of a sequence."""

    start: int
    first: int
    stop: int


def windows(n: int, *, context: int, stride: int, kind: str, given: int) -> list[Window]:
    """Windows over a sequence of `n` tokens, the first `given` of which are only context.

    Every other token is scored once, except under `hf`. With a context of two tokens:

        >>> windows(5, context=2, stride=2, kind="plain", given=1)  # start token + 4
        [Window(start=0, first=1, stop=3), Window(start=2, first=3, stop=5)]

    `lm-eval` extends the last window to the left until it is full. `hf` feeds only tokens that are
    also labels, so the first token of a disjoint window is not scored
    (huggingface.co/docs/transformers/perplexity).
    """
    reach = context if kind == "hf" else context + 1
    result: list[Window] = []
    start, done = 0, max(given, 1)
    while done < n:
        stop = min(start + reach, n)
        begin = max(0, stop - reach) if kind == "lm-eval" else start
        first = max(done, start + 1) if kind == "hf" else done
        if first < stop:
            result.append(Window(begin, first, stop))
        done = stop
        start += stride
    return result
