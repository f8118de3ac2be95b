"""The command line: a command per benchmark, found through entry points, and the tables.

Heavy imports happen inside the command that needs them: `harness --help` loads no torch.
"""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from harness.errors import HarnessError, PluginError, UsageError
from harness.plugins import task_names

EPILOG = "`harness tasks` lists the benchmarks, `harness tasks NAME` explains one."


class Group(click.Group):
    """The fixed commands, then one for each installed benchmark, built when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Fixed commands first."""
        return [*super().list_commands(ctx), *self.benchmarks()]

    def benchmarks(self) -> list[str]:
        """Names of the installed benchmarks.

        Raises:
            PluginError: one is named like a command, so that it could never be run.
        """
        names = _benchmarks()
        taken = sorted(set(names) & set(self.commands))
        if taken:
            raise PluginError(
                f"a benchmark is named {taken[0]!r} like a command; its package must rename it"
            )
        return names

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None if there is none of that name."""
        fixed = super().get_command(ctx, cmd_name)
        if fixed is not None or cmd_name not in task_names():
            return fixed
        return benchmark_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown name is answered with the nearest known ones."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from harness.task import unknown

            raise UsageError(unknown("command or benchmark", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Fixed commands with their help; benchmarks by name only, since none is imported."""
        fixed = [(name, self.commands[name].get_short_help_str(70)) for name in self.commands]
        with formatter.section("Commands"):
            formatter.write_dl(fixed)
        with formatter.section("Benchmarks"):
            formatter.write_text(", ".join(self.benchmarks()))


def _benchmarks() -> list[str]:
    """Names of all installed benchmarks, the paper's first."""
    from harness.report.paper import in_order

    return in_order(task_names())


_RUN_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--model",
        multiple=True,
        required=True,
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
        "--batch-tokens", type=click.IntRange(min=1), help="padded tokens a batch; changes no score"
    ),
    click.option("--threads", type=click.IntRange(min=1), help="of the CPU; changes no score"),
    click.option("--workers", type=click.IntRange(min=1), help="answer in so many Ray workers"),
    click.option("--address", help="of a Ray cluster for the workers; default: this machine"),
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
    click.option("--protocol", default="paper", show_default=True, help="named preset"),
    click.option("--grid", is_flag=True, help="all presets, as a table beside the paper's number"),
    click.option(
        "--vary", multiple=True, metavar="KEY=V,V", help="all combinations of these, as --grid"
    ),
    click.option("--set", multiple=True, metavar="KEY=VALUE", help="change one option"),
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
    for option in reversed(_RUN_OPTIONS):
        function = option(function)
    return function


