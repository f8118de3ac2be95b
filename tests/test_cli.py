"""The commands as a person and as a machine meet them."""

import io
import json
import logging
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import save_tiny
from console import harness, made_record, record_files
from rich.console import Console

from harness.analysis.paper import published, table3
from harness.cli import group
from harness.cli.group import COMMANDS, cli
from harness.core import Score
from harness.display import tables, terminal
from harness.display.console import console as safe_console
from harness.plugins.registry import load_task, task_names
from harness.records.folder import read

TABLE3 = ["lambada", "cbt-cn", "cbt-ne", "wikitext2", "ptb", "enwik8", "text8", "wikitext103",
          "lm1b"]  # fmt: skip


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path) -> list[Any]:
    """Options of a quick run."""
    out = tmp_path / "records"
    return ["--model", tiny_folder, "--device", "cpu", "--sample", "--limit", 2, "--out", out]


# --- help and lists -----------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['harness', '--help']\n"
        "from harness.cli.group import main\n"
        "try: main()\n"
        "finally: print('HEAVY', {'torch', 'transformers', 'datasets', 'pandas', 'scipy', 'numpy'}"
        " & set(sys.modules))"
    )
    begun = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begun < 5, "0.2 s on an idle machine"
    assert "HEAVY set()" in run.stdout
    for word in ("table3", "leaderboard", "show", "tasks", *task_names()):
        assert word in run.stdout


def test_no_arguments_print_help() -> None:
    result = harness()
    assert result.code == 2
    assert result.err.startswith("Usage: harness [OPTIONS] COMMAND")


def test_version() -> None:
    result = harness("--version")
    assert result.code == 0
    assert result.out.startswith("harness, version 0.")


def test_module_and_script_are_the_same() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "harness", "lamda"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == harness("lamda").err


def test_tasks_are_listed_in_the_order_of_table_3() -> None:
    result = harness("tasks")
    assert result.code == 0
    names = [line.split()[0] for line in result.out.split("\n")[1:] if line.strip()]
    assert names[:9] == TABLE3
    assert set(names) == set(task_names())
    shown = harness("--help").out.split("Tasks:")[1].replace("\n", " ").split(",")
    assert [name.strip() for name in shown[:8]] == TABLE3[:8]


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_explained(name: str) -> None:
    result = harness("tasks", name)
    assert result.code == 0
    flat = " ".join(result.out.split())
    task = load_task(name)
    options = task.protocol().options
    assert " ".join(task.description.split()) in flat
    for option in task.options:
        assert option.name in flat
        assert f"default {option.default}]" in flat
    for measure in task.measures(options):
        assert measure.name in flat
        assert measure.column is None or f"-> {measure.column}" in flat
    for pattern in task.source(options).files:
        assert pattern.removeprefix("./") in flat
    assert "".join(task.source(options).origin.split()) in "".join(result.out.split())
    assert all(preset in flat for preset in task.protocols)


@pytest.mark.parametrize("name", task_names())
def test_every_task_has_help(name: str) -> None:
    result = harness(name, "--help")
    assert result.code == 0
    assert load_task(name).title in " ".join(result.out.split())
    for option in ("--model", "--data-dir", "--limit", "--protocol", "--set", "--strict"):
        assert option in result.out


@pytest.mark.parametrize("name", [*COMMANDS, "lambada"])
def test_help_fits_80_columns_and_describes_every_option(name: str) -> None:
    result = harness(name, "--help")
    assert result.code == 0
    assert f"Usage: harness {name}" in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts[0]}"
            assert not option.help.endswith("."), "as click's own and git's"


def test_options_are_shown_under_the_headings_of_their_groups() -> None:
    lines = harness("lambada", "--help").out.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    groups = ["Model:", "Data:", "Protocol:", "Output:", "Plan:", "Workers:"]
    groups += ["Server:", "Cache:"]
    assert headings == [*groups, "Options:"]


# --- one benchmark ------------------------------------------------------------------------


def test_a_run_prints_scores_with_interval(words: list[Any], tmp_path: Path) -> None:
    result = harness("lambada", *words)
    assert result.code == 0
    [path] = record_files(tmp_path / "records")
    record = read(path)
    assert "2 of 12 examples (seed 0)" in result.out
    for score in record.scores:
        [line] = [x for x in result.out.split("\n") if x.split()[:1] == [score.metric]]
        assert f"{score.value:.2f}" in line or f"{score.value:.3g}" in line
        assert " to " in line
    assert "signature" not in result.out
    assert "signatures: --signatures or the records\n" in result.err
    assert "note: built-in sample rows" in result.out
    assert f"wrote {path}" in result.err


