"""A job: a call that waits for its reply, through as many attempts as that takes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.engine.endpoint.call import Call


@dataclass(eq=False, slots=True)
class Job:
    """A call on its way; all fields but the first five change in the thread of the transport."""

    call: Call
    done: Callable[["Job", Any, BaseException | None], None]  # takes the reply or the error
    key: Any = None  # of the caller's own
    replica: int | None = None  # the only one that may answer; None: any
    direct: bool = False
    """Sent to its replica at once, whatever is known about it; a broken connection is an error."""
    attempts: int = 0
    since: float = 0.0  # when its first attempt began
    live: bool = True  # nobody has cancelled it, and it has neither a reply nor an error
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def finish(self, reply: Any, error: BaseException | None = None) -> None:
        """Hand over the reply or the error, once."""
        if self.live:
            self.live = False
            self.done(self, reply, error)
