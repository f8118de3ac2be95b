"""Every error that a user can cause, in one small tree.

    HarnessError            one line: what was given, what was expected, what to do; exit code 2
    +-- UsageError          an unknown benchmark, option or value
    +-- DataError           rows missing, malformed, or not the published ones under --strict
    +-- PromptError         a template and the fields given to it do not fit
    +-- PluginError         an entry point that is no Task, or not the one it says
    +-- CheckpointError     a model that cannot be loaded, or is no causal language model
    +-- RequestError        one request is at fault; the message names its item
    |   +-- EncodingError       it cannot become tokens, or breaks a rule under --strict
    |   +-- NumericsError       its score is not a number
    +-- RecordError         a record that cannot be written or read

`harness.cli.group` catches `HarnessError` once and prints it; anything else keeps its traceback.
"""


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
