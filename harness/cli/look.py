"""The commands that look at an item, and at the installation; `harness.cli.group` adds them.

Heavy imports happen inside the command that needs them.
"""

from pathlib import Path
from typing import Any

import click

_DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="HARNESS_DATA",
    help="folder with the original files; default: the environment variable HARNESS_DATA",
)
_DEVICE = click.option("--device", help="cpu, cuda, cuda:1, ...; default: the accelerator if any")
_TRUST = click.option(
    "--trust-remote-code", is_flag=True, help="run code that comes with the model"
)
_JSON = click.option("--json", is_flag=True, help="print one JSON object, nothing else")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("item")
@click.option("--model", help="where the record's checkpoint is, if not where it was")
@click.option("--ranks/--no-ranks", default=True, show_default=True,
              help="load the model for the rank of every scored token")  # fmt: skip
@_DATA_DIR
@click.option("--data-file", type=click.Path(path_type=Path), help="this file and no other")
@click.option("--hub", is_flag=True, help="fetch what --data-dir lacks from the hub")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="folder of the stored answers; default: in the user's cache",
)
@click.option("--no-cache", is_flag=True, help="compute the answers again")
@_DEVICE
@_TRUST
@_JSON
def explain(run: Path, item: str, ranks: bool, model: str | None, **options: Any) -> None:
    """Explain one ITEM of RUN, a record: from its prompt to its score.

    Template, tokens with the scored span, log-probability and rank of each, the output, and what
    each step of the extraction made of it. Answers are those stored by the run; with --no-ranks
    no weights are loaded where the store has them all.
    """
    from harness.commands.explain import run_explain
    from harness.options import RunOptions

    run_explain(run, item, RunOptions(model=(model,) if model else (), **options), ranks=ranks)


@click.command()
@click.option("--model", multiple=True, help="a checkpoint to try as well; may be repeated")
@_DATA_DIR
@_DEVICE
@click.option("--dtype", default="float32", show_default=True,
              type=click.Choice(["float32", "bfloat16", "float16"]))  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="of the CPU")
@click.option("--revision", help="commit, branch or tag on the hub")
@_TRUST
@_JSON
@click.pass_context
def doctor(context: click.Context, /, model: tuple[str, ...], **options: Any) -> None:
    """Check this installation, and a checkpoint.

    Versions, device, threads, the rate of matrix products, the hub, and the data of every
    benchmark. With --model: canaries, small questions whose answers are known beforehand. Each
    line says what was seen and what to do. Exit code 0: nothing failed. 1: something did.
    """
    from harness.commands.doctor import run_doctor
    from harness.options import RunOptions

    context.exit(run_doctor(RunOptions(model=model, **options)))


COMMANDS = (explain, doctor)
