"""The options that all benchmark commands share, for click; `harness.options` has their values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.cli import complete

DATA: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        envvar="HARNESS_DATA",
        help="folder with the original files; default: the environment variable HARNESS_DATA",
    ),
    click.option("--data-file", type=click.Path(path_type=Path), help="this file and no other"),
    click.option("--sample", is_flag=True, help="the built-in rows: shows that it works"),
    click.option("--hub", is_flag=True, help="fetch what --data-dir lacks from the hub"),
    click.option("--limit", type=int, help="so many rows, taken at random by --seed"),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0)),
    click.option(
        "--protocol",
        default="paper",
        show_default=True,
        shell_complete=complete.presets,
        help="named preset",
    ),
    click.option(
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=complete.settings,
        help="change one option",
    ),
)
"""Those that say which rows are taken and what they become."""

RUN: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--model",
        multiple=True,
        required=True,
        shell_complete=complete.models,
        help="hub name, folder, GGUF file, or smollm2-135m (the demo); may be repeated",
    ),
    click.option("--revision", help="commit, branch or tag on the hub"),
    click.option(
        "--trust-remote-code", is_flag=True, help="run code that comes with the model; recorded"
    ),
    click.option("--device", help="cpu, cuda, cuda:1, ...; default: the accelerator if any"),
    click.option(
        "--dtype",
        default="float32",
        show_default=True,
        type=click.Choice(["float32", "bfloat16", "float16"]),
    ),
    click.option(
        "--context",
        type=click.IntRange(min=8),
        help="tokens fed at once; default: the smaller of 1024 and what the model has",
    ),
    click.option(
        "--batch-tokens",
        type=click.IntRange(min=1),
        help="padded tokens a batch; moves no score beyond rounding",
    ),
    click.option(
        "--threads", type=click.IntRange(min=1), help="of the CPU; moves no score beyond rounding"
    ),
    click.option(
        "--compile",
        is_flag=True,
        help="passes through torch.compile: slow to begin, for long runs on an accelerator",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="answer in so many Ray workers"),
    click.option("--address", help="of a Ray cluster for the workers; default: this machine"),
    *DATA,
    click.option("--grid", is_flag=True, help="all presets, as a table beside the paper's number"),
    click.option(
        "--vary",
        multiple=True,
        metavar="KEY=V,V",
        shell_complete=complete.keys,
        help="all combinations of these, as --grid",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path("results/records"),
        show_default=True,
        help="folder for the records",
    ),
    click.option(
        "--cache",
        type=click.Path(path_type=Path),
        help="folder of the stored answers; default: in the user's cache",
    ),
    click.option("--no-cache", is_flag=True, help="neither use nor store answers"),
    click.option(
        "--dump", type=click.Path(path_type=Path), help="write one JSON line an item to this file"
    ),
    click.option("--plan", is_flag=True, help="say what it will cost in tokens, memory and time"),
    click.option("--budget", metavar="TIME", help="choose rows so that all ends in 90s, 10m or 2h"),
    click.option("--json", is_flag=True, help="print the records as one JSON object, nothing else"),
    click.option(
        "--strict", is_flag=True, help="refuse truncation, wrong checksums and missing data"
    ),
)


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all benchmark commands share."""
    for option in reversed(RUN):
        function = option(function)
    return function


def more_models(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the other paths of `--model ckpts/*`, which the shell spells out."""
    argument = click.argument(
        "models", nargs=-1, metavar="[MODEL]...", shell_complete=complete.models
    )
    return argument(function)


def chosen(options: dict[str, Any]) -> Any:
    """The command line's options; models that were given as arguments join the others."""
    from harness.options import RunOptions

    models = (*options.pop("model"), *options.pop("models", ()))
    return RunOptions(model=models, **options)


SIZE = click.option("--size", help="the paper's model to compare with: 117M, 345M, 762M or 1542M")
LEADERBOARD = click.option(
    "--leaderboard",
    type=click.Path(path_type=Path),
    help="CSV to write with a row a model, each as soon as it is finished",
)
