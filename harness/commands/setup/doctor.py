"""`harness doctor`: is this installation, and this checkpoint, sane? A line a finding."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from harness.commands.options import DataOptions, ModelOptions
from harness.commands.setup import installation_checks as installation
from harness.commands.setup.installation_checks import Finding
from harness.display import terminal

if TYPE_CHECKING:
    from harness.engine.checkpoint.load import Checkpoint
    from harness.engine.engine import Engine

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def run_doctor(model: ModelOptions, data: DataOptions, *, as_json: bool) -> int:
    """Print what is found.

    Returns:
        The exit code: 0 if nothing failed, else 1.
    """
    findings: list[Finding] = []
    for finding in _findings(model, data):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if as_json:
        value = {"ok": not failed, "findings": [finding._asdict() for finding in findings]}
        terminal.print_json(value)
    elif failed:
        terminal.OUT.print(f"{len(failed)} failed: {', '.join(failed)}", markup=False)
    else:
        terminal.OUT.print(f"nothing failed in {len(findings)} checks", markup=False)
    return 1 if failed else 0


def _show(finding: Finding) -> None:
    line = Text(f"{finding.state:5}", STYLES[finding.state])
    terminal.OUT.print(line.append(f" {finding.name:22} {finding.seen}", "default"))
    if finding.advice:
        terminal.OUT.print(f"{'':28} -> {finding.advice}", markup=False)


def _findings(options: ModelOptions, data: DataOptions) -> Iterator[Finding]:
    """Each as soon as it is made; the installation first, then the checkpoint."""
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        (
            "versions",
            lambda: [installation.versions(installation.tested(), installation.declared())],
        ),
        ("device", lambda: installation.hardware(options.device, options.threads)),
        ("hub", lambda: [installation.hub()]),
        ("data", lambda: installation.rows(data.data_dir)),
    )
    for name, check in checks:
        yield from installation.guarded(name, check, "the installation is broken: install it again")
    for model in options.names:
        yield from _checkpoint(model, options)


def _checkpoint(model: str, options: ModelOptions) -> Iterator[Finding]:
    from harness.engine.cache.store import Store
    from harness.engine.checkpoint.load import load
    from harness.engine.engine import Engine

    opened: list[tuple[Checkpoint, Engine]] = []

    def opening() -> Iterator[Finding]:
        checkpoint = load(model, options.settings())
        # Answers are kept in memory: canaries ask some things twice.
        opened.append((checkpoint, Engine(checkpoint, store=Store(None))))
        who = checkpoint.identity
        seen = f"{who.name}: {who.parameters:,} parameters, {who.dtype} on {who.device}"
        yield Finding("model", "ok", f"{seen}, weights {who.digest[:12]}...")

    yield from installation.guarded(
        "model", opening, "the canaries need a model that can be loaded"
    )
    for checkpoint, engine in opened:
        yield from _canaries(checkpoint, engine)


def _canaries(checkpoint: "Checkpoint", engine: "Engine") -> Iterator[Finding]:
    from harness.commands.setup import checkpoint_checks
    from harness.engine.engine import Engine

    def shared_rows() -> Finding:
        return checkpoint_checks.shared_rows(engine, Engine(checkpoint, share=False))

    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("uniform bound", lambda: [checkpoint_checks.uniform_bound(engine)]),
        ("shuffled options", lambda: [checkpoint_checks.shuffled_options(engine)]),
        ("shared rows", lambda: [shared_rows()]),
        ("cached steps", lambda: [checkpoint_checks.cached_steps(engine)]),
        ("released model", lambda: [checkpoint_checks.released(engine)]),
    )
    for name, check in checks:
        advice = "the weights are broken, or this model cannot be measured: fetch it again"
        yield from installation.guarded(name, check, advice)