def more_models(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the other paths of `--model ckpts/*`, which the shell spells out."""
    return click.argument("models", nargs=-1, metavar="[MODEL]...")(function)


def _chosen(options: dict[str, Any]) -> Any:
    """The command line's options; models that were given as arguments join the others."""
    from harness.options import RunOptions

    models = (*options.pop("model"), *options.pop("models", ()))
    return RunOptions(model=models, **options)


_SIZE = click.option("--size", help="the paper's model to compare with: 117M, 345M, 762M or 1542M")
_LEADERBOARD = click.option(
    "--leaderboard",
    type=click.Path(path_type=Path),
    help="CSV to write with a row a model, each as soon as it is finished",
)


@click.group(cls=Group, epilog=EPILOG, context_settings={"max_content_width": 100})
@click.version_option(package_name="zero-shot-harness", prog_name="harness")
def cli() -> None:
    """Zero-shot benchmarks of the GPT-2 paper for any Hugging Face causal checkpoint."""


@cli.command()
@more_models
@run_options
@_SIZE
@_LEADERBOARD
def table3(**options: Any) -> None:
    """The paper's Table 3, its numbers beside yours."""
    from harness.commands import TABLE3, run_table

    run_table(TABLE3, _chosen(options))


@cli.command(name="section3")
@more_models
@run_options
@_SIZE
@_LEADERBOARD
def section_3(**options: Any) -> None:
    """The tasks of the paper's section 3, its numbers beside yours.

    Reading comprehension, summaries with the paper's Table 4, translation, questions with
    calibration, and Winograd schemas.
    """
    from harness.commands import SECTION3, run_table

    run_table(SECTION3, _chosen(options))


@cli.command()
@click.argument("name", required=False)
def tasks(name: str | None) -> None:
    """List the benchmarks, or explain one.

    With a NAME: what it measures, where its data comes from, its options and protocols.
    """
    from harness.commands import explain_task, list_tasks

    if name:
        explain_task(name)
    else:
        list_tasks()


@cli.command()
@click.argument("name")
@click.option("-n", "count", default=1, show_default=True, type=click.IntRange(min=1))
@run_options
def show(name: str, count: int, **options: Any) -> None:
    """Show what the model would see; compute nothing.

    The tokens of the first items, what is cut to fit the context, and after a double bar the
    tokens whose probability is asked for. Needs a tokenizer and a config, no weights.
    """
    from harness.commands import show_examples
    from harness.options import RunOptions

    show_examples(name, RunOptions(**options), count)


@cli.command()
@click.option(
    "--records",
    multiple=True,
    type=click.Path(path_type=Path),
    default=[Path("results/records")],
    show_default=True,
    help="folder with records; may be repeated",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/leaderboard.csv"),
    show_default=True,
    help="CSV to write; a Markdown table is written beside it",
)
def leaderboard(records: tuple[Path, ...], out: Path) -> None:
    """Turn records into a CSV and a Markdown table."""
    from harness.commands import write_leaderboard

    write_leaderboard(records, out)


_PATHS = click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object, nothing else")


@cli.command()
@_PATHS
@click.option("--all", "every", is_flag=True, help="every score, not the paper's columns alone")
@click.option("--flips", metavar="N", default=0, type=click.IntRange(min=0), help="show so many "
              "items a score that only one of the runs got right")  # fmt: skip
@click.option("--anyway", is_flag=True, help="pair runs that measure different things, too")
@_JSON
def compare(runs: tuple[Path, ...], every: bool, flips: int, anyway: bool, as_json: bool) -> None:
    """Compare RUNS item by item: records, or folders of them.

    Two runs: difference with interval, p and p adjusted over the main scores, and the items that
    flipped. More: a matrix a score. Signatures that differ are named; runs that measure different
    things are not compared.
    """
    from harness.gate import run_compare

    run_compare(runs, anyway=anyway, every=every, flips=flips, as_json=as_json)


@cli.command()
@_PATHS
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/baselines/main.toml"),
    show_default=True,
    help="TOML file to write; the runs are written beside it",
)
@click.option(
    "--rule",
    metavar="RULE",
    help="for every score: paired:DELTA, absolute:TOLERANCE, "
    "relative:SHARE or report; default: paired:0",
)
@click.option(
    "--alpha",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="level of all paired rules together",
)
def baseline(runs: tuple[Path, ...], out: Path, rule: str | None, alpha: float) -> None:
    """Write what `harness check` holds later runs against.

    RUNS are records or folders of them; the newest of a benchmark and protocol counts.
    """
    from harness.gate import write_baseline

    write_baseline(runs, out, rule, alpha)


@cli.command()
@_PATHS
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    help="what `harness baseline` wrote",
)
@click.option("--junit", type=click.Path(path_type=Path), help="write a JUnit file, a case a score")
@click.option(
    "--jitter",
    type=click.Path(path_type=Path),
    help="what `harness jitter` wrote: the least tolerance of every rule",
)
@_JSON
@click.pass_context
def check(
    context: click.Context,
    runs: tuple[Path, ...],
    baseline: Path,
    junit: Path | None,
    jitter: Path | None,
    as_json: bool,
) -> None:
    """Hold RUNS against a baseline.

    Exit code 0: fine. 1: a regression. 2: something is not comparable, or cannot be read. In a
    GitHub job annotations and a summary are written too.
    """
    from harness.gate import run_check

    context.exit(run_check(runs, baseline, junit=junit, jitter=jitter, as_json=as_json))


