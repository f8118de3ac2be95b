"""`harness explain`."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import JSON, PATH, Command, part, takes
from harness.commands.options import CacheOptions, DataOptions, ModelOptions


@click.command(cls=Command)
@click.argument("run", type=PATH)
@click.argument("item")
@click.option(
    "--ranks/--no-ranks", default=True, show_default=True,
    help="load the model to compute the rank of every scored token",
)  # fmt: skip
@JSON
@takes(
    model=part(ModelOptions, "names", "device", "trust_remote_code", optional=True),
    data=part(DataOptions, "data_dir", "data_file", "hub"),
    cache=CacheOptions,
)
def explain(run: Path, item: str, model: ModelOptions, **options: Any) -> None:
    """Explain how one ITEM of the record RUN got its score.

    Prints the prompt, the tokens with the log-probability and rank of each scored one, the output,
    and how the score was extracted from it. Responses come from the response cache if they are
    there; then --no-ranks needs no weights. --model says where the record's checkpoint is now.
    """
    from harness.commands.inspect.explain import ExplainOptions, run_explain

    if model.names:
        model.only_name("explain")
    run_explain(run, item, ExplainOptions(model, **options))
