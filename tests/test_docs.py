"""The documentation against the code: options, commands, quoted code, figures, the tree."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import click
import pytest
import yaml
from console import harness
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

import harness as harness_package
from harness.analysis.paper import published as paper
from harness.analysis.rules.rule import KINDS
from harness.analysis.rules.tiers import Status
from harness.cli.group import cli
from harness.commands.evaluate.grid import protocols
from harness.commands.options import ProtocolOptions
from harness.data.load import Where, load
from harness.plugins.registry import load_task
from harness.records.signature import MUST_AGREE
from harness.text import DETOKENISERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text("utf-8")
PLUGINS = (ROOT / "docs" / "plugins.md").read_text("utf-8")
CI = (ROOT / "docs" / "ci.md").read_text("utf-8")
CURVE = (ROOT / "docs" / "curve.md").read_text("utf-8")
OVERLAP = (ROOT / "docs" / "overlap.md").read_text("utf-8")
EXAMPLE = ROOT / "examples" / "harness-rhymes"
WORKFLOW = (ROOT / "examples" / "ci" / "harness-gate.yml").read_text("utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
        EXAMPLE / "README.md",
    )
}
DATA = PAGES["docs/data.md"]
PYTHON = PAGES["docs/python.md"]

# Benchmark -> its section of docs/protocols.md; two share one where their options are the same.
SECTIONS = {
    "lambada": "lambada",
    "cbt-cn": "cbt-cn and cbt-ne",
    "cbt-ne": "cbt-cn and cbt-ne",
    "wikitext2": "wikitext2 and wikitext103",
    "wikitext103": "wikitext2 and wikitext103",
    "ptb": "ptb",
    "enwik8": "enwik8",
    "text8": "text8",
    "lm1b": "lm1b",
    "coqa": "coqa",
    "cnn-dm": "cnn-dm",
    "wmt14-en-fr": "wmt14-en-fr and wmt14-fr-en",
    "wmt14-fr-en": "wmt14-en-fr and wmt14-fr-en",
    "nq": "nq",
    "winograd": "winograd",
}


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    [found] = re.findall(rf"^## {title}\n(.*?)(?=^## )", PROTOCOLS, re.DOTALL | re.MULTILINE)
    return found


def table(text: str, first: str) -> list[list[str]]:
    """Cells of the rows of the table whose first head cell is `first`."""
    [body] = re.findall(rf"^\| {first} \|.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in body.splitlines()]


def code(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


# --- options and protocols --------------------------------------------------------------


def test_every_benchmark_of_the_paper_has_a_section() -> None:
    assert set(SECTIONS) == set(paper.tasks((*paper.COLUMNS, *paper.SECTION3)))


@pytest.mark.parametrize("name", SECTIONS)
def test_options_are_documented_as_they_are(name: str) -> None:
    documented = [
        (*code(row[0]), code(row[1]), *code(row[2]))
        for row in table(section(SECTIONS[name]), "option")
    ]
    options = load_task(name).options
    assert documented == [(o.name, list(o.choices), o.default) for o in options]


@pytest.mark.parametrize("name", SECTIONS)
def test_protocols_are_documented_as_they_are(name: str) -> None:
    documented = {
        row.split("|")[1].strip(" `"): dict(pair.split("=", 1) for pair in code(row.split("|")[2]))
        for row in re.findall(r"^\| `.*\|$", _protocols(name), re.MULTILINE)
    }
    assert documented == {k: dict(v) for k, v in load_task(name).protocols.items()}


def _protocols(name: str) -> str:
    return (
        section(SECTIONS[name]).partition("| protocol | options that differ |")[2].split("\n\n")[0]
    )


def test_published_numbers_are_those_of_the_csv_file() -> None:
    for column, name, unit, *values in table(PROTOCOLS, "column"):
        found = [p for p in paper.numbers() if p.column == column]
        assert {p.task for p in found} == set(code(name))
        assert {p.unit for p in found} == {unit}
        shown = dict(zip((paper.STATE_OF_THE_ART, *paper.SIZES), map(float, values), strict=True))
        assert shown == {p.model: p.value for p in found}
    assert [row[0] for row in table(PROTOCOLS, "column")] == list(paper.COLUMNS)


def test_detokeniser_examples() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| `.*?` \| (`+)(.*?)\2 \| `(.*?)` \|$", _detokenisers(), re.M
    )
    assert len(rows) == 7
    for name, ticks, tokenised, natural in rows:
        # Markdown takes one space off each side where a span of code begins with a backtick.
        line = tokenised[1:-1] if len(ticks) > 1 else tokenised
        assert DETOKENISERS[name].checked(line) == (natural, True)


def _detokenisers() -> str:
    return section("Detokenisers")


# --- figures ----------------------------------------------------------------------------


def test_counts_of_the_real_files(data_dir: Path) -> None:
    """Rows, words and LAMBADA's edge cases, as docs/protocols.md states them."""
    for name, lines, words in (("wikitext2", 4358, 241_211), ("ptb", 3761, 78_669)):
        task = load_task(name)
        rows = load(task.source(task.protocol().options), Where(folder=data_dir)).rows
        assert len(rows) == lines
        assert sum(len(row.fields["text"].split()) for row in rows) == words
    assert "241,211 words in 4,358 lines" in PROTOCOLS
    assert "78,669 words in 3,761 lines" in PROTOCOLS


