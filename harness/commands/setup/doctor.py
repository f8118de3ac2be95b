"""`harness doctor`: check this installation and, if given, checkpoints."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

from harness.commands.model_options import ModelOptions
from harness.commands.options import DataOptions
from harness.commands.server_options import ServerOptions
from harness.commands.setup import bfloat16_checks
from harness.commands.setup import installation_checks as installation
from harness.commands.setup.installation_checks import Finding, guarded
from harness.display import terminal
from harness.engine.endpoint.settings import is_endpoint
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.engine.checkpoint.load import Checkpoint
    from harness.engine.checkpoint.settings import Settings

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
STATE_WIDTH, NAME_WIDTH = 5, 22


class Servers(NamedTuple):
    """How model servers are checked."""

    options: ServerOptions = ServerOptions()
    compare_with: str | None = None  # a checkpoint with the same weights

    def check(self, model: ModelOptions) -> None:
        """Raise a `UsageError` if options of a server or a checkpoint are given without one."""
        if self.compare_with is None:
            self.options.check_models(model.names, model)
            return
        if not all(map(is_endpoint, model.names)) or len(model.names) != 1:
            raise UsageError(
                "--compare-with is for one model server; name it by --model, such as --model "
                "http://127.0.0.1:8000/v1"
            )
        self.options.check_models(model.names)  # the options of checkpoints are of the other one


def run_doctor(
    model: ModelOptions, data: DataOptions, servers: Servers | None = None, *, as_json: bool
) -> int:
    """Print the result of every check; return the exit code, 1 if a check failed."""
    servers = servers or Servers()
    servers.check(model)
    findings: list[Finding] = []
    for finding in _findings(model, data, servers):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if as_json:
        value = {"ok": not failed, "findings": [finding._asdict() for finding in findings]}
        terminal.print_json(value)
    elif failed:
        terminal.OUT.print(f"{len(failed)} failed: {', '.join(failed)}")
    else:
        terminal.OUT.print(f"{len(findings)} checks, none failed")
    return 1 if failed else 0


def _show(finding: Finding) -> None:
    """Print the result of one check, and what to do about it."""
    row = Table.grid(padding=(0, 1, 0, 0))
    for width in (STATE_WIDTH, NAME_WIDTH, None):
        row.add_column(width=width, overflow="fold")
    row.add_row(Text(finding.state, STYLES[finding.state]), finding.name, Text(finding.seen))
    if finding.advice:
        row.add_row("", "", Text(f"-> {finding.advice}"))
    terminal.OUT.print(row)


def _findings(options: ModelOptions, data: DataOptions, servers: Servers) -> Iterator[Finding]:
    """The findings, each as soon as it is made; the installation first, then the models."""
    for name, check in (
        ("versions", installation.versions),
        ("device", partial(installation.hardware, options.device, options.threads)),
        ("hub", installation.hub),
        ("data", partial(installation.rows, data.data_dir)),
    ):
        yield from guarded(name, check, "the installation is broken: install it again")
    for model in options.names:
        if is_endpoint(model):
            check = partial(_server_findings, model, options, data.data_dir, servers)
            yield from guarded("server", check, "start the server, or name another address")
            continue
        check = partial(_checkpoint_findings, model, options, data.data_dir)
        yield from guarded("model", check, "name a checkpoint that can be loaded")


def _server_findings(
    url: str, options: ModelOptions, data_dir: Path | None, servers: Servers
) -> Iterator[Finding]:
    from harness.commands.setup.server_checks import server_findings

    settings = servers.options.settings(url, options.tokenizer)
    yield from server_findings(settings, servers.compare_with, options.settings(data_dir))


def _checkpoint_findings(
    model: str, options: ModelOptions, data_dir: Path | None
) -> Iterator[Finding]:
    from harness.engine.checkpoint.load import load

    settings = options.settings(data_dir)
    checkpoint = load(model, settings)
    identity = checkpoint.identity
    seen = f"{identity.name}: {identity.parameters:,} parameters, {identity.dtype}"
    digest = identity.digest[:12]
    yield Finding("model", "ok", f"{seen} on {identity.device}, weights {digest}...")
    yield from _check_model(checkpoint)
    if bfloat16_checks.is_measurable(checkpoint, model):
        measured = partial(bfloat16_checks.cost, checkpoint, settings)
        yield from guarded("bfloat16 cost", measured, "keep --dtype float32")
    if "activation" in identity.options:
        check = partial(_check_activation, checkpoint, settings)
        yield from guarded("activation", check, "the model runs with only one of the two")


def _check_activation(checkpoint: "Checkpoint", settings: "Settings") -> Finding:
    """Load the checkpoint again with the other activation, and compare."""
    from harness.commands.setup.checkpoint_checks import activation
    from harness.engine.cache.store import Store
    from harness.engine.checkpoint.load import load
    from harness.engine.engine import Engine

    [other] = {"gelu", "gelu_new"} - {checkpoint.identity.options["activation"]}
    options = {**dict(settings.options), "activation": other}
    tried = load(checkpoint.identity.name, replace(settings, options=tuple(options.items())))
    return activation(*(Engine(c, store=Store(None)) for c in (checkpoint, tried)))


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
