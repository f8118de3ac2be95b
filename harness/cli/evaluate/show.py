"""`harness show`."""

import click

from harness.cli import completion
from harness.cli.options import Command, part, takes
from harness.commands.options import DataOptions, ModelOptions, ProtocolOptions


@click.command(cls=Command)
@click.argument("name", metavar="TASK", shell_complete=completion.benchmarks)
@click.option(
    "-n", "count", default=1, show_default=True, metavar="N", type=click.IntRange(min=1),
    help="show the first N examples",
)  # fmt: skip
@takes(
    model=part(ModelOptions, "names", "revision", "trust_remote_code", "context"),
    data=part(DataOptions, "data_dir", "data_file", "sample", "hub", "limit", "seed"),
    protocol=part(ProtocolOptions, "name", "set"),
)
def show(
    name: str, count: int, model: ModelOptions, data: DataOptions, protocol: ProtocolOptions
) -> None:
    """Show what the model reads, without computing anything.

    Prints the tokens of the first examples, what is cut to fit the context, and, after a double
    bar, the tokens that are scored. Needs the tokenizer and config of the model, not its weights.
    """
    from harness.commands.evaluate.show import show_examples

    show_examples(name, count, model, data, protocol)
