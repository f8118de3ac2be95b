"""`harness run`: several tasks in one command, and run files."""

import json
from pathlib import Path
from typing import Any

import pytest
from console import harness, record_files, refused

from harness.plugins.registry import load_task

QUICK = ("--sample", "--limit", "2", "--no-cache")

pytestmark = pytest.mark.usefixtures("self_tests_once")


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the model is called `tiny`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return tmp_path


def suite(place: Path, text: str, name: str = "suite.toml") -> str:
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def records(*words: object) -> list[dict[str, Any]]:
    result = harness("run", *words, "--json")
    assert result.code == 0, result.err
    values: list[dict[str, Any]] = json.loads(result.out)["records"]
    return values


def protocols(*words: object) -> dict[str, str]:
    return {record["task"]: record["protocol"] for record in records(*words)}


# --- several tasks ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("ptb,lambada",), ("ptb", "lambada"), ("ptb,", "lambada,ptb")])
@pytest.mark.usefixtures("place")
def test_tasks_are_separated_by_commas_or_spaces(names: tuple[str, ...]) -> None:
    found = records(*names, "--model", "tiny", *QUICK)
    assert [record["task"] for record in found] == ["ptb", "lambada"]
    assert all(record["limit"] == 2 for record in found)


def test_scores_are_those_of_the_single_commands(place: Path) -> None:
    both = records("ptb,lambada", "--model", "tiny", *QUICK)
    for record in both:
        result = harness(record["task"], "--model", "tiny", *QUICK, "--json")
        [alone] = json.loads(result.out)["records"]
        assert alone["scores"] == record["scores"]
        assert alone["signature"] == record["signature"]
    assert len(record_files(place / "results")) == 2


@pytest.mark.usefixtures("place")
def test_every_task_and_a_summary_are_printed() -> None:
    result = harness("run", "ptb,lambada", "--model", "tiny", *QUICK)
    assert result.code == 0
    before, summary, after = result.out.partition("\nSummary of 2 tasks\n")
    assert summary
    assert "ptb v" in before
    assert "lambada v" in before
    lines = [line.split()[:3] for line in after.splitlines()[1:]]
    assert lines[0] == ["ptb", "paper", "ppl"]
    assert {line[0] for line in lines[1:]} == {"lambada"}
    assert "wrote 2 records to results/records\n" in result.err
    alone = harness("run", "ptb", "--model", "tiny", *QUICK)
    assert "Summary" not in alone.out


@pytest.mark.usefixtures("place")
def test_a_table_is_a_list_of_tasks() -> None:
    run, table = (
        harness(*words, "--model", "tiny", "--sample", "--limit", "1", "--no-cache", "--json")
        for words in (("run", "table3"), ("table3",))
    )
    tables = [json.loads(result.out)["records"] for result in (run, table)]
    assert [r["task"] for r in tables[0]] == [r["task"] for r in tables[1]]
    assert [r["scores"] for r in tables[0]] == [r["scores"] for r in tables[1]]
    shown = harness("run", "table3", "--model", "tiny", *QUICK)
    assert shown.out.startswith("Table 3 of Radford")
    mixed = records("coqa,table3,lambada", "--model", "tiny", *QUICK)
    assert [r["task"] for r in mixed] == ["coqa", *(r["task"] for r in tables[0])]


def test_a_task_that_the_model_cannot_read_does_not_stop_the_others(place: Path) -> None:
    """An answer of CBT is longer than 16 bytes; running text and LAMBADA are cut to fit."""
    few = ("--model", "tiny", "--sample", "--limit", "1", "--no-cache", "--context", "16")
    result = harness("run", "cbt-cn,ptb,lambada", *few)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("harness: cbt-cn example ")
    assert "does not fit the context of 16" in result.err
    assert "Summary of 2 tasks" in result.out
    assert [path.name.split("-")[0] for path in record_files(place / "results")] == [
        "lambada", "ptb"
    ]  # fmt: skip


