"""Hands calls to replicas, repeats those that fail, and waits for servers that are down."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from harness.engine.endpoint.call import Call
from harness.engine.endpoint.http.job import Job
from harness.engine.endpoint.http.patience import Patience, Unanswered
from harness.engine.endpoint.http.placement import Placement
from harness.engine.endpoint.http.replica import Replica
from harness.engine.endpoint.http.retries import Failure, pause
from harness.errors import EndpointError

log = logging.getLogger(__name__)

_PROBE = Call("v1/models")
_DIRECT_ATTEMPTS = 3  # of a call that is not patient, after an internal error


class Dispatcher:
    """Hands jobs to replicas; used in the thread of the transport alone.

    A replica that breaks a connection, lets a call time out or stands behind a gateway that says
    so gets no more calls until it has answered a small one, and `check` has found the same model
    there. Its calls go to the others meanwhile, or wait if there are none.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        check: Callable[[int], None],
        *,
        concurrency: int,
        timeout: float,
        patience: float,
    ) -> None:
        self._replicas = replicas
        self._check = check  # blocks; runs in a thread of its own
        self._concurrency = concurrency
        self._timeout = timeout
        self._patience = Patience(replicas, patience)
        self._placement = Placement(replicas, concurrency)
        self._jobs: set[Job] = set()
        self._revivals: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None  # of `check`: nothing more is sent

    def submit(self, jobs: Iterable[Job]) -> None:
        """Send calls as soon as their replica has room."""
        for job in jobs:
            if not self._jobs:
                for replica in self._replicas:
                    replica.forgive()
            self._jobs.add(job)
            if self._failure is not None:
                self._finish(job, None, self._failure)
            elif job.direct:
                assert job.replica is not None, "a call that is not patient names its replica"
                self._start(job, self._direct(self._replicas[job.replica], job))
            else:
                self._place(job)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drop calls, and break the connections of those in flight."""
        for job in jobs:
            job.live = False
            self._jobs.discard(job)
            if job.task is not None:
                job.task.cancel()

    def stop(self, error: BaseException) -> None:
        """End all calls with an error, now and from now on."""
        self._failure = error
        for job in list(self._jobs):
            self._finish(job, None, error)
            if job.task is not None:
                job.task.cancel()

    async def aclose(self) -> None:
        """Close all connections."""
        for task in self._revivals:
            task.cancel()
        for replica in self._replicas:
            await replica.client.aclose()

    def _finish(self, job: Job, reply: object, error: BaseException | None = None) -> None:
        self._jobs.discard(job)
        job.finish(reply, error)

    def _start(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        job.task = asyncio.get_running_loop().create_task(work)
        job.task.add_done_callback(lambda task: self._ended(job, task))

    def _ended(self, job: Job, task: asyncio.Task[None]) -> None:
        """Hand over an exception that is a defect, such as a body that is no JSON."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._finish(job, None, error)

    # Attempts

    def _place(self, job: Job) -> None:
        replica = self._placement.replica_of(job)
        replica.waiting.append(job)
        self._pump(replica)

    def _pump(self, replica: Replica) -> None:
        while replica.up and replica.waiting and replica.busy < self._concurrency:
            job = replica.waiting.popleft()
            if job.live:
                replica.busy += 1
                self._start(job, self._run(replica, job))

    async def _run(self, replica: Replica, job: Job) -> None:
        try:
            while (wait := await self._attempt(replica, job)) is not None:
                await asyncio.sleep(wait)
                if not replica.up:
                    break
        finally:
            replica.busy -= 1
            self._pump(replica)
        if job.live:
            self._place(job)

    async def _attempt(self, replica: Replica, job: Job) -> float | None:
        """Try once; return the seconds until the next attempt there, None if there is none."""
        begun = monotonic()
        job.since = job.since or begun
        job.attempts += 1
        try:
            reply = await replica.client.ask(job.call, self._timeout)
        except Failure as failure:
            replica.failed(failure, begun)
            return self._repeat(replica, job, failure)
        except EndpointError as error:
            self._answered(replica, job, error=error)
        else:
            self._answered(replica, job, reply)
        return None

    def _repeat(self, replica: Replica, job: Job, failure: Failure) -> float | None:
        """Decide what follows a failure; return the seconds until the next attempt here, if any."""
        error = self._patience.error_of(replica, job, failure)
        if error is not None:
            self._finish(job, None, error)
            if not replica.answered:
                return None
        wait = self._patience.wait(replica, failure)
        if failure.down or self._patience.others(replica):
            self._lose(replica, wait)
        elif error is None:
            return wait
        return None

    async def _direct(self, replica: Replica, job: Job) -> None:
        """Attempts of a call that is not patient: repeated only if the server is busy."""
        while job.live:
            begun = monotonic()
            job.attempts += 1
            try:
                reply = await replica.client.ask(job.call, self._timeout)
            except Failure as failure:
                replica.failed(failure, begun)
                spent = failure.status == 500 and job.attempts >= _DIRECT_ATTEMPTS
                if failure.status is None or spent or self._patience.over(job, failure):
                    self._finish(job, None, self._patience.unanswered(job, failure.status))
                else:
                    await asyncio.sleep(self._patience.wait(replica, failure))
            except EndpointError as error:
                self._answered(replica, job, error=error)
            else:
                self._answered(replica, job, reply)

    def _answered(
        self,
        replica: Replica,
        job: Job,
        reply: object = None,
        *,
        error: EndpointError | None = None,
    ) -> None:
        replica.replied()
        if replica.noted:
            replica.noted = False
            log.warning("the model server at %s answers again", replica.name)
        self._finish(job, reply, error)

    # Servers that are down

    def _lose(self, replica: Replica, wait: float) -> None:
        """Send nothing more to a replica until it is back."""
        if not replica.up:
            return
        replica.up = False
        self._move(replica)
        task = asyncio.get_running_loop().create_task(self._revive(replica, wait))
        self._revivals.add(task)
        task.add_done_callback(self._revivals.discard)

    def _move(self, replica: Replica) -> None:
        """Place the calls that wait at a replica again."""
        jobs = list(replica.waiting)
        replica.waiting.clear()
        for job in jobs:
            if job.live:
                self._place(job)

    async def _revive(self, replica: Replica, wait: float) -> None:
        """Wait until a replica is back, and send calls there again."""
        while not replica.up:
            await asyncio.sleep(wait)
            begun = monotonic()
            try:
                await self._look(replica)
                replica.up = True
            except Failure as failure:
                replica.failed(failure, begun)
                wait = self._patience.wait(replica, failure)
            except Unanswered:
                wait = pause(replica.failures, None)
            except Exception as error:  # of the check: another model, or a defect
                self.stop(error)
                return
            self._expire()
        for other in self._replicas:
            if not other.up:
                self._move(other)
        self._pump(replica)

    async def _look(self, replica: Replica) -> None:
        """Ask a replica that may be back, and check what it serves.

        Raises:
            Failure: it is not back.
            Unanswered: it does not answer the check.
        """
        with suppress(EndpointError):  # a refusal shows that it is back, too
            await replica.client.ask(_PROBE, self._timeout)
        if replica.doubted:
            await asyncio.to_thread(self._check, replica.index)
            replica.doubted = False

    def _expire(self) -> None:
        """Give up the calls that have waited too long."""
        for replica in self._replicas:
            for job in [job for job in replica.waiting if job.live and self._patience.over(job)]:
                self._finish(job, None, self._patience.unanswered(job))
