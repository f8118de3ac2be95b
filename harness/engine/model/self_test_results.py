"""Results of self-tests, kept in `self_tests.json` in the user's cache.

A result is used only for the same test of the same sizes, and under the same key, which includes
everything that can change it.
"""

from collections.abc import Callable
from typing import Any

from harness.engine.checkpoint.digest import cache_root, cached_entries, store_entry

FILE = "self_tests.json"
VERSION = 2  # raised with every change of a self-test that can change its result


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
        self._stored: dict[str, str] = {}
        if self._path is not None:
            self._stored = cached_entries(self._path, _is_result)

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
            store_entry(self._path, entry, result, _is_result)
        return result


def _is_result(entry: Any) -> bool:
    return isinstance(entry, str)
