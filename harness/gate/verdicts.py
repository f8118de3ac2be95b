"""The verdicts of a gate: which are in, and what the evidence says about the others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.analysis.baseline import Baseline, Key
from harness.analysis.check import POOL, Verdict, check, warnings_of
from harness.analysis.compare import ScoreComparison
from harness.analysis.rules.judge import (
    EMPTY_POOL,
    IN_POOL,
    NO_RULE,
    pooled_size,
    too_few,
    would_decide,
)
from harness.analysis.rules.rule import pooled_rule
from harness.analysis.rules.tiers import Status
from harness.analysis.runs import Run
from harness.gate.benchmark import Benchmark
from harness.gate.evidence import in_words
from harness.gate.plan import Name
from harness.gate.pool import Pool
from harness.gate.scores import GatedScore
from harness.records import signature
from harness.records.record import Record
from harness.stats.limits import more_items
from harness.stats.paired import Difference, holm

ALL_USED = "all items are used"


@dataclass(slots=True)
class Verdicts:
    """The verdicts so far; one that is in stays as it is."""

    baseline: Baseline
    benchmarks: Sequence[Benchmark]
    pool: Pool | None
    reasons: Mapping[Name, str]  # why benchmarks of the baseline are not run
    found: dict[Key, Verdict] = field(default_factory=dict)
    closed: bool = False  # whether the gate has stopped

    def __post_init__(self) -> None:
        benchmarks = {benchmark.name: benchmark for benchmark in self.benchmarks}
        for key in self.baseline.rules:
            benchmark = benchmarks.get(key[:2])
            if benchmark is None:
                self._refuse(key, self.reasons.get(key[:2], "the baseline has no run of it"))
            elif key[2] in benchmark.refused:
                self._refuse(key, benchmark.refused[key[2]])
        rule = pooled_rule(self.baseline.rules.values())
        few = too_few(self.pool.items, self.baseline.alpha) if self.pool else EMPTY_POOL
        if rule and few:
            self._decide_pool(Verdict(*POOL, "not comparable", rule, few))

    def fail(self, benchmark: Benchmark, reason: str) -> None:
        """Note that the model cannot be scored on a benchmark; a regression stays one."""
        benchmark.failure = reason
        for score in benchmark.scores:
            known = self.found.get(score.key)
            if known is None or known.status != "regression":
                self._refuse(score.key, reason)

    def update(self) -> None:
        """Look at the evidence; a score that gets its verdict no longer keeps the gate running."""
        adjusted = self._adjusted()
        for benchmark in self.benchmarks:
            for score in benchmark.scores:
                p = adjusted.get(score.key)
                if score.key in self.found or p is None:
                    continue
                if status := self._status(score, p):
                    self.found[score.key] = _verdict(score, status, _reason(score, status), p)
                    benchmark.open.discard(score.name)
        if self.pool and POOL not in self.found and self._pool_is_worse(adjusted[POOL]):
            self._decide_pool(self._pooled(self.pool, "regression", adjusted[POOL]))

    def all(self) -> list[Verdict]:
        """A verdict for every rule, in the baseline's order; `undecided` if none is in yet."""
        adjusted = self._adjusted()
        verdicts = [
            self.found.get(key) or self._open(key, adjusted.get(key)) for key in self.baseline.rules
        ]
        if POOL in self.found:
            verdicts.append(self.found[POOL])
        elif self.pool:
            verdicts.append(self._pooled(self.pool, self._pool_status(), adjusted[POOL]))
        return verdicts

    def close(self, records: Mapping[Name, Record]) -> list[Verdict]:
        """All verdicts at the end.

        Args:
            records: of the candidate, for what they warn of.
        """
        self._judge_complete(records)
        self.closed = True
        before = {benchmark.name: benchmark.planned.run.record for benchmark in self.benchmarks}
        verdicts = []
        for verdict in self.all():
            name = (verdict.task, verdict.protocol)
            if name in records:
                verdict = _with_records(verdict, before[name], records[name])
            verdicts.append(verdict)
        return verdicts

    def _refuse(self, key: Key, reason: str) -> None:
        self.found[key] = Verdict(*key, "not comparable", self.baseline.rules[key], reason)

    def _decide_pool(self, verdict: Verdict) -> None:
        """Note the pooled verdict; scores without another one no longer keep the gate running."""
        self.found[POOL] = verdict
        for benchmark in self.benchmarks:
            benchmark.open -= {s.name for s in benchmark.scores if s.rule.kind == "pooled"}

    def _scores(self) -> Iterator[GatedScore]:
        return (score for benchmark in self.benchmarks for score in benchmark.scores)

    def _adjusted(self) -> dict[Key, float]:
        """P of no loss, of all scores that have a test and of the pool, after Holm."""
        ps: dict[Key, float] = {s.key: s.test.p_worse for s in self._scores() if s.test}
        if self.pool:
            ps[POOL] = self.pool.test.p_worse
        return {k: p for k, p in zip(ps, holm([*ps.values()]), strict=True) if p is not None}

    def _status(self, score: GatedScore, p: float) -> Status | None:
        """The verdict that the evidence allows; `p` is that of no loss, after Holm."""
        assert score.test is not None, "only tests give verdicts early"
        if score.rule.margin is not None and score.test.p_within < self.baseline.beta:
            return "fine"
        delta = score.rule.amount if score.rule.kind == "paired" else 0.0
        if p < self.baseline.alpha and score.loss > max(delta, score.rounding):
            return "regression"
        return None

    def _pool_is_worse(self, p: float) -> bool:
        """Whether the pooled scores are worse, and one of them by more than rounding explains."""
        assert self.pool is not None
        members = (score for score in self._scores() if score.key in self.pool.scales)
        return p < self.baseline.alpha and any(s.loss > s.rounding for s in members)

    def _pooled(self, pool: Pool, status: Status, p: float) -> Verdict:
        rule = pooled_rule(self.baseline.rules.values())
        assert rule is not None, "a pool has scores"
        better_or_worse = "worse" if pool.loss > 0 else "better"
        return Verdict(
            *POOL,
            status,
            rule,
            f"{better_or_worse} by {pooled_size(pool.loss, len(pool.scales))}",
            p=p,
            items=pool.used,
            of=pool.items,
            evidence=f"e-value {pool.test.e_worse:.3g} against no loss (p {p:.2g} after Holm)",
        )

    def _pool_status(self) -> Status:
        """The pooled verdict where no regression is seen."""
        waiting = any(
            benchmark.runs_on and any(s.rule.in_pool for s in benchmark.scores)
            for benchmark in self.benchmarks
        )
        return "undecided" if waiting else "no regression seen"

    def _open(self, key: Key, p: float | None) -> Verdict:
        """The verdict on a score that the evidence does not decide."""
        benchmark = next(b for b in self.benchmarks if b.name == key[:2])
        score = next(score for score in benchmark.scores if score.key == key)
        rule = score.rule
        if rule.kind in ("report", "pooled"):
            reason = NO_RULE if rule.kind == "report" else IN_POOL
            return _verdict(score, "reported", reason, p)
        if not benchmark.complete or score.test is None:
            return _verdict(score, "undecided", _unfinished(score), p)
        if rule.margin is None:
            return _verdict(score, "no regression seen", ALL_USED, p)
        reason = self._more(score, rule.margin) if self.closed else ALL_USED
        return _verdict(score, "undecided", reason, p)

    def _more(self, score: GatedScore, margin: float) -> str:
        """How many more items would decide."""
        more = more_items(
            score.metric,
            *score.tables(),
            alpha=self.baseline.alpha,
            margin=margin,
            min_loss=score.rule.min_loss,
        )
        return f"{ALL_USED}; {would_decide(more, 'item')}"

    def _judge_complete(self, records: Mapping[Name, Record]) -> None:
        """The verdicts of rules that only all items decide, where all are used."""
        keys = {
            score.key
            for benchmark in self.benchmarks
            for score in benchmark.scores
            if score.test is None and benchmark.complete and benchmark.name in records
        }
        rules = {k: rule for k, rule in self.baseline.rules.items() if k in keys}
        kinds = {k: rule for k, rule in rules.items() if rule.kind not in ("report", "pooled")}
        if kinds:
            runs = [_run(records[name]) for name in dict.fromkeys(key[:2] for key in kinds)]
            for verdict in check(runs, replace(self.baseline, rules=kinds), {}):
                self.found[verdict.task, verdict.protocol, verdict.metric] = verdict


