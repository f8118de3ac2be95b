"""What is known about one replica: the calls there, whether it answers, and since when not."""

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from harness.engine.endpoint.http.job import Job
from harness.engine.endpoint.http.retries import Failure

if TYPE_CHECKING:
    from harness.engine.endpoint.http.client import Client


class Replica:
    """One server; used in the thread of the transport alone."""

    def __init__(self, index: int, client: "Client") -> None:
        self.index = index
        self.client = client
        self.waiting: deque[Job] = deque()  # in the order in which they are sent
        self.busy = 0  # calls in flight, and those that pause between attempts
        self.up = True  # calls are sent there
        self.answered = False  # ever
        self.failures = 0  # one after another since its last reply; those that overlap are one
        self.reason = ""  # of the last failure
        self.doubted = False  # it may serve another model since then
        self.noted = False  # the user knows that it does not answer
        self._replied = monotonic()
        self._silent: float | None = None
        self._failed = 0.0  # when the last failure was seen

    @property
    def name(self) -> str:
        """Its address."""
        return self.client.root

    @property
    def load(self) -> int:
        """Calls that are waiting or in flight."""
        return len(self.waiting) + self.busy

    @property
    def silence(self) -> float:
        """Seconds without any reply, counted from the start of the first call that failed."""
        return 0.0 if self._silent is None else monotonic() - self._silent

    def replied(self) -> None:
        """A call has its reply, be it a refusal."""
        self._replied = monotonic()
        self._silent, self.failures, self.answered = None, 0, True

    def failed(self, failure: Failure, begun: float) -> None:
        """An attempt that began at `begun` has failed."""
        if self._silent is None:
            self._silent = max(self._replied, begun)
        # All calls in flight fail with one outage, which is no reason to wait longer.
        if begun >= self._failed:
            self.failures += 1
        self._failed = monotonic()
        self.reason = str(failure)
        self.doubted |= failure.down

    def replied_since(self, moment: float) -> bool:
        """Whether any call has got its reply after a moment."""
        return self.answered and self._replied > moment

    def forgive(self) -> None:
        """Count silence from now on: nobody has been waiting until now."""
        if self._silent is not None:
            self._silent = monotonic()