@cli.command()
@_PATHS
@click.option(
    "--drop",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="points for scores in points, else percent of the score",
)
@click.option("--alpha", default=0.05, show_default=True, type=click.FloatRange(0, 1))
@click.option("--power", default=0.8, show_default=True, type=click.FloatRange(0, 1))
@click.option(
    "--correlation",
    default=0.5,
    show_default=True,
    type=click.FloatRange(-1, 1),
    help="between the items of two runs, where one run is given",
)
@click.option(
    "--discordance",
    type=click.FloatRange(0, 1),
    help="share of right/wrong items that only one of two runs gets right",
)
@_JSON
def power(runs: tuple[Path, ...], as_json: bool, **question: Any) -> None:
    """Say how many items a drop needs, and what today's items can show.

    RUNS: one run, two runs of different checkpoints, or a baseline. Two runs are the better guess:
    the spread of their items' differences is measured.
    """
    from harness.gate import run_power
    from harness.report.power import Question

    run_power(runs, Question(**question), as_json=as_json)


@cli.command()
@click.argument("names", nargs=-1, required=True)
@run_options
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    default=Path("results/jitter.json"),
    show_default=True,
    help="where the figures are kept",
)
def jitter(names: tuple[str, ...], file: Path, **options: Any) -> None:
    """Measure by how much scores of benchmarks move on their own on this machine.

    Each of NAMES is run with several token budgets, thread counts and number formats, always from
    scratch. `harness check --jitter FILE` tolerates that much.
    """
    from harness.jitter import run_jitter
    from harness.options import RunOptions

    run_jitter(names, RunOptions(**options), file)


@cli.group(name="cache", invoke_without_command=True)
@click.option(
    "--cache",
    "folder",
    type=click.Path(path_type=Path),
    help="folder of the stored answers; default: in the user's cache",
)
@click.pass_context
def cache_group(context: click.Context, folder: Path | None) -> None:
    """Show, shorten or check the stored answers.

    Without a subcommand: how many answers there are of each checkpoint, their size, and how often
    one was taken instead of being computed.
    """
    from harness.cache import open_store, show

    context.obj = open_store(folder)
    if context.invoked_subcommand is None:
        show(context.obj)


@cache_group.command()
@click.option("--older", metavar="AGE", help="those stored longer ago: 12h, 30d, 8w")
@click.option("--above", metavar="SIZE", help="the oldest ones, until so much is left: 500M, 2G")
@click.option("--checkpoint", metavar="ID", help="those of one checkpoint, by digest or name")
@click.pass_obj
def prune(store: Any, /, **what: str | None) -> None:
    """Drop stored answers."""
    from harness import cache

    cache.prune(store, **what)


@cache_group.command(name="check")
@click.pass_obj
def check_cache(store: Any) -> None:
    """Read every stored answer; drop the damaged ones."""
    from harness import cache

    cache.check(store)


def benchmark_command(name: str) -> click.Command:
    """The command of one benchmark, with its description as help."""
    from harness.plugins import load_task

    task = load_task(name)

    def run(**options: Any) -> None:
        from harness.commands import run_benchmark
        from harness.grid import run_grid

        chosen = _chosen(options)
        (run_grid if chosen.grid or chosen.vary else run_benchmark)(name, chosen)

    epilog = f"`harness tasks {name}` explains its options and protocols."
    command = click.command(name, help=f"{task.title}.\n\n{task.description}", epilog=epilog)
    return command(more_models(run_options(run)))


def main() -> None:
    """Run the command line; an error of ours becomes one line and exit code 2."""
    try:
        status = cli.main(prog_name="harness", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "harness"
        _fail(f"{error.format_message().rstrip('.')}; see {command} --help")
    except click.ClickException as error:
        _fail(error.format_message())
    except HarnessError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(f"cannot write the output: {error.strerror}")
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted")


def _fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2."""
    click.echo(f"harness: {' '.join(message.split())}", err=True)
    sys.exit(2)
