"""Generate the pages of the site that come from the program.

    index.md           the README
    benchmarks/*.md    one per benchmark: its declaration, and its section of protocols.md
    commands.md        the help of every command, as the program prints it

`docs/hooks.py` hands them to mkdocs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from harness.analysis.paper import published as paper
from harness.cli.group import cli
from harness.core import Example, Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.plugins.registry import load_task
from harness.runner import prepare
from harness.task import Task
from harness.testing.golden import STREAM_ROWS, sample_job

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MAX_REQUEST_CHARS = 1200
HELP_WIDTH = 98  # columns
MODEL = "smollm2-135m"


def pages() -> dict[str, str]:
    """Path inside the site's source -> Markdown, for every generated page."""
    names = benchmarks()
    return {
        "index.md": overview(),
        "commands.md": commands(),
        "benchmarks/index.md": benchmark_list(names),
        **{f"benchmarks/{name}.md": benchmark(load_task(name)) for name in names},
    }


def benchmarks() -> list[str]:
    """The paper's benchmarks, in its order."""
    return list(paper.tasks((*paper.COLUMNS, *paper.SECTION3)))


# --- the README -------------------------------------------------------------------------


def overview() -> str:
    """The README; links to files that are not pages of the site become plain text."""
    return relinked(
        (ROOT / "README.md").read_text("utf-8"), {r"docs/([\w-]+\.md|images/[\w-]+\.png)": r"\1"}
    )


def relinked(text: str, targets: Mapping[str, str]) -> str:
    """Markdown whose link targets are replaced: pattern of a path -> new path.

    Anchors are kept. A link whose path matches no pattern becomes plain text.
    """

    def replace(link: re.Match[str]) -> str:
        words, path, anchor = link.groups(default="")
        if path.startswith("http") or (not path and anchor):
            return link[0]
        for pattern, target in targets.items():
            if found := re.fullmatch(pattern, path):
                return f"[{words}]({found.expand(target)}{anchor})"
        return words

    return re.sub(r"\[([^\]]+)\]\(([^)\s#]*)(#[^)\s]*)?\)", replace, text)


# --- commands ---------------------------------------------------------------------------


def commands() -> str:
    """The help of every command; all benchmarks share one."""
    parts = [
        "# Commands",
        "The output of `--help`. [Command line](command-line.md) explains the common options and "
        "the exit codes.",
        *_help("harness", cli),
        *(part for name, one in cli.fixed().items() for part in _help(f"harness {name}", one)),
        "## Benchmark commands",
        f"Every benchmark is a command. All {len(benchmarks())} of them take the same "
        f"{len(_command('lambada').params) - 1} options. This is one of them; "
        "[the pages of the benchmarks](benchmarks/index.md) describe the differences.",
        *_help("harness lambada", _command("lambada"), level=3),
    ]
    return "\n\n".join(parts) + "\n"


def _command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None, f"no command {name!r}"
    return found


def _help(name: str, command: click.Command, level: int = 2) -> Iterator[str]:
    """Heading and help of a command, and of its subcommands."""
    yield f"{'#' * level} {name}"
    yield _fenced(help_text(name, command))
    if isinstance(command, click.Group) and command is not cli:
        for word, sub in command.commands.items():
            yield from _help(f"{name} {word}", sub, level + 1)


def help_text(name: str, command: click.Command) -> str:
    """What `name --help` prints on a wide terminal."""
    return command.get_help(click.Context(command, info_name=name, terminal_width=HELP_WIDTH))


def _fenced(text: str, language: str = "text") -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


# --- benchmarks -------------------------------------------------------------------------


def benchmark_list(names: Sequence[str]) -> str:
    """All benchmarks, with the numbers of the paper that they reproduce."""
    rows = []
    for name in names:
        task = load_task(name)
        columns = dict.fromkeys(p.column for p in paper.numbers() if p.task == name)
        rows.append((f"[{name}]({name}.md)", task.title, ", ".join(columns)))
    intro = (
        "One page each: data, protocols and options, what the model is asked, what others got, and "
        "what is still open. [Add your own](../plugins.md) with a small package."
    )
    return f"# Benchmarks\n\n{intro}\n\n{_table(('command', 'what it is', 'numbers'), rows)}\n"


