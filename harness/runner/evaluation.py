"""A job that is run part by part; `evaluate` runs all parts at once."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.canaries.canaries import refuse
from harness.core import Tokens
from harness.errors import NumericsError
from harness.records.outcomes import Outcomes
from harness.records.provenance import environment
from harness.records.record import Record
from harness.runner.job import Job, Observer, Prepared, prepare
from harness.runner.parts import parts_of
from harness.runner.results import Results
from harness.runner.rounds import Rounds

if TYPE_CHECKING:
    from harness.engine.engine import Engine


class Evaluation:
    """A job and an engine, whose parts are answered in any order.

    Args:
        job: if it is strict, a warning is an error.
        engine: with the checkpoint.
        observer: callbacks.
        prepared: the result of `prepare` for this job, if it was called before.

    Attributes:
        parts: what can be answered on its own, in the order of the data.

    Raises:
        HarnessError: any of its kinds.
    """

    def __init__(
        self,
        job: Job,
        engine: "Engine",
        observer: Observer | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        begun = time.perf_counter()
        self._job, self._engine = job, engine
        self._prepared = prepared = prepared or prepare(job)
        task, options = job.task, job.protocol.options
        # Before anything is computed: an error in them must not cost the scores.
        self._notes = task.notes(prepared.examples, options) if task.notes else {}
        self._results = Results(tuple(task.measures(options)))
        measures = self._results.measures
        self.parts = parts_of(task, measures, prepared.examples, prepared.groups)
        self._rounds = Rounds(job, prepared, engine, observer or Observer(), self._results)
        self._used: set[int] = set()  # numbers of parts
        self._tokens = Tokens()
        self._seconds = time.perf_counter() - begun

    def answer(self, parts: Iterable[int]) -> None:
        """Compute the outcomes of these parts, given by their numbers; those known are skipped.

        After an error nothing of these parts counts as known, but what the response cache holds
        is not computed again.

        Raises:
            HarnessError: any of its kinds; the message names the example of a bad request.
        """
        begun, before = time.perf_counter(), self._engine.tokens
        new = sorted({*parts} - self._used)
        try:
            answered = self._rounds.answer(s for n in new for s in self.parts[n].stretches)
        finally:
            self._tokens += self._engine.tokens - before
            self._seconds += time.perf_counter() - begun
        self._results.answered |= answered
        self._used.update(new)

    def outcomes(self) -> Outcomes:
        """The outcomes of all parts that were answered."""
        return self._results.table(self._prepared.examples)

    def record(self, stopped: Mapping[str, Any] | None = None) -> Record:
        """The record of all parts that were answered.

        Args:
            stopped: why not all of them were, as in `Record.stopped`; `used` and `of` are added.
                It is left out of the record if all were answered.

        Raises:
            NumericsError: no part was answered, or a score is not finite.
            CanaryError: the job is strict, and there is a warning.
        """
        begun, job, results = time.perf_counter(), self._job, self._results
        used, of = len(self._used), len(self.parts)
        if not used:
            raise NumericsError(f"{job.task.name}: no part was answered; expected at least one")
        stopped = {"reason": "", **(stopped or {}), "used": used, "of": of} if used < of else None
        scores = results.scores(job, used if stopped else None)
        requests, flags = self._rounds.asked()
        warnings = self._rounds.watched().warnings(scores, self._tokens, flags, requests)
        if job.strict:
            refuse(warnings, job.task.name)
        prompt, options = self._prepared.prompt, job.protocol.options
        return Record(
            task=job.task.name,
            version=job.task.version,
            protocol=job.protocol.label,
            options={k: int(v) if v.isdigit() else v for k, v in options.items()},
            model=asdict(self._engine.identity),
            data=job.data.facts(),
            prompt={"name": prompt.name, "sha256": prompt.sha256} if prompt.name else None,
            pool=job.pool.facts() if job.pool else None,
            limit=job.limit,
            seed=job.seed,
            rows=self._prepared.rows,
            examples=self._scored() if job.task.stream else results.scored_examples(),
            requests=requests,
            scores=scores,
            tokens=self._tokens,
            seconds=self._seconds + time.perf_counter() - begun,
            preflight=flags,
            notes=dict(self._notes),
            engine=self._engine.describe(),
            environment=environment(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            warnings=warnings,
            stopped=stopped,
            outcomes=results.table(self._prepared.examples),
        )

    def _scored(self) -> int:
        """The number of rows of running text in the parts that were answered.

        Its unit is a line, and a line is a piece of a text or a text of its own.
        """
        if len(self._used) == len(self.parts):
            return self._prepared.rows
        return sum(len(s.pieces) for number in self._used for s in self.parts[number].stretches)


def evaluate(
    job: Job, engine: "Engine", observer: Observer | None = None, prepared: Prepared | None = None
) -> Record:
    """Run a job.

    Args:
        job: if it is strict, a warning is an error.
        engine: with the checkpoint.
        observer: callbacks.
        prepared: the result of `prepare` for this job, if it was called before.

    Raises:
        HarnessError: any of its kinds; the message names the example of a bad request.
    """
    evaluation = Evaluation(job, engine, observer, prepared)
    evaluation.answer(range(len(evaluation.parts)))
    return evaluation.record()
