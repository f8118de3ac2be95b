"""Every error that a user can cause, in one small tree.

    HarnessError            one line: what was given, what was expected, what to do; exit code 2
    +-- UsageError          an unknown task, option or value
    +-- DataError           rows that are missing, malformed or, under --strict, not the published
    +-- PromptError         a template that does not fit the fields given to it
    +-- PluginError         an entry point that does not lead to the task it names
    +-- TaskError           a function of a task that raises or returns something wrong
    +-- CheckpointError     a model that cannot be loaded or is not a causal language model
    |   +-- EndpointError       a model server that cannot be reached, or fails the self-test
    +-- RequestError        one request, named by its example
    |   +-- EncodingError       it cannot become tokens, or breaks a rule of --strict
    |   +-- NumericsError       its score is not a finite number
    |   +-- ResponseError       a model server refused it, or answered it wrongly
    +-- CanaryError         the canaries of a run warn, under --strict
    +-- RecordError         a record that cannot be written or read

`harness.cli.group` prints a `HarnessError`; any other exception keeps its traceback.
"""

import re
import sys
import traceback
from pathlib import Path
from textwrap import shorten
from typing import Any

_MAX_REASON_CHARS = 160
_MAX_TEXT_CHARS = 200


class HarnessError(Exception):
    """Base of all errors that are shown to the user as one line."""


class UsageError(HarnessError):
    """A command or a call names something that does not exist or does not go together."""


class DataError(HarnessError):
    """Data is missing, malformed or, under --strict, fails its checksum."""


class PromptError(HarnessError):
    """A prompt template does not exist or does not fit the fields given to it."""


class PluginError(HarnessError):
    """An entry point in the group `harness.tasks` does not lead to the task it names."""


class CheckpointError(HarnessError):
    """A model or its tokenizer cannot be loaded or used."""


class TaskError(HarnessError):
    """A function of a task raises or returns something wrong; its own error is the cause."""


class EndpointError(CheckpointError):
    """A model server cannot be reached, refuses a call, or fails the self-test.

    `status` is that of HTTP, if the server refused a call; `key` names that call, for whoever
    sent it with others.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.key: Any = None


class RequestError(HarnessError):
    """A request cannot be answered.

    `request` is its index in the list given to the engine, `query` the engine's query of it.
    """

    def __init__(self, message: str, request: int | None = None, *, query: Any = None) -> None:
        super().__init__(message)
        self.request = request
        self.query = query


class EncodingError(RequestError):
    """A request cannot become tokens, or is refused by --strict."""


class NumericsError(RequestError):
    """A score is NaN or infinite."""


class ResponseError(RequestError):
    """A model server refused one request, or its answer is not one to that request."""


class CanaryError(HarnessError):
    """The canaries of a run warn, which --strict refuses; its answers are in the cache."""


class RecordError(HarnessError):
    """A record or table cannot be written, or a file is not a record."""


def in_one_line(error: BaseException) -> str:
    """An exception and its place: `ZeroDivisionError: division by zero (rhymes.py:34)`.

    The place is the innermost one outside this package and the standard library.
    """
    text = " ".join(str(error).split())[:_MAX_TEXT_CHARS]
    line = f"{type(error).__name__}{f': {text}' if text else ''}"
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return line
    internal = (__package__, *sys.stdlib_module_names)
    outside = [
        (frame, number)
        for frame, number in frames
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in internal
    ]
    frame, number = (outside or frames)[-1]
    return f"{line} ({Path(frame.f_code.co_filename).name}:{number})"


def short_reason(error: BaseException) -> str:
    """An error's text on one line, without its last sentences if it is long."""
    text = " ".join(str(error).split()) or "no reason given"
    if len(text) <= _MAX_REASON_CHARS:
        return text
    sentences = [end.start() for end in re.finditer(r"(?<=[.!?]) ", text[:_MAX_REASON_CHARS])]
    if sentences and sentences[-1] >= _MAX_REASON_CHARS // 4:
        return text[: sentences[-1]]
    return shorten(text, width=_MAX_REASON_CHARS, placeholder=" ...")


def clipped_repr(value: Any, max_chars: int = 80) -> str:
    """`repr(value)`, cut after `max_chars` characters."""
    text = repr(value)
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."
