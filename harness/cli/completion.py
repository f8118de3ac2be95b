"""Shell completion of tasks, models, protocols and their options.

Only installed metadata and the declaration of the task on the command line are read: no torch and
no data. Errors complete nothing, so that no message lands in the line that is being typed.
"""

import os
from collections.abc import Callable, Iterable, Sequence

import click
from click.shell_completion import CompletionItem

from harness.engine.endpoint.settings import is_endpoint
from harness.errors import HarnessError
from harness.plugins.registry import load_task, task_names

VARIABLE = "_HARNESS_COMPLETE"
DEMO = "smollm2-135m"
SHELLS = ("bash", "zsh", "fish")
TABLES = {"table3": "COLUMNS", "section3": "SECTION3"}
TASK_COMMANDS = ("show", "jitter")  # commands whose arguments are tasks

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def completer(words: Callable[[click.Context], Iterable[str]]) -> Completer:
    """Complete to those of `words` that start with what is typed."""

    def complete(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            return [CompletionItem(word) for word in words(context) if word.startswith(incomplete)]
        except HarnessError:
            return []

    return complete


def models(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete to the demo's name if it is begun, else to files and folders; no address."""
    if is_endpoint(incomplete):
        return []
    if incomplete and DEMO.startswith(incomplete):
        return [CompletionItem(DEMO)]
    return [CompletionItem(incomplete, type="file")]


def task_list(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the last of several names joined by commas, else to files, for a run file."""
    before, comma, name = incomplete.rpartition(",")
    names = [n for n in (*TABLES, *task_names()) if n.startswith(name)]
    items = [CompletionItem(f"{before}{comma}{n}") for n in names]
    return items or [CompletionItem(incomplete, type="file")]


def _tasks(context: click.Context) -> Sequence[str]:
    """Names of the tasks that the command line names, or that its table has."""
    from harness.analysis.paper import published

    command = context.info_name or ""
    if command in TABLES:
        return published.tasks(getattr(published, TABLES[command]))
    if command == "run":
        return task_names()
    if command not in TASK_COMMANDS:
        return [command]
    # An option without its value ends click's parsing, and leaves the arguments unread.
    names = context.params.get("names") or context.params.get("name") or context.args[:1]
    return [names] if isinstance(names, str) else list(names)


def _protocols(context: click.Context) -> Iterable[str]:
    return dict.fromkeys(p for name in _tasks(context) for p in load_task(name).protocols)


def _settings(context: click.Context) -> Iterable[str]:
    """`key=value` for every allowed value, and `key=` for a number."""
    pairs = [(o.name, c) for n in _tasks(context) for o in load_task(n).options for c in o.choices]
    return dict.fromkeys(f"{name}={choice.replace('<n>', '')}" for name, choice in pairs)


def _keys(context: click.Context) -> Iterable[str]:
    return dict.fromkeys(f"{o.name}=" for n in _tasks(context) for o in load_task(n).options)


variables = completer(lambda context: os.environ)
task = completer(lambda context: task_names())
protocols = completer(_protocols)
settings = completer(_settings)
keys = completer(_keys)
