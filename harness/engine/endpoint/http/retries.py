"""Which failures of a call are worth another attempt, and how long to wait for it."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Attempts of a call that fails while the server answers others.
ATTEMPTS, LATE_ATTEMPTS = 8, 3

_FIRST, _LONGEST = 0.25, 15.0  # seconds
_GATEWAY = (502, 503, 504)  # from whatever stands before a server, or while it starts
_RETRIED = (429, 500, *_GATEWAY)


class Failure(Exception):
    """One attempt failed, and another may succeed; the text says why, as `does not answer (...)`.

    Args:
        reason: why.
        status: of HTTP; None if the connection broke or no reply came in time.
        wait: seconds that the server asks to wait.
        attempts: how many are made if this call may be the cause, rather than the state of the
            server, so that others are answered meanwhile; None: any number.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        wait: float | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.status, self.wait, self.attempts = status, wait, attempts

    @property
    def down(self) -> bool:
        """Whether the server may be down or another one, so that nothing else is sent there."""
        return self.status is None or self.status in _GATEWAY


def refusal(status: int, message: str, retry_after: str | None) -> Failure | None:
    """The failure that a status of HTTP stands for; None: the call is refused for good."""
    if status not in _RETRIED:
        return None
    wait = None if retry_after is None else seconds_of(retry_after)
    asked = f" (to be asked again after {wait:.0f} s)" if wait else ""
    return Failure(
        f"answers with HTTP {status}: {message}{asked}",
        status=status,
        wait=wait,
        attempts=ATTEMPTS if status in (500, 504) else None,
    )


def seconds_of(retry_after: str) -> float | None:
    """Seconds to wait by a header `Retry-After`, a number or a date; None if it is neither."""
    try:
        return max(0.0, float(int(retry_after)))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def pause(failures: int, wait: float | None) -> float:
    """Seconds before the next attempt, after so many failures in a row.

    They double up to 15, and are random by half, so that calls that failed together do not come
    back together.
    """
    doubled = min(_LONGEST, _FIRST * 2.0 ** min(failures - 1, 10))
    return max(wait or 0.0, 0.0) + doubled * random.uniform(0.5, 1.0)