def test_record_says_where_everything_came_from(words: list[Any], tmp_path: Path) -> None:
    harness("ptb", *words, "--set", "stride=128")
    [path] = record_files(tmp_path / "records")
    value = json.loads(path.read_text("utf-8"))
    assert value["protocol"] == "paper+stride=128"
    assert value["options"]["stride"] == 128
    model = value["model"]
    assert len(model["digest"]) == len(model["tokenizer"]) == 64
    assert model["device"] == "cpu"
    assert model["dtype"] == "float32"
    assert model["threads"] >= 1
    assert model["trust_remote_code"] is False
    assert value["data"]["source"] == "sample"
    assert value["data"]["rows"] == 24
    assert len(value["data"]["sha256"]) == 64
    assert value["data"]["published"] is False
    assert value["seed"] == 0
    assert value["limit"] == 2
    assert value["seconds"] > 0
    assert value["created"].endswith("+00:00")
    assert set(value["environment"]) >= {"versions", "git", "python", "system"}
    assert set(value["environment"]["versions"]) >= {"harness", "torch", "transformers"}
    assert set(value["preflight"]) == {"truncated", "crossing", "empty", "duplicates"}


def test_json_prints_one_object_and_nothing_else(words: list[Any], tmp_path: Path) -> None:
    result = harness("lambada", *words, "--json")
    assert result.code == 0
    assert result.out.count("\n") == 1
    value = json.loads(result.out)
    assert set(value) == {"records"}
    [record] = value["records"]
    expected = {"task", "version", "protocol", "options", "model", "signature", "examples",
                "requests", "tokens", "seconds", "scores"}  # fmt: skip
    assert expected <= set(record)
    assert {"name", "digest", "parameters"} <= set(record["model"])
    assert set(record["tokens"]) == {"asked", "computed", "scored", "cached", "checked",
                                     "tied"}  # fmt: skip
    for score in record["scores"]:
        assert {"metric", "value", "unit", "higher_is_better", "stderr", "low", "high",
                "paper"} <= set(score)  # fmt: skip
    beside = {score["metric"]: score["paper"] for score in record["scores"]}
    assert beside["ppl"] == 35.13
    assert beside["acc-word-stopfilter"] == 45.99
    assert beside["ppl-last-token"] is None
    assert record["task"] == "lambada"
    assert record["version"] == 2
    assert record["examples"] == 2
    assert record["requests"] == 4
    assert 0 < record["tokens"]["computed"] <= record["tokens"]["asked"]
    [path] = record_files(tmp_path / "records")
    assert str(read(path).signature) == record["signature"]


