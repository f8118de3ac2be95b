"""`harness show`."""

from typing import Any

from harness.cli import completion
from harness.cli.options import argument, command, part, without
from harness.commands.declare import option
from harness.commands.model_options import ModelOptions
from harness.commands.options import DataOptions, ProtocolOptions, RunOptions
from harness.commands.server_options import ServerOptions

OPTIONS: Any = {
    "model": part(
        ModelOptions,
        "names", "revision", "trust_remote_code", "context", "options", "tokenizer", "config",
    ),
    "data": part(DataOptions, "data_dir", "data_file", "sample", "hub", "limit", "seed"),
    "protocol": part(ProtocolOptions, "name", "set"),
    "server": without(ServerOptions, "concurrency", "replicas"),
}  # fmt: skip


@command()
def show(
    name: str = argument(metavar="TASK", shell_complete=completion.task),
    count: int = option(1, "show the first N examples", flag="-n", min=1, metavar="N"),
    options: RunOptions = OPTIONS,
) -> None:
    """Show what the model reads, without computing anything.

    Prints the tokens of the first examples, what is cut to fit the context, and, after a double
    bar, the tokens that are scored. Needs the tokenizer and config of the model, not its weights.
    """
    from harness.commands.evaluate.show import show_examples

    show_examples(name, count, options)
