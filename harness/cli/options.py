"""The options that several commands share, declared for click.

Each command takes the groups that it honours and no other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from harness.cli import completion
from harness.cli.types import THREADS, WORKERS, Duration
from harness.errors import UsageError

Option = Callable[[Any], Any]
PATH = click.Path(path_type=Path)

DATA_DIR = click.option(
    "--data-dir",
    type=PATH,
    envvar="HARNESS_DATA",
    help="folder with the original files; default: the environment variable HARNESS_DATA",
)
DATA_FILE = click.option("--data-file", type=PATH, help="this file and no other")
ROWS: tuple[Option, ...] = (
    click.option("--sample", is_flag=True, help="the built-in rows: shows that it works"),
    click.option("--hub", is_flag=True, help="fetch what --data-dir lacks from the hub"),
    click.option("--limit", type=int, help="so many rows, taken at random by --seed"),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0)),
)
PROTOCOL: tuple[Option, ...] = (
    click.option(
        "--protocol",
        default="paper",
        show_default=True,
        shell_complete=completion.presets,
        help="named preset",
    ),
    click.option(
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=completion.settings,
        help="change one option",
    ),
)
DATA = (DATA_DIR, DATA_FILE, *ROWS, *PROTOCOL)
"""Which rows are taken and what they become, for one benchmark."""
TABLE_DATA = (DATA_DIR, *ROWS, *PROTOCOL)
"""The same for many benchmarks."""


def _model(text: str) -> Option:
    return click.option(
        "--model", multiple=True, required=True, shell_complete=completion.models, help=text
    )


MODELS = _model("hub name, folder, GGUF file, or smollm2-135m (the demo); may be repeated")
MODEL = _model("hub name, folder, GGUF file, or smollm2-135m (the demo)")
REVISION = click.option("--revision", help="commit, branch or tag on the hub")
TRUST = click.option(
    "--trust-remote-code", is_flag=True, help="run code that comes with the model; recorded"
)
DEVICE = click.option("--device", help="cpu, cuda, cuda:1, ...; default: the accelerator if any")
DTYPE = click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
)
CONTEXT = click.option(
    "--context",
    type=click.IntRange(min=8),
    help="tokens fed at once; default: the smaller of 1024 and what the model has",
)
BATCH_TOKENS = click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    help="padded tokens per batch; moves no score beyond rounding",
)
THREADS_OF_CPU = click.option(
    "--threads", type=THREADS, help="threads of the CPU; moves no score beyond rounding"
)
COMPUTE: tuple[Option, ...] = (
    click.option(
        "--compile",
        is_flag=True,
        help="passes through torch.compile: slow to begin, for long runs on an accelerator",
    ),
    click.option("--workers", type=WORKERS, help="answer in so many Ray workers"),
    click.option(
        "--address", help="address of a Ray cluster for the workers; default: this machine"
    ),
)
LOAD = (REVISION, TRUST, DEVICE, DTYPE, CONTEXT, BATCH_TOKENS, THREADS_OF_CPU, *COMPUTE)
"""How a checkpoint is loaded and run."""
GRID: tuple[Option, ...] = (
    click.option("--grid", is_flag=True, help="all presets, as a table beside the paper's number"),
    click.option(
        "--vary",
        multiple=True,
        metavar="KEY=V,V",
        shell_complete=completion.keys,
        help="all combinations of these, as --grid",
    ),
)
CACHE = click.option(
    "--cache", type=PATH, help="folder of the stored answers; default: in the user's cache"
)
NO_CACHE = click.option("--no-cache", is_flag=True, help="neither use nor store answers")
STRICT = click.option(
    "--strict",
    is_flag=True,
    help="refuse items that are cut, empty or have a token across their boundary, files that are "
    "not the published ones, and missing data",
)
RESULTS: tuple[Option, ...] = (
    click.option(
        "--out",
        type=PATH,
        default=Path("results/records"),
        show_default=True,
        help="folder for the records",
    ),
    CACHE,
    NO_CACHE,
    click.option("--dump", type=PATH, help="write one JSON line per item to this file"),
    click.option("--plan", is_flag=True, help="say what it will cost in tokens, memory and time"),
    click.option(
        "--budget",
        metavar="TIME",
        type=Duration("10m"),
        help="choose rows so that all ends in 90s, 10m or 2h",
    ),
    click.option("--json", is_flag=True, help="print the records as one JSON object, nothing else"),
    STRICT,
)
SIZE = click.option("--size", help="the paper's model to compare with: 117M, 345M, 762M or 1542M")
LEADERBOARD = click.option(
    "--leaderboard",
    type=PATH,
    help="CSV to write with one row per model, each as soon as it is finished; a Markdown table "
    "beside it",
)

BENCHMARK = (MODELS, *LOAD, *DATA, *GRID, *RESULTS)
TABLE = (MODELS, *LOAD, *TABLE_DATA, *RESULTS, SIZE, LEADERBOARD)
SHOW = (MODEL, REVISION, TRUST, CONTEXT, *DATA)
JITTER = (MODEL, REVISION, TRUST, DEVICE, CONTEXT, THREADS_OF_CPU, *COMPUTE, *DATA, STRICT)
"""It chooses number formats and token budgets itself, stores no answers and writes no records."""


def takes(options: tuple[Option, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add options to a command, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def more_models(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the other paths of `--model ckpts/*`, which the shell spells out."""
    argument = click.argument(
        "models", nargs=-1, metavar="[MODEL]...", shell_complete=completion.models
    )
    return argument(function)


def given(name: str) -> bool:
    """Whether the command line itself gives an option; a default or the environment does not."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def chosen(options: dict[str, Any]) -> Any:
    """The command line's options; models that were given as arguments join the others.

    Raises:
        UsageError: a folder for the data is given beside the built-in rows.
    """
    from harness.commands.evaluate.run_options import RunOptions

    if options.get("sample") and given("data_dir"):
        raise UsageError("--data-dir and --sample name different rows; give one of them")
    models = (*options.pop("model", ()), *options.pop("models", ()))
    different = tuple(dict.fromkeys(models))
    if len(different) < len(models):
        from harness.display import terminal

        terminal.note("a model that is given more than once is evaluated once")
    return RunOptions(model=different, **options)