def test_json_of_two_models(words: list[Any], tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", context=256, seed=1)
    result = harness("ptb", *words, "--model", other, "--json")
    assert result.code == 0
    records = json.loads(result.out)["records"]
    assert [Path(r["model"]["name"]).name for r in records] == ["tiny-gpt2", "other"]
    assert len({r["model"]["digest"] for r in records}) == 2
    assert len(record_files(tmp_path / "records")) == 2


def test_json_of_table3_beside_a_chosen_size(words: list[Any]) -> None:
    result = harness("table3", *words, "--json", "--size", "1542M")
    assert result.code == 0
    records = json.loads(result.out)["records"]
    assert [r["task"] for r in records] == TABLE3
    found = {s["column"]: s["paper"] for r in records for s in r["scores"] if s["column"]}
    assert found == {c: published.published(c, "1542M") for c in published.COLUMNS}


def dumped(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_dump_of_lambada_sums_to_the_scores(words: list[Any], tmp_path: Path) -> None:
    dump = tmp_path / "new" / "items.jsonl"
    result = harness("lambada", *words, "--protocol", "lm-eval", "--dump", dump, "--json")
    scores = {s["metric"]: s["value"] for s in json.loads(result.out)["records"][0]["scores"]}
    items = dumped(dump)
    assert [set(item) for item in items] == [{"task", "id", "requests", "outcomes"}] * 2
    requests = [item["requests"][0] for item in items]
    assert all(
        set(r)
        == {"kind", "context", "continuation", "logprob", "num_tokens", "is_greedy", "windows"}
        for r in requests
    )
    assert all(r["kind"] == "loglikelihood" for r in requests)
    assert scores["ppl"] == pytest.approx(math.exp(-sum(r["logprob"] for r in requests) / 2))
    tokens = sum(r["num_tokens"] for r in requests)
    assert scores["ppl-per-token"] == pytest.approx(
        math.exp(-sum(r["logprob"] for r in requests) / tokens)
    )
    assert scores["acc-word-greedy"] == 50 * sum(r["is_greedy"] for r in requests)
    assert sum(item["outcomes"]["nats"] for item in items) == pytest.approx(
        -sum(r["logprob"] for r in requests)
    )


def test_dump_of_rolling_text_sums_to_the_score(words: list[Any], tmp_path: Path) -> None:
    dump = tmp_path / "items.jsonl"
    result = harness("text8", *words, "--dump", dump, "--json")
    [score] = json.loads(result.out)["records"][0]["scores"]
    requests = [request for item in dumped(dump) for request in item["requests"]]
    assert all(set(r) == {"kind", "text", "logprob", "num_tokens", "windows"} for r in requests)
    nats = -sum(r["logprob"] for r in requests)
    characters = sum(len(r["text"]) for r in requests)
    assert score["value"] == pytest.approx(nats / math.log(2) / characters)


def test_dump_of_cbt_shows_the_choice(words: list[Any], tmp_path: Path) -> None:
    dump = tmp_path / "items.jsonl"
    result = harness("cbt-cn", *words, "--dump", dump, "--json")
    record = json.loads(result.out)["records"][0]
    items = dumped(dump)
    assert [len(item["requests"]) for item in items] == [10, 10]
    [score] = [s for s in record["scores"] if s["column"]]
    name = score["metric"]
    assert score["value"] == 50 * sum(item["outcomes"][name] for item in items)


def test_json_and_dump_are_silent_about_progress(words: list[Any]) -> None:
    result = harness("ptb", *words, "--json")
    assert result.err == ""


# --- at a terminal ------------------------------------------------------------------------


def test_signatures_are_printed_on_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = at_terminal(2000)
    monkeypatch.setattr(tables, "OUT", screen)
    records = [made_record(), made_record(task="ptb", prompt=None)]
    tables.show_signatures(records[:1])
    tables.show_signatures(records)
    first, head, *ends = written(screen).rstrip("\n").split("\n")
    assert first == f"signature: {records[0].signature}"
    shared = head.removeprefix("signatures, each ending in ").removesuffix(":")
    assert [end.strip() + shared for end in ends] == [str(r.signature) for r in records]


def at_terminal(width: int) -> Console:
    return safe_console(file=io.StringIO(), force_terminal=True, width=width, soft_wrap=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_progress_counts_tokens_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    console = at_terminal(80)
    monkeypatch.setattr(terminal, "ERR", console)
    with terminal.progress("wikitext103") as bar:
        bar.advance(0, 1_234_567)
        bar.preflight({"truncated": 3, "crossing": 0, "empty": 0, "duplicates": 9})
        bar.advance(617_000, 1_234_567)
    text = written(console)
    assert "617,000 of 1,234,567 tokens" in text
    assert "left" in text
    assert "note: wikitext103: requests cut to fit the context: 3\n" in text
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]", text))


@pytest.mark.parametrize(("width", "best"), [(80, False), (120, True)])
def test_table_3_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int, best: bool) -> None:
    score = Score("ppl", 34.5678, "per word", False, 0.5, 33.4567, 35.6789, {}, "WikiText103 PPL")
    bits = Score("bpb", 1.16123, "bits per byte", False, 0.1, 1.15123, 1.17123, {}, "enwik8 BPB")
    record = made_record(scores=(score, bits), examples=241_211, seconds=0.001)
    console = at_terminal(width)
    monkeypatch.setattr(tables, "OUT", console)
    tables.show_paper_table("Table 3", table3.cells([record], "117M", {}), [record], "117M")
    lines = written(console).split("\n")
    [line] = [line for line in lines if line.startswith("WikiText103 PPL")]
    assert line.split()[2:] == (["18.30"] if best else []) + [
        "37.50", "34.57", "33.46", "to", "35.68", "-7.8%", "differs", "241,211", "60,000",
    ]  # fmt: skip
    rows = [line for line in lines if line.split(" ")[0] in ("LAMBADA", "enwik8", "1BW")]
    assert len(rows) == 4
    assert any("1.1512 to 1.1712" in row for row in rows)


def test_log_messages_become_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    console = at_terminal(80)
    monkeypatch.setattr(terminal, "ERR", console)
    logger = logging.getLogger("harness")
    before = logger.handlers, logger.level
    try:
        terminal.start_logging()
        terminal.start_logging()
        logging.getLogger("harness.engine.engine").warning("out of memory: %d [tokens]", 512)
    finally:
        logger.handlers, logger.level = before
    assert written(console) == "note: out of memory: 512 [tokens]\n"


# --- in a process of its own --------------------------------------------------------------

# A shell that runs tests in the background lets its children ignore SIGINT.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from harness.cli.group import main; main()"
)


def test_sigint_in_a_real_process_keeps_whole_records(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ptb.test.txt").write_text(" the sand and the sea \n" * 3)
    text = " ".join("abcdefghijklmnopqrstuvwxyz" for _ in range(30_000))
    (tmp_path / "text8").write_text(text)  # a good while of work, even for the tiny model
    out = tmp_path / "records"
    words = ["table3", "--model", tiny_folder, "--device", "cpu", "--data-dir", tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, [*words, "--out", out])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    assert stderr.strip().split("\n")[-1].startswith("harness: interrupted; finished before")
    assert stderr.strip().endswith(": 1 record; the same command again goes on from here")
    [path] = record_files(out)
    assert read(path).task == "ptb"
    assert "PTB PPL" in stdout


def test_a_defect_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(group, "_run", fail)
    with pytest.raises(SystemExit) as end:
        group.main()
    assert end.value.code == 70  # not a verdict, which are 0 to 3
    assert "ZeroDivisionError: a defect" in capsys.readouterr().err
