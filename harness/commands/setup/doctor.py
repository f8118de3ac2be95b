"""`harness doctor`: check this installation and, if given, checkpoints."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from harness.commands.options import DataOptions, ModelOptions
from harness.commands.setup import installation_checks as installation
from harness.commands.setup.installation_checks import Finding, guarded
from harness.display import terminal
from harness.display.findings import show_finding

if TYPE_CHECKING:
    from harness.engine.checkpoint.load import Checkpoint


def run_doctor(model: ModelOptions, data: DataOptions, *, as_json: bool) -> int:
    """Print the result of every check; return the exit code, 1 if a check failed."""
    findings: list[Finding] = []
    for finding in _findings(model, data):
        findings.append(finding)
        if not as_json:
            show_finding(finding.state, finding.name, finding.seen, finding.advice)
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if as_json:
        value = {"ok": not failed, "findings": [finding._asdict() for finding in findings]}
        terminal.print_json(value)
    elif failed:
        terminal.OUT.print(f"{len(failed)} failed: {', '.join(failed)}")
    else:
        terminal.OUT.print(f"{len(findings)} checks, none failed")
    return 1 if failed else 0


def _findings(options: ModelOptions, data: DataOptions) -> Iterator[Finding]:
    """The findings, each as soon as it is made; the installation first, then the checkpoints."""
    for name, check in (
        ("versions", installation.versions),
        ("device", partial(installation.hardware, options.device, options.threads)),
        ("hub", installation.hub),
        ("data", partial(installation.rows, data.data_dir)),
    ):
        yield from guarded(name, check, "the installation is broken: install it again")
    for model in options.names:
        yield from _checkpoint_findings(model, options)


def _checkpoint_findings(model: str, options: ModelOptions) -> Iterator[Finding]:
    from harness.engine.checkpoint.load import load

    loaded: list[Checkpoint] = []

    def load_checkpoint() -> Finding:
        checkpoint = load(model, options.settings())
        loaded.append(checkpoint)
        who = checkpoint.identity
        seen = f"{who.name}: {who.parameters:,} parameters, {who.dtype} on {who.device}"
        return Finding("model", "ok", f"{seen}, weights {who.digest[:12]}...")

    yield from guarded("model", load_checkpoint, "name a checkpoint that can be loaded")
    for checkpoint in loaded:
        yield from _check_model(checkpoint)


def _check_model(checkpoint: "Checkpoint") -> Iterator[Finding]:
    from harness.commands.setup import checkpoint_checks as checks
    from harness.engine.cache.store import Store
    from harness.engine.engine import Engine

    engine = Engine(checkpoint, store=Store(None))  # some checks ask the same twice
    for name, check in (
        ("uniform bound", partial(checks.uniform_bound, engine)),
        ("shuffled options", partial(checks.shuffled_options, engine)),
        ("shared rows", lambda: checks.shared_rows(engine, Engine(checkpoint, share=False))),
        ("cached steps", partial(checks.cached_steps, engine)),
        ("released model", partial(checks.released, engine)),
    ):
        advice = "the weights are damaged, or the model is not supported: fetch it again"
        yield from guarded(name, check, advice)
