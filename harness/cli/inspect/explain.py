"""`harness explain`."""

from pathlib import Path
from typing import Any

from harness.cli.options import JSON, command, part, without
from harness.commands.declare import option
from harness.commands.inspect.options import ExplainOptions
from harness.commands.model_options import ModelOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.commands.server_options import ServerOptions

OPTIONS: Any = {
    "ranks": option(
        True, "load the model to compute the rank of every scored token",
        flag="--ranks/--no-ranks", show_default=True,
    ),
    "as_json": JSON,
    "model": part(
        ModelOptions, "names", "trust_remote_code", "device", "options", "tokenizer", "config",
        "device_map", optional=True,
    ),
    "data": part(DataOptions, "data_dir", "data_file", "hub"),
    "server": without(ServerOptions, "replicas"),
    "cache": part(CacheOptions),
}  # fmt: skip


@command()
def explain(run: Path, item: str, options: ExplainOptions = OPTIONS) -> None:
    """Explain how one ITEM of the record RUN got its score.

    Prints the prompt, the tokens with the log-probability and rank of each scored one, the output,
    and how the score was extracted from it. Responses come from the response cache if they are
    there; then --no-ranks needs no weights. --model says where the record's checkpoint, or the
    server, is now.
    """
    from harness.commands.inspect.explain import run_explain

    if options.model.names:
        options.model.only_name("explain")
    run_explain(run, item, options)
