"""The thread in which asyncio runs, and the way into it for other threads."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

from harness.engine.endpoint.http.dispatcher import Dispatcher
from harness.engine.endpoint.http.job import Job
from harness.errors import EndpointError

_CLOSING = 5.0  # seconds
_CLOSED = "the connection to the model server has been closed"


class LoopThread:
    """Runs a dispatcher; its methods are called by any other thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready, self._end = threading.Event(), asyncio.Event()
        # Reentrant: an iterator that is garbage may cancel its calls in the middle of an entry.
        self._entry, self._is_open = threading.RLock(), True
        self._thread = threading.Thread(target=self._run, name="model server", daemon=True)
        self._thread.start()
        self._ready.wait()

    def submit(self, jobs: Iterable[Job]) -> None:
        """Have calls sent."""
        if not self._enter(self._dispatcher.submit, list(jobs)):
            raise EndpointError(_CLOSED)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Have those calls dropped that are not finished."""
        if unfinished := [job for job in jobs if job.live]:
            self._enter(self._dispatcher.cancel, unfinished)

    def close(self) -> None:
        """End all calls, and wait until the connections are closed."""
        self._enter(self._end.set)
        self._thread.join(_CLOSING)

    def _enter(self, function: Callable[..., object], *args: Any) -> bool:
        """Call a function in the thread; return False if it has ended."""
        assert self._loop is not None
        with self._entry:
            if self._is_open:
                self._loop.call_soon_threadsafe(function, *args)
            return self._is_open

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._end.wait()
        try:
            self._dispatcher.stop(EndpointError(_CLOSED))
            await asyncio.sleep(0)  # cancelled calls break their connections
            await self._dispatcher.aclose()
        finally:
            with self._entry:
                self._is_open = False
            await asyncio.sleep(0)  # runs what has just entered, and a closed loop would drop
