"""Calls to model servers: many at once, repeated when they fail, over connections that are kept.

The work is done by asyncio in a thread of the transport's own, and nothing of it is seen outside:
callers block, or pull replies from an iterator.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from harness.engine.endpoint.call import Call
from harness.engine.endpoint.http.address import roots
from harness.engine.endpoint.http.dispatcher import Dispatcher
from harness.engine.endpoint.http.job import Job
from harness.engine.endpoint.http.loop_thread import LoopThread
from harness.engine.endpoint.http.replica import Replica
from harness.engine.endpoint.settings import CONCURRENCY, PATIENCE, TIMEOUT
from harness.errors import EndpointError

K = TypeVar("K")
_Outcome = tuple[Job, Any, BaseException | None]

_AHEAD = 2  # calls that are pulled for each one that may be in flight


class Transport:
    """Sends calls to replicas of one model server, each to whichever is free.

    Calls are repeated after HTTP 429, 500, 502, 503 and 504, broken connections and time-outs,
    until `patience` seconds have passed without any reply. The first call of all is an exception:
    if there is no server at the address, that is an error at once.

    Args:
        urls: addresses of the replicas.
        concurrency: calls in flight at each replica.
        key: sent as `Authorization: Bearer`, and in no message.
        timeout: seconds until a call is given up and repeated.
        patience: seconds without any reply until calls end with an error.

    Attributes:
        urls: roots of the replicas, without `/v1`.
        on_return: called with the index of a replica that was down before anything else is sent
            there, in a thread of its own; it may use `call`, which then asks that replica. What it
            raises ends all calls. A replica that restarts while it has no call is not noticed.

    Raises:
        UsageError: an address cannot be used.
        EndpointError: the key cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        concurrency: int = CONCURRENCY,
        key: str | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        from harness.engine.endpoint.http.client import Client  # loads httpcore2

        self.urls = roots(urls)
        self.on_return: Callable[[int], None] | None = None
        if key is not None and not re.fullmatch("[!-~]+", key):
            raise EndpointError("the key of the model server is not printable ASCII without spaces")
        self._window = _AHEAD * concurrency * len(self.urls)
        self._checking = threading.local()  # `replica` in the thread that checks it
        clients = [Client(url, connections=concurrency, key=key) for url in self.urls]
        self._replicas = [Replica(index, client) for index, client in enumerate(clients)]
        dispatcher = Dispatcher(
            self._replicas,
            self._check,
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
        )
        self._loop = LoopThread(dispatcher)

    @property
    def up(self) -> list[int]:
        """The indices of the replicas that are not known to be down."""
        return [replica.index for replica in self._replicas if replica.up]

    def call(self, call: Call, *, replica: int | None = None, patient: bool = True) -> Any:
        """The parsed JSON that a call returns.

        Args:
            call: what is sent.
            replica: the index of the only one that may answer.
            patient: whether it is repeated after a broken connection.

        Raises:
            EndpointError: the server refuses the call, or cannot be reached.
        """
        outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        job = self._job(call, outcomes, None)
        if not job.direct:
            job.direct = not patient
            job.replica = 0 if replica is None and not patient else replica
        try:
            self._loop.submit([job])
            return self._reply(outcomes.get())
        finally:
            self._loop.cancel([job])

    def send(self, calls: Iterable[tuple[K, Call]]) -> Iterator[tuple[K, Any]]:
        """The parsed JSON that each call returns, with its key, as soon as it is there.

        Calls are pulled while room for them is left in flight, so that neither calls nor replies
        pile up. Those in flight are cancelled when the iterator is closed.

        Raises:
            EndpointError: as `call`; `key` is that of the call.
        """
        outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        source = iter(calls)
        pending: set[Job] = set()
        exhausted = False
        try:
            while pending or not exhausted:
                new: list[Job] = []
                while not exhausted and len(pending) < self._window:
                    pair = next(source, None)
                    if pair is None:
                        exhausted = True
                        break
                    job = self._job(pair[1], outcomes, pair[0])
                    pending.add(job)
                    new.append(job)
                if new:
                    self._loop.submit(new)
                if pending:
                    outcome = outcomes.get()
                    pending.discard(outcome[0])
                    yield outcome[0].key, self._reply(outcome)
        finally:
            self._loop.cancel(pending)

    def close(self) -> None:
        """Cancel what is in flight and close all connections."""
        self._loop.close()

    def __repr__(self) -> str:
        return f"Transport({', '.join(self.urls)})"

    def _job(self, call: Call, outcomes: "SimpleQueue[_Outcome]", key: object) -> Job:
        checked = getattr(self._checking, "replica", None)

        def done(job: Job, reply: Any, error: BaseException | None) -> None:
            outcomes.put((job, reply, error))

        return Job(call, done, key, replica=checked, direct=checked is not None)

    def _reply(self, outcome: _Outcome) -> Any:
        job, reply, error = outcome
        if isinstance(error, EndpointError):
            error.key = job.key
        if error is not None:
            raise error
        return reply

    def _check(self, replica: int) -> None:
        if self.on_return is None:
            return
        self._checking.replica = replica
        try:
            self.on_return(replica)
        finally:
            del self._checking.replica
