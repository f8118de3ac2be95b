"""`harness gate --self-test`: what a gate makes of its own checkpoint, and of it with noise."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from harness.analysis import baseline as baselines
from harness.analysis.baseline import Baseline
from harness.analysis.check import exit_code
from harness.commands.compare.gate_options import GateOptions
from harness.commands.compare.reports import require_margins
from harness.commands.model_options import ModelOptions
from harness.commands.options import RunOptions
from harness.display import gates, terminal
from harness.engine.endpoint.settings import is_endpoint
from harness.errors import CheckpointError, UsageError
from harness.gate.benchmark import begin, cost_of
from harness.gate.loop import Gate, Stopping
from harness.gate.plan import Name, Plan, Planned, plan
from harness.gate.scores import Levels
from harness.gate.self_test import (
    NOISE,
    Candidate,
    Result,
    accepts_itself,
    candidates,
    parse_noise,
    result,
)
from harness.gate.state import Cost
from harness.records.record import Record

if TYPE_CHECKING:
    from harness.engine.checkpoint.settings import Identity
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encodings


def run_self_test(gating: GateOptions, options: RunOptions) -> int:
    """Gate every candidate, show what came of it, and return 0 if the same weights are accepted."""
    sizes = parse_noise(NOISE if gating.noise is None else gating.noise)
    baseline = baselines.read(gating.baseline)
    if gating.require_proof:
        require_margins(baseline, gating.baseline)
    planned = plan(baseline, options.data.where(), strict=options.data.strict)
    terminal.start_logging()
    for line in planned.reasons.values():
        terminal.note(line)
    own = planned.benchmarks[0].run.record
    options = replace(options, model=own_model(options.model, own))
    if is_endpoint(name := options.model.only_name("gate --self-test")):
        raise UsageError(
            f"--self-test puts noise into the weights, and those of {name} are behind a server; "
            "give --model the same weights as a checkpoint"
        )
    options.check()
    test = _SelfTest(gating, options, baseline, planned)
    results: list[Result] = []
    try:
        for candidate in candidates(sizes, options.model.batch_tokens, own.engine.get("budget")):
            results.append(test.run(candidate))
    finally:  # an interruption does not cost what was found before
        if results:
            _show(results, as_json=gating.json)
    return accepts_itself(results)


def own_model(options: ModelOptions, record: Record) -> ModelOptions:
    """The options with the baseline's model, if they name none."""
    if options.names:
        return options
    model = record.model
    stated = tuple(f"{key}={value}" for key, value in model.get("options", {}).items())
    return replace(
        options,
        names=(model["name"],),
        revision=options.revision or model["revision"],
        options=options.options or stated,
    )


class _SelfTest:
    """Runs candidates one after the other; what does not depend on the weights is made once."""

    def __init__(
        self, gating: GateOptions, options: RunOptions, baseline: Baseline, planned: Plan
    ) -> None:
        self._gating, self._options = gating, options
        self._baseline, self._planned = baseline, planned
        self._costs: dict[Name, Cost] = {}
        self._encodings: Encodings = {}

    def run(self, candidate: Candidate) -> Result:
        """Load a candidate, and gate it until the gate stops."""
        terminal.note(str(candidate))
        gating, baseline = self._gating, self._baseline
        engine = self._load(candidate)
        levels = Levels(baseline.alpha, baseline.beta, gating.looks)
        benchmarks = [
            begin(one, engine, levels, cost=self._cost(one, engine), seed=gating.seed)
            for one in self._planned.benchmarks
        ]
        stopping = Stopping(gating.budget, gating.fail_fast)
        gate = Gate(
            benchmarks, baseline, levels, gating.seed, stopping, dict(self._planned.reasons)
        )
        with gates.view(gate) as view:
            for _ in gate.run():
                view.update()
        verdicts = gate.verdicts.close(gate.records())
        code = exit_code(verdicts, baseline.tiers, require_proof=gating.require_proof)
        return result(candidate, gate, verdicts, code)

    def _load(self, candidate: Candidate) -> "Engine":
        """An engine without a response cache: everything is computed, with these batches."""
        from harness.engine.checkpoint.load import load
        from harness.engine.engine import Engine

        model = self._options.model
        name = model.only_name("gate --self-test")
        settings = model.settings(self._options.data.data_dir)
        with terminal.ERR.status(Text(f"loading {name}")):
            engine = Engine(
                load(name, replace(settings, noise=candidate.noise)),
                budget=candidate.batch_tokens,
                encodings=self._encodings,
            )
        if not candidate.noise:
            check_own(self._planned.benchmarks[0].run.record, engine.identity)
        return engine

    def _cost(self, planned: Planned, engine: "Engine") -> Cost:
        if planned.name not in self._costs:
            self._costs[planned.name] = cost_of(planned, engine)
        return self._costs[planned.name]


def check_own(record: Record, model: "Identity") -> None:
    """Refuse a candidate that is not the checkpoint of the baseline, or not computed as it."""
    from harness.engine.checkpoint.settings import dtype_option

    own = record.model
    name = f"the baseline's {own['name']!r}"
    if own["dtype"] != model.dtype:
        wanted = dtype_option(own["dtype"])
        remedy = f"give --dtype {wanted}"
        if wanted == dtype_option(model.dtype):
            remedy = "run it on a CPU that computes as that of the baseline"
        raise CheckpointError(
            f"model {model.name!r} computes in {model.dtype}, {name} in {own['dtype']}; the "
            f"self-test runs the baseline's own checkpoint; {remedy}"
        )
    if own["digest"] != model.digest:
        raise CheckpointError(
            f"model {model.name!r} has the digest {model.digest[:12]}..., {name} has "
            f"{own['digest'][:12]}...; the self-test runs the baseline's own checkpoint; give its "
            "--model"
        )


def _show(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"exit": accepts_itself(results), "candidates": _facts(results)})
    else:
        gates.show_self_test(results)


def _facts(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as plain JSON values."""
    facts = []
    for found in results:
        verdicts = []
        for verdict in found.verdicts:
            caught = found.catches.get((verdict.task, verdict.protocol, verdict.metric))
            would_catch = caught._asdict() if caught else None
            verdicts.append({**asdict(verdict), "would_catch": would_catch})
        facts.append(
            {
                "candidate": str(found.candidate),
                **found.candidate._asdict(),
                "exit": found.exit,
                **asdict(found.stopped),
                "verdicts": verdicts,
            }
        )
    return facts
