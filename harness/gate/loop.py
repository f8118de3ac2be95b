"""The loop of a gate: choose a benchmark, answer its next parts, look at the evidence, stop."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from harness.analysis.baseline import Baseline
from harness.analysis.check import Verdict
from harness.analysis.rules.tiers import fails
from harness.errors import CanaryError, RequestError, TaskError
from harness.gate.benchmark import Benchmark
from harness.gate.plan import Name
from harness.gate.pool import Pool, pool_of
from harness.gate.schedule import Schedule
from harness.gate.scores import Levels
from harness.gate.state import Cost, Identity, Slice, State
from harness.gate.verdicts import Verdicts
from harness.records.record import Record


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a gate stops before every verdict is in."""

    budget: float | None = None  # seconds
    fail_fast: bool = False  # at the first verdict that fails the build


@dataclass(frozen=True, slots=True)
class Stopped:
    """Why a gate stopped, and where."""

    reason: str
    used: int  # items
    of: int
    seconds: float


@dataclass(slots=True)
class Gate:
    """A gate that is run slice by slice."""

    benchmarks: Sequence[Benchmark]
    baseline: Baseline
    levels: Levels
    seed: int = 0  # of the order of the items
    stopping: Stopping = Stopping()
    reasons: Mapping[Name, str] = field(default_factory=dict)  # why benchmarks are not run
    clock: Callable[[], float] = time.monotonic
    slices: list[Slice] = field(default_factory=list)
    stopped: Stopped | None = None
    pool: Pool | None = field(init=False)
    verdicts: Verdicts = field(init=False)

    def __post_init__(self) -> None:
        self.pool = pool_of(benchmark.scores for benchmark in self.benchmarks)
        self.verdicts = Verdicts(self.baseline, self.benchmarks, self.pool, self.reasons)

    def run(self) -> Iterator[Slice]:
        """Answer slice after slice until the gate stops; `stopped` then says why."""
        begun = self.clock()
        schedule: Schedule[Name] = Schedule()
        total = sum(benchmark.cost.seconds for benchmark in self.benchmarks)
        by_name = {benchmark.name: benchmark for benchmark in self.benchmarks}
        while not (reason := self._reason(self.clock() - begun)):
            information = {
                benchmark.name: benchmark.information(self.levels)
                for benchmark in self.benchmarks
                if benchmark.runs_on
            }
            benchmark = by_name[schedule.next(information)]
            count = benchmark.next_slice(total, self.levels.looks)
            seconds = benchmark.cost.seconds * count / benchmark.items
            schedule.spent(benchmark.name, seconds, information[benchmark.name])
            self._answer(benchmark, count)
            yield self.slices[-1]
        used, of = self.items()
        self.stopped = Stopped(reason, used, of, self.clock() - begun)

    def _answer(self, benchmark: Benchmark, count: int) -> None:
        """Answer a slice; an error of one benchmark does not stop the others."""
        answered = Slice(" ".join(benchmark.name), count)
        try:
            benchmark.answer(count)
        except (RequestError, TaskError) as error:
            self.slices.append(answered)
            self.verdicts.fail(benchmark, str(error))
            return
        self.slices.append(answered)
        if self.pool:
            self.pool.add(benchmark.scores)
        self.verdicts.update()

    def items(self) -> tuple[int, int]:
        """How many items were used, and how many there are."""
        return sum(b.done for b in self.benchmarks), sum(b.items for b in self.benchmarks)

    def records(self) -> dict[Name, Record]:
        """The records of what was answered; a benchmark without an item has none."""
        stopped = {"reason": self.stopped.reason if self.stopped else "interrupted"}
        found = {}
        for benchmark in self.benchmarks:
            if not benchmark.done:
                continue
            try:
                found[benchmark.name] = benchmark.evaluation.record({**stopped, "seed": self.seed})
            except (RequestError, CanaryError) as error:
                self.verdicts.fail(benchmark, str(error))
        return found

    def state(
        self,
        identity: Identity,
        records: Mapping[str, str],
        verdicts: Sequence[Verdict] = (),
    ) -> State:
        """What `gate.json` holds.

        Args:
            identity: of the gate.
            records: that it has written, by benchmark.
            verdicts: at its end.
        """
        costs: dict[str, Cost] = {" ".join(b.name): b.cost for b in self.benchmarks}
        return State(
            identity,
            costs,
            self.slices,
            [_facts(verdict) for verdict in verdicts or self.verdicts.all()],
            asdict(self.stopped) if self.stopped else None,
            records,
        )

    def _reason(self, seconds: float) -> str:
        """Why the gate stops now; empty if it goes on."""
        if self.stopping.fail_fast and (verdict := self._failing()):
            return f"{verdict.task} {verdict.metric}: {verdict.status}"
        if not any(b.open and not b.failure for b in self.benchmarks):
            return "every verdict is in"
        if not any(benchmark.runs_on for benchmark in self.benchmarks):
            used, of = self.items()
            return "all items are used" if used == of else "the open scores have no items left"
        if self.stopping.budget is not None and seconds >= self.stopping.budget:
            return f"the budget of {self.stopping.budget:g} s is spent"
        return ""

    def _failing(self) -> Verdict | None:
        """The first verdict that is in and fails the build."""
        tiers = self.baseline.tiers
        found = self.verdicts.found.values()
        return next((v for v in found if fails(v.status, v.rule.tier, tiers)), None)


def _facts(verdict: Verdict) -> dict[str, object]:
    """A verdict as plain JSON values, without the numbers behind it."""
    names = ("task", "protocol", "metric", "status", "reason", "evidence", "items", "of")
    return {name: getattr(verdict, name) for name in names}
