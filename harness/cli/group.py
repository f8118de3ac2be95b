"""The command line: a command per benchmark, found through entry points, and the tables.

Heavy imports happen inside the command that needs them: `harness --help` loads no torch.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from harness.cli import completion, curve, init, look, overlap, pages, pairs
from harness.cli.options import BENCHMARK, SHOW, TABLE, chosen, more_models, takes
from harness.errors import HarnessError, UsageError
from harness.files.escape import one_line
from harness.plugins.registry import origins, task_names

CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell sees a program that nobody listens to any more
# What the machine refuses, in its own words: no defect of ours.
_REFUSED = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip
EPILOG = "`harness tasks` lists the benchmarks, `harness tasks NAME` explains one."


class _ClosedPipe(Exception):
    """Nobody reads standard output any more."""


@contextmanager
def _pipe_watched() -> Iterator[None]:
    """Hand a closed pipe past click, which would exit with 1, the code of a regression."""
    try:
        yield
    except BrokenPipeError as error:
        raise _ClosedPipe from error


class Group(click.Group):
    """The fixed commands, then one for each installed benchmark, built when it is asked for."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """As click does; `--help` and `--version` are printed here."""
        with _pipe_watched():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does."""
        with _pipe_watched():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Fixed commands first."""
        return [*super().list_commands(ctx), *self.benchmarks()]

    def benchmarks(self) -> list[str]:
        """Names of the installed benchmarks; one that is named like a command cannot be run."""
        return [name for name in _benchmarks() if name not in self.commands]

    def unreachable(self) -> list[str]:
        """Of each benchmark that is named like a command: why it cannot be run."""
        return [
            f"benchmark {name!r} ({', '.join(origins(name))}) is named like a command and cannot "
            "be run; its package must rename it"
            for name in task_names()
            if name in self.commands
        ]

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
        asked = args and not args[0].startswith("-") and not ctx.resilient_parsing
        if asked and self.get_command(ctx, args[0]) is None:
            from harness.task import unknown

            raise UsageError(unknown("command or benchmark", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands with their help, and benchmarks by name only, since none is imported."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        fixed = {name: self.commands[name].get_short_help_str() for name in self.commands}
        words = {**fixed, **dict.fromkeys(self.benchmarks(), "benchmark")}
        return [CompletionItem(w, help=h) for w, h in words.items() if w.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Fixed commands with their help; benchmarks by name only, since none is imported."""
        fixed = [(name, self.commands[name].get_short_help_str(70)) for name in self.commands]
        with formatter.section("Commands"):
            formatter.write_dl(fixed)
        with formatter.section("Benchmarks"):
            formatter.write_text(", ".join(self.benchmarks()))
        for line in self.unreachable():
            click.echo(f"note: {line}", err=True)


def _benchmarks() -> list[str]:
    """Names of all installed benchmarks, the paper's first."""
    from harness.analysis.paper.published import in_order

    return in_order(task_names())


@click.group(cls=Group, epilog=EPILOG, context_settings={"max_content_width": 100})
@click.version_option(package_name="zero-shot-harness", prog_name="harness")
def cli() -> None:
    """Zero-shot benchmarks of the GPT-2 paper for any Hugging Face causal checkpoint."""


@cli.command()
@more_models
@takes(TABLE)
def table3(**options: Any) -> None:
    """The paper's Table 3, its numbers beside yours."""
    from harness.commands.evaluate.benchmark import TABLE3, run_table

    run_table(TABLE3, chosen(options))


@cli.command(name="section3")
@more_models
@takes(TABLE)
def section_3(**options: Any) -> None:
    """The tasks of the paper's section 3, its numbers beside yours.

    Reading comprehension, summaries with the paper's Table 4, translation, questions with
    calibration, and Winograd schemas.
    """
    from harness.commands.evaluate.benchmark import SECTION3, run_table

    run_table(SECTION3, chosen(options))


@cli.command()
@click.argument("name", required=False, shell_complete=completion.benchmarks)
def tasks(name: str | None) -> None:
    """List the benchmarks, or explain one.

    With a NAME: what it measures, where its data comes from, its options and protocols.
    """
    from harness.commands.evaluate.benchmark import explain_task, list_tasks

    if name:
        explain_task(name)
    else:
        list_tasks()


@cli.command()
@click.argument("name", shell_complete=completion.benchmarks)
@click.option("-n", "count", default=1, show_default=True, type=click.IntRange(min=1))
@takes(SHOW)
def show(name: str, count: int, **options: Any) -> None:
    """Show what the model would see; compute nothing.

    The tokens of the first items, what is cut to fit the context, and after a double bar the
    tokens whose probability is asked for. Needs a tokenizer and a config, no weights.
    """
    from harness.commands.evaluate.benchmark import show_examples

    show_examples(name, chosen(options), count)


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
    from harness.commands.evaluate.benchmark import write_leaderboard

    write_leaderboard(records, out)


_FIXED = (
    *pairs.COMMANDS,
    *curve.COMMANDS,
    *pages.COMMANDS,
    *overlap.COMMANDS,
    *look.COMMANDS,
    *init.COMMANDS,
    *completion.COMMANDS,
)
for _command in _FIXED:
    cli.add_command(_command)


def benchmark_command(name: str) -> click.Command:
    """The command of one benchmark, with its description as help."""
    from harness.plugins.registry import load_task

    task = load_task(name)

    def run(**options: Any) -> None:
        from harness.commands.evaluate.benchmark import run_benchmark
        from harness.commands.evaluate.grid import run_grid

        given = chosen(options)
        (run_grid if given.grid or given.vary else run_benchmark)(name, given)

    epilog = f"`harness tasks {name}` explains its options and protocols."
    command = click.command(name, help=f"{task.title}.\n\n{task.description}", epilog=epilog)
    return command(more_models(takes(BENCHMARK)(run)))


def main() -> None:
    """Run the command line; what is wrong with the call becomes one line and exit code 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, who wants the exit code alone
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    try:
        _run()
    except (_ClosedPipe, BrokenPipeError):
        _silence()
        sys.exit(CLOSED_PIPE)
    except Exception:  # a defect of ours: 1 would say that a check has found a regression
        traceback.print_exc()
        sys.exit(3)


def _silence() -> None:
    """Let what is still in the buffers go nowhere, so that Python's exit does not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _run() -> None:
    try:
        status = cli.main(prog_name="harness", standalone_mode=False)
        sys.stdout.flush()  # here, where it is seen whether anybody reads it
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
        if error.errno not in _REFUSED:
            raise
        _fail(_refusal(error))
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted")


def _refusal(error: OSError) -> str:
    """What the machine refuses; a name that is too long is shown by its beginning."""
    if error.filename is None:
        return f"cannot write the output: {error.strerror}"
    name = str(error.filename)
    return f"{name if len(name) <= 80 else f'{name[:80]}...'}: {error.strerror}"


def _fail(message: str) -> NoReturn:
    """One line on standard error, exit code 2; not a word into a line that is being typed."""
    if completion.VARIABLE in os.environ:
        sys.exit(2)
    sys.stdout.flush()
    click.echo(f"harness: {one_line(message)}", err=True)
    sys.exit(2)