def test_lambada_tokenisation_facts(data_dir: Path) -> None:
    if not (data_dir / "gpt2-bpe").is_dir():
        pytest.skip("HARNESS_DATA has no folder gpt2-bpe with GPT-2's vocabulary")
    from harness.tasks.lambada import stop_words

    gpt2 = _gpt2(data_dir / "gpt2-bpe")
    task = load_task("lambada")
    options = task.protocol().options
    rows = load(task.source(options), Where(folder=data_dir)).rows
    targets = [example.fields["target"] for example in task.read(rows, options)]
    stops = stop_words("nltk127")
    tokens = [gpt2.encode(target).ids for target in targets]
    firsts = [gpt2.decode(ids[:1]).strip().lower() for ids in tokens if len(ids) > 1]
    facts = (
        sum(
            gpt2.decode(ids[-1:]).strip() != t.strip()
            for ids, t in zip(tokens, targets, strict=True)
        ),
        sum(target.strip().lower() in stops for target in targets),
        sum(first in stops for first in firsts),
        sum("\n" in target for target in targets),
    )
    text = " ".join(PROTOCOLS.split())
    assert facts == (1142, 47, 69, 7)
    assert "on 1,142 of the 5,153 passages" in text
    assert "line break in it in 7 passages" in text
    assert "(69 targets)" in text
    assert "47 targets are themselves" in text


