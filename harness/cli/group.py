"""The root of the command line: fixed commands, one command per installed task, and exit codes.

Every command is imported when it is used, and imports what it needs itself: `harness --help` loads
no torch.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from harness.cli import completion
from harness.errors import HarnessError, UsageError
from harness.files.escape import one_line
from harness.plugins.registry import origins, task_names

COMMANDS = {
    "run": "evaluate.run:run",
    "table3": "evaluate.table:table3",
    "section3": "evaluate.table:section3",
    "watch": "evaluate.watch:watch",
    "tasks": "evaluate.tasks:tasks",
    "show": "evaluate.show:show",
    "compare": "compare.compare:compare",
    "baseline": "compare.baseline:baseline",
    "check": "compare.check:check",
    "gate": "compare.gate:gate",
    "power": "compare.power:power",
    "jitter": "compare.jitter:jitter",
    "explain": "inspect.explain:explain",
    "report": "inspect.report:report",
    "leaderboard": "inspect.leaderboard:leaderboard",
    "curve": "inspect.curve:curve",
    "overlap": "inspect.overlap:overlap",
    "doctor": "setup.doctor:doctor",
    "cache": "setup.cache:cache",
    "init-task": "setup.init_task:init_task",
    "completion": "setup.completion:completion",
}
"""Name -> module below `harness.cli` and function."""
DEFECT = 70  # as EX_SOFTWARE of sysexits.h; 1 to 3 are verdicts and refusals
CLOSED_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
# Refusals of the operating system, which are not defects of ours.
_REFUSED = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


class _ClosedPipe(Exception):
    """The reader of standard output has gone."""


@contextmanager
def _pipe_watched() -> Iterator[None]:
    """Carry a closed pipe past click, which would exit with 1, the code of a regression."""
    try:
        yield
    except BrokenPipeError as error:
        raise _ClosedPipe from error


class Group(click.Group):
    """The fixed commands, then one per installed task; each is imported when it is used."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line; `--help` and `--version` print here."""
        with _pipe_watched():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _pipe_watched():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Fixed commands first."""
        return [*COMMANDS, *self.tasks()]

    def tasks(self) -> list[str]:
        """Names of the installed tasks, the paper's first; one named like a command cannot run."""
        from harness.analysis.paper.published import in_order

        return [name for name in in_order(task_names()) if name not in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name in COMMANDS:
            return _load(cmd_name)
        if cmd_name not in task_names():
            return None
        from harness.cli.evaluate.benchmark import benchmark_command

        return benchmark_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run; for an unknown name, suggest the nearest ones."""
        named = args and not args[0].startswith("-") and not ctx.resilient_parsing
        if named and self.get_command(ctx, args[0]) is None:
            from harness.task import unknown

            names = self.list_commands(ctx)
            raise UsageError(unknown("command or task", args[0], names, see="`harness --help`"))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands with their help, and tasks by name, so that none is imported."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        words = {**dict(self._help(45)), **dict.fromkeys(self.tasks(), "task")}
        return [CompletionItem(w, help=h) for w, h in words.items() if w.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write commands with their help, and tasks by name, so that none is imported."""
        with formatter.section("Commands"):
            formatter.write_dl(self._help(62))
        with formatter.section("Tasks"):
            formatter.write_text(", ".join(self.tasks()))
        for name in task_names():
            if name in COMMANDS:
                where = ", ".join(origins(name))
                note = f"task {name!r} ({where}) is named like a command and cannot be run"
                click.echo(f"note: {note}; its package must rename it", err=True)

    def fixed(self) -> dict[str, click.Command]:
        """Import all commands but those of tasks."""
        return {name: _load(name) for name in COMMANDS}

    def _help(self, limit: int) -> list[tuple[str, str]]:
        """Name and short help of every fixed command."""
        return [(name, c.get_short_help_str(limit)) for name, c in self.fixed().items()]


def _load(name: str) -> click.Command:
    module, _, function = COMMANDS[name].partition(":")
    command: click.Command = getattr(import_module(f"harness.cli.{module}"), function)
    return command


@click.group(
    cls=Group,
    context_settings={"max_content_width": 100},
    epilog="`harness tasks` lists the tasks, `harness tasks TASK` describes one.",
)
@click.version_option(package_name="zero-shot-harness", prog_name="harness")
def cli() -> None:
    """Zero-shot benchmarks of the GPT-2 paper for any Hugging Face causal checkpoint."""


def main() -> None:
    """Run the command line; print an error as one line, and exit with code 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    try:
        _run()
    except (_ClosedPipe, BrokenPipeError):
        _silence()
        sys.exit(CLOSED_PIPE)
    except Exception:  # a defect of ours
        traceback.print_exc()
        sys.exit(DEFECT)


def _silence() -> None:
    """Discard what is still buffered, so that Python does not fail on it at exit."""
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
        sys.stdout.flush()  # here, where a closed pipe is caught
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
    """The operating system's reason, with the name of the file cut to 80 characters."""
    if error.filename is None:
        return f"cannot write the output: {error.strerror}"
    name = str(error.filename)
    return f"{name if len(name) <= 80 else f'{name[:80]}...'}: {error.strerror}"


def _fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with code 2; print nothing during completion."""
    if completion.VARIABLE in os.environ:
        sys.exit(2)
    sys.stdout.flush()
    click.echo(f"harness: {one_line(message)}", err=True)
    sys.exit(2)
