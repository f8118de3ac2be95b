"""The commands that look at an item, and at the installation; `harness.cli` adds them.

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
    from harness.explain import run_explain
    from harness.options import RunOptions

    run_explain(run, item, RunOptions(model=(model,) if model else (), **options), ranks=ranks)


COMMANDS = (explain,)
