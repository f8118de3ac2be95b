"""Results of self-tests, kept in `self_tests.json` in the user's cache.

A result is used only for the same test of the same sizes, and under the same key, which includes
everything that can change it.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from harness.engine.checkpoint.digest import cache_root
from harness.files.atomic import replace_content

log = logging.getLogger(__name__)

FILE = "self_tests.json"
VERSION = 1  # raised with every change of a self-test that can change its result
_MAX_STORED = 4096  # results; the oldest are dropped


class NotStored(str):
    """A result that is not stored: an error led to it, which another run may not meet."""

    __slots__ = ()


class SelfTestResults:
    """The results of one checkpoint.

    Args:
        key: everything besides the test that can change a result; None stores nothing, so that
            every test runs.
    """

    def __init__(self, key: str | None = None) -> None:
        self._key = f"{key}|self-tests:{VERSION}"
        self._path = None if key is None else cache_root() / FILE
        self._stored = {} if self._path is None else _read(self._path)

    def get(self, name: str, test: Callable[[], str]) -> str:
        """The stored result of a test, or that of running it now.

        Args:
            name: of the test, with the sizes that it covers.
            test: returns its result, usually what is wrong, or nothing.
        """
        entry = f"{self._key}|{name}"
        if entry in self._stored:
            return self._stored[entry]
        result = test()
        if self._path is not None and not isinstance(result, NotStored):
            self._stored[entry] = result
            _write(self._path, entry, result)
        return result


def _read(path: Path) -> dict[str, str]:
    """The results in a file; none if it is missing or damaged."""
    try:
        entries = json.loads(path.read_text("utf-8")).items()
    except (OSError, ValueError, RecursionError, AttributeError):
        return {}
    return {name: result for name, result in entries if isinstance(result, str)}


def _write(path: Path, entry: str, result: str) -> None:
    """Add a result to a file; without it, the test runs again next time."""
    results = {**_read(path), entry: result}  # another process may have added some meanwhile
    try:
        replace_content(path, json.dumps(dict(list(results.items())[-_MAX_STORED:])).encode())
    except OSError as error:
        log.debug("self-tests are not stored: %s", error)
