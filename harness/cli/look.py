"""The commands that look at an item, and at the installation; `harness.cli.group` adds them.

Heavy imports happen inside the command that needs them.
"""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import (
    CACHE,
    DATA_DIR,
    DATA_FILE,
    DEVICE,
    DTYPE,
    REVISION,
    chosen,
    given,
)
from harness.cli.types import THREADS
from harness.errors import UsageError

_TRUST = click.option(
    "--trust-remote-code", is_flag=True, help="run code that comes with the model"
)
_JSON = click.option("--json", is_flag=True, help="print one JSON object, nothing else")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("item")
@click.option(
    "--model", multiple=True, help="where the record's checkpoint is, if not where it was"
)
@click.option("--ranks/--no-ranks", default=True, show_default=True,
              help="load the model for the rank of every scored token")  # fmt: skip
@DATA_DIR
@DATA_FILE
@click.option("--hub", is_flag=True, help="fetch what --data-dir lacks from the hub")
@CACHE
@click.option("--no-cache", is_flag=True, help="compute the answers again")
@DEVICE
@_TRUST
@_JSON
def explain(run: Path, item: str, ranks: bool, model: tuple[str, ...], **options: Any) -> None:
    """Explain one ITEM of RUN, a record: from its prompt to its score.

    Template, tokens with the scored span, log-probability and rank of each, the output, and what
    each step of the extraction made of it. Answers are those stored by the run; with --no-ranks
    no weights are loaded where the store has them all.
    """
    from harness.commands.inspect.explain import run_explain

    if len(model) > 1:
        raise UsageError(f"explain takes one --model; {len(model)} were given")
    wanted = chosen({"model": model, **options})
    wanted.check()
    run_explain(run, item, wanted, ranks=ranks)


@click.command()
@click.option("--model", multiple=True, help="a checkpoint to try as well; may be repeated")
@DATA_DIR
@DEVICE
@DTYPE
@click.option("--threads", type=THREADS, help="threads of the CPU")
@REVISION
@_TRUST
@_JSON
@click.pass_context
def doctor(context: click.Context, /, model: tuple[str, ...], **options: Any) -> None:
    """Check this installation, and a checkpoint.

    Versions, device, threads, the rate of matrix products, the hub, and the data of every
    benchmark. With --model: canaries, small questions whose answers are known beforehand. Each
    line says what was seen and what to do. Exit code 0: nothing failed. 1: something did.
    """
    from harness.commands.setup.doctor import run_doctor

    for name in ("dtype", "revision", "trust_remote_code"):
        if given(name) and not model:
            raise UsageError(f"--{name.replace('_', '-')} says how a model is loaded; give --model")
    context.exit(run_doctor(chosen({"model": model, **options})))


COMMANDS = (explain, doctor)