def _gpt2(folder: Path) -> Tokenizer:
    merges = (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:]
    vocabulary = json.loads((folder / "encoder.json").read_text("utf-8"))
    found = Tokenizer(models.BPE(vocabulary, [tuple(m.split()) for m in merges if m]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    return found


def test_constants_stated_in_the_text() -> None:
    from harness.data.subset import BLOCK_CHARS
    from harness.engine.queries.encode import WORD_TOKENS
    from harness.engine.scoring.word_search import FIRST_TOKENS
    from harness.stats.intervals import LEVEL, RESAMPLES
    from harness.tasks.shared.running_text import BLOCKS
    from harness.tasks.shared.wikipedia_dump import ROW_BYTES

    text = " ".join(PROTOCOLS.split())
    assert f"at most {FIRST_TOKENS} first tokens are tried" in text
    assert WORD_TOKENS == 6
    assert "by at most five more tokens" in text
    assert f"blocks of neighbouring rows of about {BLOCK_CHARS:,} characters" in text
    assert f"All intervals are {LEVEL:.0%}".replace("%", " %") in text
    assert f"bootstrap with {RESAMPLES:,} resamples" in text
    assert f"pooled into {BLOCKS} blocks" in text
    assert f"a stretch of {ROW_BYTES} bytes" in text
    assert f"within {paper.RELATIVE_BAND:.0%}".replace("%", " %") in text
    assert f"within {paper.POINTS_BAND} points" in text


def test_constants_of_the_gate() -> None:
    from benchmarks import gate_truth
    from harness.cli.compare.baseline import baseline
    from harness.commands.compare import jitter
    from harness.stats import paired

    text = " ".join(CI.split())
    assert f"all swaps up to {paired.EXACT_PAIRS} pairs, else {paired.RESAMPLES:,} at ran" in text
    assert f"percentiles of {paired.RESAMPLES:,} resamples of the pairs" in text
    assert f"by {paired.SELECTIONS} resamples, and no test" in text
    [alpha] = [option.default for option in baseline.params if option.name == "alpha"]
    assert f"alpha = {alpha:g}\n" in CI
    *budgets, last = (f"{budget:,}" for budget in jitter.BUDGETS)
    assert f"budgets of {', '.join(budgets)} and {last} tokens" in text
    assert jitter.DTYPES == ("float32", "bfloat16")
    low, high = gate_truth.ALARMS
    assert f"level {gate_truth.ALPHA:g}, which has to lie between {low:g} and {high:g}" in text
    share = f"{gate_truth.DISCORDANCE:.0%}".replace("%", " %")
    assert f"{gate_truth.ITEMS:,} items of which {share} are right in one run only" in text
    assert f"F1 of {gate_truth.STORIES} stories" in text
    assert f"takes {100 * gate_truth.DROP:g} points from the accuracy" in text
    assert f"at least {gate_truth.DETECTED:.0%}".replace("%", " %") in text


def test_constants_of_curves() -> None:
    from scipy.stats import t

    from harness.analysis import scaling

    text = " ".join(CURVE.split())
    assert scaling.MIN_SIZES == 4
    assert "A fit needs at least four sizes" in text
    assert text.count(f"| {scaling.KAPLAN_EXPONENT} |") == 2
    assert f"t is {t.ppf(0.975, 2):.1f}, compared with {t.ppf(0.975, 1000):.1f} for many" in text


# --- commands ---------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str, bool]]:
    """(page, command, whether it is complete) of every `harness ...` in the pages."""
    for page, text in PAGES.items():
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        blocks += re.findall(r"^    harness .*$", text, re.MULTILINE)
        for line in "\n".join(blocks).replace("\\\n", "").split("\n"):
            for part in re.split(r"&&|>|\|", line):
                if part.strip().startswith("harness "):
                    yield page, part.strip(), True
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for span in re.findall(r"`(harness [a-z][^`|\\]+)", prose):
            yield page, span.strip(), False


COMMANDS = sorted(set(commands()))


def test_the_pages_have_commands() -> None:
    pages = Counter(page for page, _, complete in COMMANDS if complete)
    assert {"README.md", "docs/quickstart.md", "docs/command-line.md", "docs/ci.md"} <= set(pages)
    named = {shlex.split(command)[1] for _, command, _ in COMMANDS}
    assert {"table3", "tasks", "show", "leaderboard", "lambada", "section3"} <= named
    assert {
        "compare",
        "baseline",
        "check",
        "power",
        "jitter",
        "cache",
        "overlap",
        "report",
    } <= named


@pytest.mark.parametrize(("page", "command", "complete"), COMMANDS)
def test_commands_exist_with_all_their_options(
    page: str, command: str, complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [run_file] = fenced(PAGES["docs/command-line.md"], "toml")
    (tmp_path / "suite.toml").write_text(run_file, "utf-8")
    monkeypatch.chdir(tmp_path)
    # Plugins are not installed here; their commands have the options of every benchmark.
    known = re.sub("rhymes|(?<=^harness )my-riddles", "lambada", command)
    name, *arguments = shlex.split(known)[1:]
    found = cli.get_command(click.Context(cli), name)
    assert found is not None, f"{page}: no command {name!r}"
    if isinstance(found, click.Group):
        _subcommand(found, arguments)
        return
    if complete:
        context = found.make_context(name, arguments)
    else:  # in running text options may be left out, but not invented
        context = click.Context(found)
        found.make_parser(context).parse_args(list(arguments))
        return
    task = load_task(name) if name in SECTIONS else None
    if task is None and name != "table3":
        return
    given = context.params
    name = given["protocol"].replace("no-rhyme", "paper")
    grid = given.get("grid", False), given.get("vary", ())
    chosen = ProtocolOptions(name, given["set"], *grid)
    assert protocols(task or load_task("wikitext2"), chosen)


def _subcommand(group: click.Group, arguments: list[str]) -> None:
    """The options of a group, and of the command behind them if there is one."""
    context = click.Context(group)
    _, rest, _ = group.make_parser(context).parse_args(list(arguments))
    if rest:
        name, found, others = group.resolve_command(context, rest)
        assert found is not None
        found.make_context(name, others)


def test_protocols_named_in_the_pages_exist() -> None:
    known = {preset for name in SECTIONS for preset in load_task(name).protocols} | {"NAME"}
    pages = PROTOCOLS + README + CI
    named = set(re.findall(r"--protocol ([\w-]+)", pages))
    assert named <= known, named - known
    options = {(o.name, c) for n in SECTIONS for o in load_task(n).options for c in o.choices}
    for key, value in re.findall(r"--set ([\w]+)=([\w+<>-]+)", pages):
        assert (key, value) in options or (key, "<n>") in options, f"--set {key}={value}"


# --- data, quoted code, Python ----------------------------------------------------------


def test_data_table_names_the_files_and_their_origin() -> None:
    for name in SECTIONS:
        task = load_task(name)
        for preset in task.protocols:
            options = task.protocol(preset).options
            if options.get("split") == "test" and name.startswith("cbt"):
                continue  # the same archive; the table has the default split
            sources = [task.source(options)]
            sources += [task.few_shot.source(options)] if task.few_shot else []
            for source in sources:
                assert source.files[0].rpartition("/")[2] in DATA
                assert source.origin in DATA


def test_quoted_code_is_the_example() -> None:
    module = (EXAMPLE / "harness_rhymes" / "__init__.py").read_text("utf-8")
    assert [module] == fenced(PLUGINS, "python")
    assert [(EXAMPLE / "pyproject.toml").read_text("utf-8")] == fenced(PLUGINS, "toml")
    prompt = (EXAMPLE / "harness_rhymes" / "rhymes.txt").read_text("utf-8")
    assert prompt in fenced(PLUGINS, "text")
    rows = (EXAMPLE / "harness_rhymes" / "rhymes.jsonl").read_text("utf-8").split("\n")
    assert [rows[0] + "\n"] == fenced(PLUGINS, "json")


def test_evaluation_in_memory_runs(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's line, and the call and the loop in docs/training.md."""
    [line] = fenced(README, "python")
    call, loop = fenced(PAGES["docs/training.md"], "python")[:2]
    scalars: list[tuple[str, float, int]] = []
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    names: dict[str, object] = {
        "harness": harness_package,
        "model": model,
        "tokenizer": AutoTokenizer.from_pretrained(tiny_folder),
        "max_steps": 1001,
        "train_one_step": lambda model: model.lm_head.weight.data.mul_(1.0001),
        "writer": SimpleNamespace(add_scalar=lambda *values: scalars.append(values)),
    }
    for text in (line, call, loop):
        text = text.replace('data_dir="data"', "sample=True").replace("limit=200", "limit=2")
        text = text.replace("runs/d12", str(tmp_path / "out"))
        exec(compile(text, "page.md", "exec"), names)
    assert "wikitext2" in capsys.readouterr().out
    assert {step for _, _, step in scalars} == {0, 1000}
    assert ("harness/lambada/ppl", 1000) in {(name, step) for name, _, step in scalars}
    assert len(list((tmp_path / "out").rglob("lambada-*.json"))) == 2


def test_python_example_runs(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [block for block in fenced(PYTHON, "python") if "smollm2-135m" in block]
    names: dict[str, object] = {}
    exec(compile(example.replace("smollm2-135m", str(tiny_folder)), "python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("lambada|v:2|p:lm-eval|")
    assert " acc-word-greedy " in printed


def test_the_page_is_documented_as_it_is() -> None:
    from harness.cli.inspect.report import report
    from harness.report.page import examples, render, tokens

    text = " ".join(PAGES["docs/report.md"].split())
    [most] = [option.default for option in report.params if option.name == "items"]
    assert f"at most `--items` of a benchmark ({most})" in text
    assert f"A text of more than {examples.MAX_TEXT_CHARS:,} characters" in text
    assert f"at most {tokens.PAGE_BYTES // 1_000_000} MB of a page" in text
    assert render.MAX_COMPARISONS == 5
    assert "each of the next five" in text


# --- the gate ---------------------------------------------------------------------------


def test_the_quoted_workflow_is_the_file() -> None:
    assert fenced(CI, "yaml") == [WORKFLOW]


def test_the_quoted_tests_are_the_file_and_their_command_exists() -> None:
    source = (ROOT / "examples" / "ci" / "test_gate.py").read_text("utf-8")
    assert fenced(CI, "python") == [source]
    constants = {
        "MODEL": "model",
        "str(BASELINE)": "main.toml",
        "str(out)": "out",
        "*DATA": "--hub",
    }
    lists = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.List)]
    written = [[ast.unparse(part) for part in found.elts] for found in lists]
    [command] = [words for words in written if words[:2] == ["'harness'", "'gate'"]]
    [options] = [words for words in written if "'--json'" in words]
    words = [constants.get(word, word.strip("'")) for word in (*command[2:], *options[1:])]
    found = cli.get_command(click.Context(cli), "gate")
    assert found is not None
    found.make_context("gate", words)


def test_the_workflow_runs_commands_that_exist() -> None:
    workflow = yaml.safe_load(WORKFLOW)
    steps = workflow["jobs"]["gate"]["steps"]
    commands = [step.get("run", "").replace("\\\n", " ") for step in steps]
    lines = [line for command in commands for line in command.splitlines()]
    ran = [shlex.split(line) for line in lines if line.startswith("harness ")]
    assert [words[1] for words in ran] == ["gate", "cache"]
    environment = {f"${name}": str(value) for name, value in workflow["env"].items()}
    for _, name, *words in ran:
        found = cli.get_command(click.Context(cli), name)
        assert found is not None
        arguments = [environment.get(word, word) for word in words]
        if isinstance(found, click.Group):
            _subcommand(found, arguments)
        else:
            found.make_context(name, arguments)


def test_the_workflow_pins_every_action_to_a_major_version() -> None:
    used = [s["uses"] for s in yaml.safe_load(WORKFLOW)["jobs"]["gate"]["steps"] if "uses" in s]
    assert used
    assert all(re.fullmatch(r"actions/[a-z/-]+@v\d+", action) for action in used), used


def test_the_quoted_baseline_has_the_fields_of_a_real_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    runs, path = tmp_path / "runs", tmp_path / "main.toml"
    words = ("--model", tiny_folder, "--sample", "--limit", 4, "--no-cache", "--out", runs)
    assert harness("lambada", *words).code == 0
    assert harness("baseline", runs, "--out", path).code == 0
    [quoted] = fenced(CI, "toml")
    written = path.read_text("utf-8")
    assert comments(quoted) == comments(written)
    shown, found = tomllib.loads(quoted), tomllib.loads(written)
    assert list(shown) == list(found)
    assert [list(run) for run in shown["run"]] == [list(run) for run in found["run"]]
    assert [score["metric"] for score in shown["score"]] == [s["metric"] for s in found["score"]]
    for score, real in zip(shown["score"], found["score"], strict=True):
        # the rule and the name of its number may be edited
        assert list(score)[:-1] == list(real)[:-1]
        assert list(score)[-1] == KINDS[score["rule"]]
        assert score["unit"] == real["unit"]


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def test_rules_are_documented_as_they_are() -> None:
    rows = {code(rule)[0]: "".join(code(number)) for rule, number, _ in table(CI, "rule")}
    assert rows == KINDS


def test_verdicts_are_documented_as_they_are() -> None:
    rows = [code(row[0])[0] for row in table(CI, "verdict")]
    assert sorted(rows) == sorted(get_args(Status))


def test_what_must_be_equal_is_documented_as_it_is() -> None:
    text = " ".join(CI.split())
    assert MUST_AGREE == (
        "benchmark",
        "origin",
        "version",
        "options",
        "data",
        "prompt",
        "example pairs",
    )
    assert (
        "these parts of their signatures are equal: benchmark, version, options, data, prompt, "
        "example pairs, and the program that computed them"
    ) in text


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), target


def anchors(text: str) -> set[str]:
    """What headings are linked by: lower case, spaces as dashes, no punctuation."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


# --- the tree and the verbs -------------------------------------------------------------


def test_the_tree_is_that_of_the_docstrings() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "docs" / "tree.py"], capture_output=True, text=True, check=True
    ).stdout
    assert printed in fenced(PAGES["docs/architecture.md"], "text"), "run python docs/tree.py"
    assert not re.findall(r"^ *\S+$", printed, re.MULTILINE), "a file without a docstring"
    assert max(map(len, printed.splitlines())) <= 130


def test_places_named_in_the_architecture_exist() -> None:
    text = PAGES["docs/architecture.md"].partition("## The tree")[0]
    paths = re.findall(r"`((?:harness|tasks|results|prompts|tests)/[\w/.]*)`", text)
    assert len(paths) > 8
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_ci_runs_the_verbs_of_the_makefile_and_the_tests_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    verbs = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    [ran] = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert {"install", "lint", "types", "test"} <= set(ran.split()) <= verbs
    [recipe] = re.findall(r"^test:.*\n\t(.*)$", makefile, re.MULTILINE)
    command = recipe.replace("$(PYTHON)", "python")
    assert command in README
    contributing = PAGES["CONTRIBUTING.md"]
    assert set(re.findall(r"\bmake ([a-z]+)", "\n".join(fenced(contributing, "sh")))) <= verbs
