"""The pages that are generated when the site is built, compared with the program; and the build."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from console import harness

from harness.analysis.paper import published
from harness.cli.group import Group, cli
from harness.plugins.registry import load_task

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
assert _spec is not None
assert _spec.loader is not None
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)
generate = hooks.generate

PAGES = generate.pages()
BENCHMARKS = published.tasks((*published.COLUMNS, *published.SECTION3))


def every_command(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """All fixed commands and subcommands, by the words that call them."""
    yield path
    if isinstance(command, click.Group):
        subcommands = command.fixed() if isinstance(command, Group) else command.commands
        for name, sub in subcommands.items():
            yield from every_command(sub, *path, name)


# --- help -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [*every_command(cli), ("lambada",)], ids=" ".join)
def test_quoted_help_is_what_the_program_prints(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    printed = harness(*words, "--help").out.rstrip("\n")
    heading = re.escape(" ".join(["harness", *words]))
    found = re.findall(
        rf"^#+ {heading}\n\n(```+)text\n(.*?)\n\1$", PAGES["commands.md"], re.DOTALL | re.MULTILINE
    )
    assert [text for _, text in found] == [printed]


def test_one_benchmark_stands_for_all() -> None:
    def options(name: str) -> list[str]:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        return [option for parameter in command.params for option in parameter.opts]

    assert all(options(name) == options("lambada") for name in BENCHMARKS)


# --- benchmarks -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_of_a_benchmark_has_what_the_program_says_of_it(name: str) -> None:
    text, task = PAGES[f"benchmarks/{name}.md"], load_task(name)
    source = task.source(task.protocol().options)
    assert task.description in text
    assert source.origin in text
    assert all(digest in text for digest in source.sha256[:1])
    for preset in task.protocols:
        assert f"\n| `{preset}` |" in text
    for option in task.options:
        assert f"\n| `{option.name}` |" in text
    for measure in task.measures(task.protocol().options):
        assert f"\n| `{measure.name}` | {measure.help} |" in text
    for number in published.numbers():
        if number.task == name and number.model in (published.STATE_OF_THE_ART, *published.SIZES):
            [row] = re.findall(rf"^\| {re.escape(number.column)} \| .*$", text, re.MULTILINE)
            assert f" {number.value:g} " in row
    assert "**What others got**" in text
    assert "**Still open**" in text
    assert f"[{name}]({name}.md)" in PAGES["benchmarks/index.md"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_first_request_is_the_golden_one(name: str) -> None:
    """As far as it is shown: long texts lose their middle."""
    golden = json.loads((ROOT / "tests" / "golden_requests.json").read_text("utf-8"))
    first = golden[name]["requests"]["paper"][0]
    text = first.get("context") or "".join(first.get("parts") or first["pieces"])
    page = PAGES[f"benchmarks/{name}.md"]
    half = generate.MAX_REQUEST_CHARS // 2
    shown = [text] if len(text) <= 2 * half else [text[:half], text[-half:]]
    assert all(part.rstrip("\n") in page for part in shown)
    if "continuations" in first:
        assert f"───\n{first['continuations'][0]}" in page


def test_links_of_a_section_lead_out_of_it() -> None:
    text = generate.section("lambada")
    assert "[start token](../protocols.md#start-token)" in text
    assert "](#" not in text


# --- links and navigation ---------------------------------------------------------------


def test_links_of_the_readme_are_put_right() -> None:
    text = PAGES["index.md"]
    assert "[docs/scale.md](scale.md)" in text
    assert "(images/report.png)" in text
    assert "](docs/" not in text
    assert "see LICENSE." in text


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("[a](../README.md)", "[a](index.md)"),
        ("[a](../README.md#data)", "[a](index.md#data)"),
        ("[a](#data)", "[a](#data)"),
        ("[a](https://x.org/y.md#z)", "[a](https://x.org/y.md#z)"),
        ("[a](../harness/cli/group.py)", "a"),
        ("[a](ci.md#b) [c](LICENSE)", "[a](ci.md#b) c"),
    ],
)
def test_relinked(link: str, becomes: str) -> None:
    targets = {r"\.\./README\.md": "index.md", r"([\w-]+\.md)": r"\1"}
    assert generate.relinked(link, targets) == becomes


def test_a_page_without_a_place_stands_at_the_end() -> None:
    nav = [{"Overview": "index.md"}, {"Benchmarks": ["benchmarks/index.md"]}, {"Gate": "ci.md"}]
    found = hooks.on_config(SimpleNamespace(nav=nav)).nav
    assert found[1]["Benchmarks"][:2] == ["benchmarks/index.md", "benchmarks/lambada.md"]
    assert len(found[1]["Benchmarks"]) == 1 + len(BENCHMARKS)
    assert found[3:] == sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name != "ci.md")


# --- the build --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module, reason="needs the extra docs")
    words = ["mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    html = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    assert {f"benchmarks/{name}/index.html" for name in BENCHMARKS} <= html
    assert {"index.html", "commands/index.html", "python/index.html"} <= html
    for page in html - {"404.html"}:
        text = (tmp_path / page).read_text("utf-8")
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\"\s>]+)", text)
        assert not loaded, f"{page} fetches {loaded}"
    assert "evaluate" in (tmp_path / "python" / "index.html").read_text("utf-8")