def _run(record: Record) -> Run:
    assert record.outcomes is not None, "a record of this process has its outcomes"
    return Run(record, record.outcomes, "the candidate")


def _verdict(score: GatedScore, status: Status, reason: str, p: float | None) -> Verdict:
    return Verdict(
        *score.key,
        status,
        score.rule,
        reason,
        _comparison(score),
        p,
        margin=score.rule.margin,
        items=score.used,
        of=score.items,
        evidence=in_words(score, p),
    )


def _reason(score: GatedScore, status: Status) -> str:
    if status == "fine":
        return f"a loss of {score.rule.margin:.4g} is ruled out"
    return f"worse by {score.loss:.4g}"


def _unfinished(score: GatedScore) -> str:
    if score.test is None:
        return f"rule {score.rule.kind!r} needs all items"
    return "stopped before the evidence decides" if score.used else "stopped before its first item"


def _comparison(score: GatedScore) -> ScoreComparison | None:
    """The score in both runs, on the items so far; intervals would not hold, so there are none."""
    now = score.now()
    if now is None:
        return None
    before, after = now
    difference = Difference(
        value=after - before,
        low=None,
        high=None,
        p=None,
        p_worse=score.test.p_worse if score.test else None,
        test="sequential" if score.test else "none",
        pairs=score.used,
        lost=None,
        won=None,
        a=before,
        b=after,
    )
    metric = score.metric
    return ScoreComparison(
        *score.key, metric.unit, metric.higher_is_better, True, score.used, difference
    )


def _with_records(verdict: Verdict, before: Record, after: Record) -> Verdict:
    """A verdict with the warnings of both records, and where their signatures differ."""
    differences = before.signature.diff(after.signature)
    differences.pop("rows", None)  # `items` and `of` say it
    note = f"{verdict.task}: the signatures differ in {signature.in_words(differences)}"
    warnings = warnings_of(verdict.task, before, after)
    return replace(verdict, note=note if differences else "", warnings=warnings)