@pytest.mark.usefixtures("place")
def test_a_protocol_applies_where_a_task_has_it() -> None:
    words = ("lambada,ptb", "--model", "tiny", *QUICK, "--protocol", "lm-eval", "--set")
    result = harness("run", *words, "stride=32", "--json")
    found = {r["task"]: r["protocol"] for r in json.loads(result.out)["records"]}
    assert found == {"lambada": "lm-eval", "ptb": "paper+stride=32"}
    assert "note: ptb has no protocol 'lm-eval', using paper\n" in result.err


def test_data_of_a_named_task_must_exist_but_a_table_leaves_tasks_out(place: Path) -> None:
    (place / "data").mkdir()
    (place / "data" / "ptb.test.txt").write_text(" the sand and the sea \n" * 3)
    run = ("--model", "tiny", "--data-dir", "data", "--no-cache")
    assert "no data for" in refused("run", "ptb,lambada", *run)
    assert not record_files(place / "results")
    result = harness("run", "ptb,table3", *run)
    assert result.code == 0, result.err
    assert "Summary" not in result.out
    assert result.out.count("not run: no data for") >= 6


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ptb,lamda",), "there is no task 'lamda'; did you mean lambada? (see `harness tasks`)"),
        (("tabel3",), "there is no task 'tabel3'; did you mean table3"),
        ((), "Missing argument"),
        ((",",), "run which tasks?"),
        (("ptb", "--protocol", "papr"), "no task has a protocol 'papr'; did you mean paper?"),
        (
            ("ptb", "--set", "strid=3"),
            "no task has an option 'strid'; did you mean stride or stream?",
        ),
        (("ptb", "--grid"), "No such option '--grid'"),
        (("ptb", "--size", "3B"), "3B"),
        (("a.toml", "b.toml"), "run takes one run file; 2 were given"),
        (("none.toml",), "cannot read run file 'none.toml': No such file or directory"),
    ],
)
def test_what_cannot_be_run_is_one_line(words: tuple[str, ...], expected: str) -> None:
    assert expected in refused("run", *words, "--model", "tiny", "--sample")


@pytest.mark.usefixtures("place")
def test_paths_among_the_tasks_are_explained() -> None:
    """The shell makes `--model A B` of `--model *`; what follows A are tasks here."""
    line = refused("run", "lambada", "--model", "x", "tiny")
    assert "'tiny' is a path, not a task" in line
    assert "repeat --model before each: --model A --model tiny" in line


# --- run files --------------------------------------------------------------------------------

FILE = """
model = "tiny"
sample = true
no-cache = true
limit = 3
set = { stride = 64 }

[tasks.lambada]
protocol = "lm-eval"

[tasks.ptb]
set = { stride = 32 }

[tasks.wikitext2]
"""


def test_a_file_has_models_tasks_protocols_and_options(place: Path) -> None:
    file = suite(place, FILE)
    found = records(file)
    assert {r["task"]: r["protocol"] for r in found} == {
        "lambada": "lm-eval", "ptb": "paper+stride=32", "wikitext2": "paper+stride=64",
    }  # fmt: skip
    assert all(r["limit"] == 3 and r["model"]["name"].endswith("tiny") for r in found)


def test_the_command_line_overrides_the_file(place: Path) -> None:
    file = suite(place, FILE)
    [record] = records(file, "ptb", "--limit", "1", "--set", "stride=16")
    assert (record["limit"], record["protocol"]) == (1, "paper+stride=16")
    found = protocols(file, "--protocol", "hf", "lambada", "wikitext2")
    assert found == {"lambada": "paper", "wikitext2": "hf+stride=64"}


def test_paths_are_relative_to_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "suites" / "data").mkdir(parents=True)
    (place / "suites" / "data" / "ptb.test.txt").write_text(" the sand and the sea \n" * 3)
    monkeypatch.setenv("HARNESS_DATA", str(place / "elsewhere"))
    text = 'model = ["../tiny"]\ntasks = "ptb"\nno-cache = true\ndata-dir = "data"\nout = "runs"\n'
    [record] = records(suite(place, text, "suites/a.toml"))
    assert record["data"]["name"] == "ptb.test.txt"
    assert len(record_files(place / "suites" / "runs")) == 1


