"""What the shell offers when a word of the command line is begun, and the script that asks for it.

The mechanism is click's. What is offered comes from installed metadata and from the declaration
of the one benchmark that is being typed: no torch, no data, and silence where something is wrong,
since nobody wants an error inside the line that is being typed.
"""

from collections.abc import Callable, Iterable, Sequence

import click
from click.shell_completion import CompletionItem, get_completion_class

from harness.errors import HarnessError, UsageError
from harness.plugins.registry import load_task, task_names

VARIABLE = "_HARNESS_COMPLETE"
DEMO = "smollm2-135m"
SHELLS = ("bash", "zsh", "fish")
TABLES = {"table3": "COLUMNS", "section3": "SECTION3"}
TAKE_NAMES = ("show", "jitter")  # commands whose arguments are benchmarks

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def offering(words: Callable[[click.Context], Iterable[str]]) -> Offer:
    """What click asks: those of `words` that begin like the one that is being typed."""

    def offer(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        del parameter
        try:
            return [CompletionItem(word) for word in words(context) if word.startswith(incomplete)]
        except HarnessError:
            return []

    return offer


def models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The demo's name once it is begun, else files and folders."""
    del context, parameter
    if incomplete and DEMO.startswith(incomplete):
        return [CompletionItem(DEMO)]
    return [CompletionItem(incomplete, type="file")]


def _meant(context: click.Context) -> Sequence[str]:
    """The benchmarks that a command is about; those of a table are many."""
    from harness.analysis.paper import published

    command = context.info_name or ""
    if command in TABLES:
        return published.tasks(getattr(published, TABLES[command]))
    if command not in TAKE_NAMES:
        return [command]
    # An option without its value ends click's parsing: then the arguments are still unread.
    given = context.params.get("names") or context.params.get("name") or context.args[:1]
    return [given] if isinstance(given, str) else list(given)


def _presets(context: click.Context) -> Iterable[str]:
    return dict.fromkeys(preset for name in _meant(context) for preset in load_task(name).protocols)


def _settings(context: click.Context) -> Iterable[str]:
    """`key=value` for every allowed value; a number is left to be typed."""
    pairs = [(o.name, c) for n in _meant(context) for o in load_task(n).options for c in o.choices]
    return dict.fromkeys(f"{name}={choice.replace('<n>', '')}" for name, choice in pairs)


def _keys(context: click.Context) -> Iterable[str]:
    found = [f"{option.name}=" for n in _meant(context) for option in load_task(n).options]
    return dict.fromkeys(found)


benchmarks = offering(lambda context: task_names())
presets = offering(_presets)
settings = offering(_settings)
keys = offering(_keys)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes `harness` in a SHELL.

    It offers commands, benchmarks, options, protocols and their values. Add it to what the shell
    reads at its start: `harness completion bash >> ~/.bashrc`.
    """
    found = get_completion_class(shell)
    if found is None:  # a version of click that does not know the shell
        raise UsageError(f"click has no completion for {shell!r}; choose from: {', '.join(SHELLS)}")
    click.echo(found(context.find_root().command, {}, "harness", VARIABLE).source())


COMMANDS = (completion,)