def benchmark(task: Task) -> str:
    """The page of one benchmark: its declaration, an example, and its section of protocols.md."""
    parts = [
        f"# {task.name}",
        f"{task.title}. {task.description}",
        _fenced(
            f"harness tasks {task.name}\n"
            f"harness show {task.name} --model {MODEL} --sample -n 2\n"
            f"harness {task.name} --model {MODEL} --sample --limit 3",
            "sh",
        ),
        "## Data",
        _data(task),
        "## What the model is asked",
        _example(task),
        "## Scores",
        _scores(task),
        "## The paper's numbers",
        _published(task.name),
        "## Protocol",
        section(task.name),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _data(task: Task) -> str:
    source = task.source(task.protocol().options)
    rows = [
        ("rows", source.title),
        ("file", " or ".join(f"`{name.removeprefix('./')}`" for name in source.files)),
        ("from", f"<{source.origin}>" if source.origin.startswith("http") else source.origin),
    ]
    if source.hub:
        hub = source.hub
        rows.append(("hub", f"`{hub.repo}`, file `{hub.file}`, revision `{hub.revision}`"))
    if source.rows:
        rows.append(("published rows", f"{source.rows:,}"))
    rows += [("published sha256", f"`{digest}`") for digest in source.sha256[:1]]
    return _table(("", "under the protocol `paper`"), rows)


def _scores(task: Task) -> str:
    measures = task.measures(task.protocol().options)
    rows = [(f"`{m.name}`", m.help, m.metric.unit, m.column or "") for m in measures]
    return _table(("score", "what it is", "unit", "column of the paper"), rows)


def _published(name: str) -> str:
    numbers = [p for p in paper.numbers() if p.task == name]
    rows = []
    for column in dict.fromkeys(p.column for p in numbers):
        found = [paper.published(column, m) for m in (paper.STATE_OF_THE_ART, *paper.SIZES)]
        rows.append((column, *("" if value is None else f"{value:g}" for value in found)))
    note = (
        "As printed, or for the smaller models of section 3 traced from a figure; "
        "[which is which](../protocols.md#section-3)."
        if any(p.column in paper.SECTION3 for p in numbers)
        else "As printed in [Table 3](../protocols.md#the-numbers-to-compare-with)."
    )
    return f"{_table(('number', paper.STATE_OF_THE_ART, *paper.SIZES), rows)}\n\n{note}"


def _example(task: Task) -> str:
    """The requests of the first example of the built-in sample, the exact strings."""
    job = sample_job(task, task.protocol(), STREAM_ROWS if task.stream else 1)
    asked = prepare(job)
    example, requests = asked.examples[0], asked.groups[0]
    lead = (
        f"The first example of the built-in sample under the protocol `paper`: "
        f"{len(requests)} request{'s' if len(requests) > 1 else ''}, and the strings are exact."
    )
    shown = [part for request in requests[:2] for part in _request(request)]
    if len(requests) > 2:
        shown.append(f"And {len(requests) - 2} more.")
    return "\n\n".join([lead, *shown, *_references(example)])


def _references(example: Example) -> list[str]:
    if not example.references:
        return []
    found = " or ".join(f"`{' '.join(text.split())}`" for text in example.references)
    return [f"Correct: {found}"]


def _request(request: Request) -> list[str]:
    """A request in words, and its text."""
    match request:
        case Loglikelihood(context, continuation):
            return [
                "How probable is the last line after the text above it?",
                _fenced(f"{_short(context)}\n───\n{continuation}"),
            ]
        case NextWord(context, skip):
            return [
                f"Which whole word outside a list of {len(skip)} is the most probable one here?",
                _fenced(_short(context)),
            ]
        case Generate() as asked:
            how = "greedily" if asked.top_k == 1 else f"among the {asked.top_k} most probable"
            return [
                f"What does the model write after this ({how}, at most {asked.max_new_tokens} "
                "tokens)?",
                _fenced(_short(asked.prompt)),
            ]
        case RollingLoglikelihood(pieces):
            texts = [p if isinstance(p, str) else p.decode("utf-8", "replace") for p in pieces]
            return [
                "How probable is this text, token after token?",
                _fenced(_short("".join(texts))),
            ]


def _short(text: str) -> str:
    """The text, without its middle where it is long."""
    if len(text) <= MAX_REQUEST_CHARS:
        return text
    half = MAX_REQUEST_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - MAX_REQUEST_CHARS:,} characters ...]\n{text[-half:]}"


def section(name: str) -> str:
    """The section of protocols.md about a benchmark, with links that work from its own page."""
    text = (DOCS / "protocols.md").read_text("utf-8")
    found = re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    [body] = [body for title, body in found if name in title.split(" and ")]
    own = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall("### (.*)", body)
    }

    def outside(link: re.Match[str]) -> str:
        return link[0] if link[2] in own else f"[{link[1]}](../protocols.md#{link[2]})"

    body = re.sub(r"\[([^\]]+)\]\(#([^)]+)\)", outside, body)
    up = {r"\.\./README\.md": "../index.md", r"\.\./protocols\.md": "../protocols.md"}
    return relinked(body, {**up, r"([\w-]+\.md)": r"../\1"}).strip()
