"""When a call is given up, what the user is told then, and how long it waits until then."""

import logging
from collections.abc import Sequence

from harness.engine.endpoint.http.job import Job
from harness.engine.endpoint.http.replica import Replica
from harness.engine.endpoint.http.retries import Failure, pause
from harness.errors import EndpointError

log = logging.getLogger(__name__)

_NOTED = 1.0  # seconds of waiting that are worth a note
_SHORTEST = 0.05  # seconds between attempts


class Unanswered(EndpointError):
    """A server gave no reply, however often it was asked."""


class Patience:
    """Seconds without any reply, at all replicas that may answer a call, until it is given up."""

    def __init__(self, replicas: Sequence[Replica], seconds: float) -> None:
        self._replicas = replicas
        self._seconds = seconds

    def others(self, replica: Replica) -> int:
        """How many other replicas are up."""
        return sum(other.up for other in self._replicas if other is not replica)

    def over(self, job: Job, failure: Failure | None = None) -> bool:
        """Whether it is over, or will be before the server wants to be asked again."""
        wanted = 0.0 if failure is None else failure.wait or 0.0
        silence = min(replica.silence for replica in self._candidates(job))
        return silence > 0 and silence + wanted >= self._seconds

    def wait(self, replica: Replica, failure: Failure) -> float:
        """The seconds before the next attempt, as far as patience allows; long ones are noted."""
        wait = pause(replica.failures, failure.wait)
        wait = min(wait, max(self._seconds - replica.silence, _SHORTEST))
        if not replica.noted and replica.silence + wait >= _NOTED:
            replica.noted = True
            others = self.others(replica)
            log.warning(
                "the model server at %s %s; %s",
                replica.name,
                failure,
                f"going on with {others} of {len(self._replicas)} servers"
                if others
                else f"trying again for up to {self._seconds:g} s",
            )
        return wait

    def error_of(self, replica: Replica, job: Job, failure: Failure) -> EndpointError | None:
        """The error of a call that is not tried again after a failure; None if it is."""
        candidates = self._candidates(job)
        hope = any(other.answered or not other.failures for other in candidates)
        if (failure.status is None and not hope) or self.over(job, failure):
            return self.unanswered(job)
        spent = failure.attempts is not None and job.attempts >= failure.attempts
        if spent and any(other.replied_since(job.since) for other in candidates):
            return EndpointError(
                f"the model server at {replica.name} {failure}, after {job.attempts} attempts of "
                f"the same call of {job.call.path}, while it answers others",
                failure.status,
            )
        return None

    def unanswered(self, job: Job, status: int | None = None) -> Unanswered:
        """The error of a call that has got no reply."""
        candidates = self._candidates(job)
        reasons = " and ".join(f"{replica.name} {replica.reason}" for replica in candidates)
        if job.direct or not any(replica.answered for replica in candidates):
            return Unanswered(f"{reasons}; is a model server running at this address?", status)
        seconds = min(replica.silence for replica in candidates)
        return Unanswered(
            f"{reasons}; no reply for {seconds:.0f} s (--patience waits longer, and what was "
            "answered is in the response cache)"
        )

    def _candidates(self, job: Job) -> Sequence[Replica]:
        """The replicas that may answer a call."""
        return self._replicas if job.replica is None else [self._replicas[job.replica]]
