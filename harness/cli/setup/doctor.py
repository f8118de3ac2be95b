"""`harness doctor`."""

from harness.cli.options import JSON, command, given, part
from harness.commands.declare import option
from harness.commands.model_options import ModelOptions
from harness.commands.options import DataOptions
from harness.commands.server_options import ServerOptions
from harness.errors import UsageError

LOADING = (
    "dtype", "revision", "trust_remote_code", "model_option", "tokenizer", "model_config",
    "device_map",
)  # fmt: skip


@command()
def doctor(
    as_json: bool = JSON,
    model: ModelOptions = part(
        ModelOptions, "names", "revision", "trust_remote_code", "device", "dtype", "threads",
        "options", "tokenizer", "config", "device_map", optional=True,
    ),
    server: ServerOptions = part(ServerOptions),
    compare_with: str | None = option(
        None, "with a server: compare its log-probabilities, token by token, with those of this "
        "checkpoint, which has the same weights; --dtype and the like say how it is loaded",
        metavar="CHECKPOINT",
    ),
    data: DataOptions = part(DataOptions, "data_dir"),
) -> int:  # fmt: skip
    """Check this installation and, with --model, a checkpoint or a model server.

    Checks versions, device, threads, speed of matrix products, the hub, and the data of every task.
    With --model, asks small questions whose answers are known; of a server, those of the self-test
    before every run. Each line says what was seen and what to do. Exit code 0: nothing failed. 1:
    something failed.
    """
    from harness.commands.setup.doctor import Servers, run_doctor

    for name in LOADING:
        if given(name) and not model.names:
            raise UsageError(f"--{name.replace('_', '-')} says how a model is loaded; give --model")
    return run_doctor(model, data, Servers(server, compare_with), as_json=as_json)
