"""Every error that a user can cause, in one small tree.

    HarnessError            one line: what was given, what was expected, what to do; exit code 2
    +-- UsageError          an unknown benchmark, option or value
    +-- DataError           rows missing, malformed, or not the published ones under --strict
    +-- PromptError         a template and the fields given to it do not fit
    +-- PluginError         an entry point that is no Task, or not the one it says
    +-- TaskError           a benchmark's own function raises, or returns what it must not
    +-- CheckpointError     a model that cannot be loaded, or is no causal language model
    +-- RequestError        one request is at fault; the message names its item
    |   +-- EncodingError       it cannot become tokens, or breaks a rule under --strict
    |   +-- NumericsError       its score is not a number
    +-- RecordError         a record that cannot be written or read

`harness.cli.group` catches `HarnessError` once and prints it; anything else keeps its traceback.
"""

import re
import sys
import traceback
from pathlib import Path
from textwrap import shorten
from typing import Any

_MAX_REASON_CHARS = 160


class HarnessError(Exception):
    """Base of all errors whose message is meant for the person at the terminal."""


class UsageError(HarnessError):
    """The command line or a call names something that does not exist."""


class DataError(HarnessError):
    """Benchmark data is missing, malformed, or fails its checksum under --strict."""


class PromptError(HarnessError):
    """A prompt template and the fields given to it do not fit."""


class PluginError(HarnessError):
    """An entry point in the group `harness.tasks` does not lead to the task it names."""


class CheckpointError(HarnessError):
    """A model or its tokenizer cannot be loaded or cannot be scored."""


class TaskError(HarnessError):
    """A function of a benchmark raises, or returns something of the wrong type.

    The benchmark's own error, with its traceback, is the cause of this one.
    """


class RequestError(HarnessError):
    """Something is wrong with one request; `request` is its index in the list that was asked."""

    def __init__(self, message: str, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


class EncodingError(RequestError):
    """A request cannot be turned into tokens, or is refused by --strict."""


class NumericsError(RequestError):
    """A score came out as NaN or infinite."""


class RecordError(HarnessError):
    """A record or table cannot be written, or a file is no record."""


def in_one_line(error: BaseException) -> str:
    """What was raised and where: `ZeroDivisionError: division by zero (rhymes.py:34)`.

    The place is the innermost one outside this package and the standard library.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = (__package__, *sys.stdlib_module_names)
    outside = [
        (frame, line)
        for frame, line in frames
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in own
    ]
    text = " ".join(str(error).split())[:200]
    said = f"{type(error).__name__}{f': {text}' if text else ''}"
    if not frames:
        return said
    frame, line = (outside or frames)[-1]
    return f"{said} ({Path(frame.f_code.co_filename).name}:{line})"


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
