"""Which replica a call is sent to."""

from collections import OrderedDict
from collections.abc import Sequence

from harness.engine.endpoint.http.job import Job
from harness.engine.endpoint.http.replica import Replica

_GROUPS = 4096  # whose replica is remembered
_ROUNDS = 2  # of calls that wait at one replica before another one gets their group


class Placement:
    """Chooses replicas; calls of one group go to the same one, which has their prefix in memory."""

    def __init__(self, replicas: Sequence[Replica], concurrency: int) -> None:
        self._replicas = replicas
        self._crowd = _ROUNDS * concurrency
        self._homes: OrderedDict[int, Replica] = OrderedDict()

    def replica_of(self, job: Job) -> Replica:
        """The replica of a call: the only one allowed, that of its group, or the least busy.

        A group moves to a replica that has nothing to do once too many calls wait at its own.
        """
        if job.replica is not None:
            return self._replicas[job.replica]
        up = [replica for replica in self._replicas if replica.up] or self._replicas
        free = min(up, key=lambda replica: replica.load)
        if job.call.group is None or len(self._replicas) == 1:
            return free
        group = hash(job.call.group)  # which costs less memory, and may be that of two groups
        home = self._homes.get(group, free)
        if home not in up or (len(home.waiting) >= self._crowd and not free.load):
            home = free
        self._homes[group] = home
        self._homes.move_to_end(group)
        if len(self._homes) > _GROUPS:
            self._homes.popitem(last=False)
        return home
