"""`harness doctor`."""

from harness.cli.options import JSON, command, given, part
from harness.commands.options import DataOptions, ModelOptions
from harness.errors import UsageError

LOADING = (
    "dtype", "revision", "trust_remote_code", "model_option", "tokenizer", "model_config",
)  # fmt: skip


@command()
def doctor(
    as_json: bool = JSON,
    model: ModelOptions = part(
        ModelOptions, "names", "revision", "trust_remote_code", "device", "dtype", "threads",
        "options", "tokenizer", "config", optional=True,
    ),
    data: DataOptions = part(DataOptions, "data_dir"),
) -> int:  # fmt: skip
    """Check this installation and, with --model, a checkpoint.

    Checks versions, device, threads, speed of matrix products, the hub, and the data of every task.
    With --model, asks small questions whose answers are known. Each line says what was seen and
    what to do. Exit code 0: nothing failed. 1: something failed.
    """
    from harness.commands.setup.doctor import run_doctor

    for name in LOADING:
        if given(name) and not model.names:
            raise UsageError(f"--{name.replace('_', '-')} says how a model is loaded; give --model")
    return run_doctor(model, data, as_json=as_json)
