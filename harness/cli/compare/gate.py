"""`harness gate`."""

from dataclasses import replace
from typing import Any

from harness.cli.options import command, given, part
from harness.commands.compare.gate_options import GateOptions
from harness.commands.model_options import ModelOptions
from harness.commands.options import CacheOptions, DataOptions, OutputOptions, RunOptions
from harness.commands.server_options import ServerOptions
from harness.errors import UsageError

OPTIONS: Any = {
    "model": part(ModelOptions, optional=True),
    "data": part(DataOptions, "data_dir", "sample", "hub", "strict"),
    "server": part(ServerOptions),
    "cache": part(CacheOptions),
}


@command()
def gate(
    gating: GateOptions = part(GateOptions, heading="Gate"), options: RunOptions = OPTIONS
) -> int:
    """Run a baseline's benchmarks with a model until every verdict is in.

    Items are answered in random order, slice by slice; after each slice, every score is tested
    against the baseline. If it is interrupted or killed, the same command continues it.

    Exit code 0: no verdict fails the build. 1: a regression. 2: something cannot be compared or
    read. 3: a score is undecided, under --require-proof. In a GitHub job, also writes annotations
    and a summary.
    """
    if gating.self_test:
        from harness.commands.compare.self_test import run_self_test

        _refuse_for_self_test()
        return run_self_test(gating, options)
    if gating.noise is not None:
        raise UsageError("--noise belongs to --self-test; give both or neither")
    if not options.model.names:
        raise UsageError("gate needs --model, the checkpoint to check, or --self-test")
    from harness.commands.compare.gate import run_gate

    output = OutputOptions(out=gating.out, json=gating.json)
    return run_gate(gating, replace(options, output=output))


def _refuse_for_self_test() -> None:
    """Refuse options for what a self-test does not write, and for models on several devices."""
    for name in ("device_map", "tensor_parallel"):
        if given(name):
            raise UsageError(
                "--self-test puts noise into weights that one device holds; leave out "
                f"--{name.replace('_', '-')}"
            )
    for name in ("out", "junit", "cache"):
        if given(name):
            raise UsageError(
                f"--self-test computes everything and writes nothing; leave out --{name}"
            )