def test_a_flag_for_rows_overrides_a_folder_of_the_file(place: Path) -> None:
    file = suite(place, 'model = "tiny"\ntasks = ["ptb"]\ndata-dir = "nowhere"\n')
    [record] = records(file, "--sample", "--limit", "1")
    assert record["data"]["rows"] == 24


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "limt = 3",
            "there is no option 'limt'; did you mean limit or timeout? (see `harness run --help`)",
        ),
        ("grid = true", "there is no option 'grid'"),
        ('limit = "3"', "limit is '3'; expected a whole number"),
        ("limit = true", "limit is True; expected a whole number"),
        ("limit = 2.5", "limit is 2.5; expected a whole number"),
        ("limit = 0", "0 is not in the range x>=1"),
        ("strict = 1", "strict is 1; expected true or false"),
        ("out = 3", "out is 3; expected a string"),
        ('budget = "soon"', "such as 10m"),
        ('dtype = "int8"', "'int8' is not one of"),
        ("model = 3", "model is 3; expected a string or a list of strings"),
        ("model = [1]", "model is [1]; expected a string or a list of strings"),
        ("set = { stride = 1.5 }", "set.stride is 1.5; expected a string or a whole number"),
        ('set = ["stride"]', "--set 'stride': expected key=value"),
        ('protocol = "papr"', "no task has a protocol 'papr'; did you mean paper?"),
        ("tasks = 3", "tasks is 3; expected a string or a list of strings"),
        ('tasks = ["ptbb"]', "there is no task 'ptbb'; did you mean ptb"),
        ("tasks = []", "run which tasks?"),
        ("[tasks.lamda]", "there is no task 'lamda'; did you mean lambada?"),
        ("[tasks.ptb]\nprotcol = 'x'", "tasks.ptb has no option 'protcol'; did you mean protocol?"),
        ("[tasks.ptb]\nprotocol = 3", "tasks.ptb.protocol is 3; expected a string"),
        ("[tasks.ptb]\nprotocol = 'lm-eval'", "ptb has no protocol 'lm-eval'"),
        (
            "[tasks.ptb]\nset = { strid = 3 }",
            "ptb has no option 'strid'; did you mean stride or stream?",
        ),
        ("[tasks]\nptb = 3", "tasks.ptb is 3; expected a table with protocol or set"),
        ("a = = 3", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("a = '\x00'", "is not TOML"),
    ],
    ids=lambda text: text[:24],
)
def test_what_a_file_may_not_have_is_one_line(place: Path, text: str, expected: str) -> None:
    tasks = "" if "tasks" in text else 'tasks = "ptb"\n'
    own = "" if text.startswith("model") else 'model = "tiny"\n'
    line = refused("run", suite(place, f"{own}{tasks}sample = true\n{text}\n"))
    assert expected in line
    assert not record_files(place / "results")


def test_every_option_of_the_command_is_an_option_of_the_file(place: Path) -> None:
    """None of them is refused as unknown."""
    from harness.cli.evaluate.run import run

    names = [param.opts[0].removeprefix("--") for param in run.params[1:]]
    assert {"model", "limit", "data-dir", "cache", "leaderboard", "signatures"} <= set(names)
    for name in names:
        line = refused("run", suite(place, f"{name} = 1979-05-27\ntasks = 'ptb'\n"))
        assert f"{name} is datetime.date(1979, 5, 27); expected" in line


@pytest.mark.usefixtures("place")
def test_names_are_completed() -> None:
    from test_completion import offered

    assert offered("run", "lamb") == ["lambada"]
    assert offered("run", "lambada,pt") == ["lambada,ptb"]
    assert "lm-eval" in offered("run", "lambada", "--protocol", "")
    assert load_task("ptb").name in offered("run", "")
