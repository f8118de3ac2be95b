"""`harness doctor`: is this installation, and this checkpoint, sane? A line a finding."""

from collections.abc import Callable, Iterator, Sequence

from rich.text import Text

from harness.commands import checkup
from harness.commands.checkup import Finding
from harness.display import terminal
from harness.errors import HarnessError
from harness.options import RunOptions

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def run_doctor(options: RunOptions) -> int:
    """Print what is found.

    Returns:
        The exit code: 0 if nothing failed, else 1.
    """
    findings: list[Finding] = []
    for finding in _findings(options):
        findings.append(finding)
        if not options.json:
            _show(finding)
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if options.json:
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


def _findings(options: RunOptions) -> Iterator[Finding]:
    """Each as soon as it is made; the installation first, then the checkpoint."""
    yield checkup.versions(checkup.tested(), checkup.declared())
    yield from checkup.hardware(options.device, options.threads)
    yield checkup.hub()
    yield from checkup.rows(options.data_dir)
    for model in options.model:
        yield from _checkpoint(model, options)


def _checkpoint(model: str, options: RunOptions) -> Iterator[Finding]:
    from harness.commands import canaries
    from harness.engine.checkpoint import load
    from harness.engine.engine import Engine
    from harness.engine.store import Store

    try:
        checkpoint = load(model, options.settings())
        engine = Engine(checkpoint, store=Store(None))  # in memory: canaries ask some things twice
    except HarnessError as error:
        yield Finding("model", "fail", str(error), "the canaries need a model that can be loaded")
        return
    who = checkpoint.identity
    seen = f"{who.name}: {who.parameters:,} parameters, {who.dtype} on {who.device}"
    yield Finding("model", "ok", f"{seen}, weights {who.digest[:12]}...")
    checks: Sequence[tuple[str, Callable[[], Finding]]] = (
        ("uniform bound", lambda: canaries.uniform_bound(engine)),
        ("shuffled options", lambda: canaries.shuffled_options(engine)),
        ("shared rows", lambda: canaries.shared_rows(engine, Engine(checkpoint, share=False))),
        ("released model", lambda: canaries.released(engine)),
    )
    for name, check in checks:
        yield _guarded(name, check)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """The finding of a canary; a model that cannot even be asked has failed it."""
    try:
        return check()
    except HarnessError as error:
        return Finding(name, "fail", str(error), "the weights or the engine are broken")
