"""`harness gate`: run a baseline's benchmarks in slices until every verdict is in."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from harness.analysis import baseline as baselines
from harness.analysis.baseline import Baseline
from harness.analysis.check import Verdict
from harness.commands.compare.gate_options import GateOptions
from harness.commands.compare.reports import report, require_margins
from harness.commands.evaluate.session import Session, open_engine, opened
from harness.commands.options import RunOptions
from harness.display import gates, terminal
from harness.errors import RecordError, RequestError
from harness.files.output import check_file
from harness.gate import state
from harness.gate.benchmark import Benchmark, begin, cost_of
from harness.gate.loop import Gate, Stopping
from harness.gate.plan import Plan, none_left, plan
from harness.gate.scores import Levels
from harness.gate.state import Cost, Identity
from harness.records.folder import write
from harness.report.ci import Build

if TYPE_CHECKING:
    from harness.engine.engine import Engine


def run_gate(gating: GateOptions, options: RunOptions) -> int:
    """Run a gate, print and write its verdicts, and return the exit code."""
    options.check()
    model = options.model.only_name("gate")
    if gating.junit:
        check_file(gating.junit, "--junit")
    baseline = baselines.read(gating.baseline)
    if gating.require_proof:
        require_margins(baseline, gating.baseline)
    planned = plan(baseline, options.data.where(), strict=options.data.strict)
    for line in [*planned.reasons.values(), *_advice(baseline, gating.baseline)]:
        terminal.note(line)
    with opened(options) as session, open_engine(model, session) as engine:
        identity = _identity(gating, engine)
        earlier = state.read(gating.out, identity)
        gate = _gate(planned, baseline, engine, earlier.costs, gating, options)
        try:
            with gates.view(gate) as view:
                for _ in gate.run():
                    state.write(gating.out, gate.state(identity, earlier.records))
                    view.update()
        finally:
            verdicts = _finish(gate, identity, earlier.records, session)
    facts = {"stopped": asdict(gate.stopped) if gate.stopped else None}
    return report(
        verdicts,
        Build(baseline.tiers, gating.require_proof, "harness gate"),
        lambda: gates.show_gate(gate, verdicts),
        junit=gating.junit,
        as_json=facts if gating.json else None,
    )


def _advice(baseline: Baseline, path: Path) -> list[str]:
    """What to do about a baseline whose verdicts can only be regressions."""
    if any(rule.margin is not None for rule in baseline.rules.values()):
        return []
    return [
        f"no score in {path} has a margin, so that none can be shown to be fine and a gate of a "
        "good model uses all items; write it again with `harness baseline ... --rule proved:2%`"
    ]


def _identity(gating: GateOptions, engine: "Engine") -> Identity:
    return Identity(
        baseline=hashlib.sha256(gating.baseline.read_bytes()).hexdigest(),
        model=engine.identity.digest,
        tokenizer=engine.identity.tokenizer,
        seed=gating.seed,
        looks=gating.looks,
        batch_tokens=engine.backend.options.budget,
    )


def _gate(
    planned: Plan,
    baseline: Baseline,
    engine: "Engine",
    known: Mapping[str, Cost],
    gating: GateOptions,
    options: RunOptions,
) -> Gate:
    """The gate before its first slice.

    Args:
        planned: its benchmarks.
        baseline: the rules.
        engine: with the candidate.
        known: costs that were estimated before.
        gating: its options.
        options: of all commands that run a model.

    Raises:
        HarnessError: the model can be scored on none of the benchmarks, or, under --strict, not on
            all of them.
    """
    costs = dict(known)
    levels = Levels(baseline.alpha, baseline.beta, gating.looks)
    benchmarks: list[Benchmark] = []
    reasons = dict(planned.reasons)
    for one in planned.benchmarks:
        name = " ".join(one.name)
        try:
            if name not in costs:
                with terminal.ERR.status(Text(f"estimating the cost of {name}")):
                    costs[name] = cost_of(one, engine)
            benchmarks.append(begin(one, engine, levels, cost=costs[name], seed=gating.seed))
        except (RecordError, RequestError) as error:
            if options.data.strict or len(planned.benchmarks) == 1:
                raise
            reasons[one.name] = str(error)
            terminal.note(str(error))
    if not benchmarks:
        raise none_left(reasons)
    stopping = Stopping(gating.budget, gating.fail_fast)
    return Gate(benchmarks, baseline, levels, gating.seed, stopping, reasons)


def _finish(
    gate: Gate, identity: Identity, earlier: Mapping[str, str], session: Session
) -> list[Verdict]:
    """Write what the gate has found, whether it came to its end or was interrupted.

    Args:
        gate: that has stopped.
        identity: of the gate.
        earlier: the records that it wrote when it stopped before, by benchmark.
        session: of the command.
    """
    out = session.options.output.out
    records = gate.records()
    paths = {name: write(record, out) for name, record in records.items()}
    session.records += records.values()
    session.paths += paths.values()
    written = {" ".join(name): path.relative_to(out).as_posix() for name, path in paths.items()}
    verdicts = gate.verdicts.close(records)
    state.write(out, gate.state(identity, {**earlier, **written}, verdicts))
    state.remove_replaced(out, earlier, written)
    return verdicts
