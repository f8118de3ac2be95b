"""`harness gate` with a tiny model: files, resuming, exit codes, and what it refuses."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import forked
import pytest
from conftest import save_tiny
from console import harness, record_files, refused

from harness.analysis.baseline import Baseline
from harness.analysis.rules.rule import Rule
from harness.analysis.runs import label, load
from harness.data.load import Where
from harness.engine.cache.response_cache import ResponseCache, key
from harness.errors import HarnessError
from harness.gate.plan import plan
from harness.gate.state import FILE
from harness.records import outcomes

TASKS = "winograd,ptb"
BATCH = ("--batch-tokens", "64")  # so that there are several slices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a run of the first, and a baseline of it."""
    place = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("HARNESS_DATA", raising=False)
        patch.setenv("HARNESS_CACHE", str(place / "cache"))
        for seed, name in enumerate(("first", "second")):
            save_tiny(place / name, context=256, seed=seed)
        words = ("--model", "first", "--sample", "--out", "ran", "--no-cache")
        assert harness("run", TASKS, *words).code == 0
        for rule, name in (("proved:2%", "main"), ("paired", "paired"), ("absolute:0", "absolute")):
            words = ("--out", f"{name}.toml", "--rule", rule)
            assert harness("baseline", "ran", *words).code == 0
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HARNESS_CACHE", str(place / "cache"))  # measures the machine once
    for name in ("HARNESS_DATA", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def gate(*words: object, out: Path, model: str = "first", baseline: str = "main.toml") -> Any:
    """What `harness gate --json` prints, with its exit code."""
    given = ("--model", model, "--baseline", baseline, "--out", out, "--sample", *BATCH)
    result = harness("gate", *given, "--json", *words)
    value = json.loads(result.out)
    assert value["exit"] == result.code
    return value


def given(baseline: str, out: Path) -> tuple[object, ...]:
    return ("gate", "--model", "first", "--baseline", baseline, "--out", out)


def statuses(value: Any) -> dict[str, str]:
    return {verdict["task"]: verdict["status"] for verdict in value["verdicts"]}


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Any:
    """What a gate of the same model prints; its files are in `undisturbed`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HARNESS_CACHE", str(place / "cache"))
        return gate("--cache", "answers", "--junit", "junit.xml", out=Path("undisturbed"))


def test_the_same_model_is_fine(undisturbed: Any) -> None:
    assert undisturbed["exit"] == 0
    assert statuses(undisturbed)["ptb"] == "fine"
    found = {verdict["task"]: verdict for verdict in undisturbed["verdicts"]}
    difference = found["ptb"]["score"]["difference"]
    assert difference["b"] == pytest.approx(difference["a"], rel=1e-5)


@pytest.mark.usefixtures("undisturbed")
def test_a_complete_run_gives_the_record_of_any_other_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    gate("--cache", "answers", out=out, baseline="paired.toml")
    for run in load([out]):
        [other] = (r for r in load([Path("ran")]) if r.record.task == run.record.task)
        assert run.record.stopped is None
        assert str(run.record.signature) == str(other.record.signature)
        for mine, theirs in zip(run.record.scores, other.record.scores, strict=True):
            assert mine.value == pytest.approx(theirs.value, rel=1e-4)


def test_a_stopped_run_leaves_records_that_say_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    value = gate("--budget", "0.001s", out=out)
    assert value["stopped"]["reason"] == "the budget of 0.001 s is spent"
    [run] = load([out])  # one slice of one benchmark
    stopped = run.record.stopped
    assert stopped is not None
    assert stopped["reason"] == value["stopped"]["reason"]
    assert stopped["used"] == value["stopped"]["used"]
    assert f"n:{stopped['used']} of {stopped['of']}~seed0" in str(run.record.signature)
    assert set(statuses(value).values()) == {"undecided"}


@pytest.mark.usefixtures("undisturbed")
def test_the_report_of_ci_names_margin_evidence_and_items() -> None:
    suite = ET.parse("junit.xml").getroot()[0]
    assert suite.get("name") == "harness gate"
    [case] = (c for c in suite if c.get("classname") == "ptb.paper")
    text = "".join(case.itertext())
    for word in ("margin: ", "evidence: e-value ", "items: "):
        assert word in text


def test_the_table_ends_with_where_and_why_it_stopped(tmp_path: Path) -> None:
    words = (*given("main.toml", tmp_path), "--sample", *BATCH, "--cache", "answers")
    result = harness(*words, "--require-proof")
    assert result.code == 3, "what is undecided fails where proof is required"
    last = result.out.strip().split("\n")[-1]
    assert last.startswith("stopped after ")
    assert " items: " in last
    assert "ptb ppl: fine" in result.err, "verdicts are announced as they come"


def test_a_baseline_without_a_margin_gets_advice(tmp_path: Path) -> None:
    result = harness(*given("paired.toml", tmp_path), "--sample", "--cache", "answers")
    assert "--rule proved:2%" in result.err
    assert "no regression seen" in result.out


def test_rules_without_a_test_are_judged_on_all_items(tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    value = gate(*cache, out=tmp_path, model="second", baseline="absolute.toml")
    assert value["stopped"]["used"] == value["stopped"]["of"]
    words = ("--model", "second", "--sample", "--out", tmp_path / "whole", *cache)
    assert harness("run", TASKS, *words).code == 0
    checked = harness("check", tmp_path / "whole", "--baseline", "absolute.toml", "--json")
    assert statuses(json.loads(checked.out)) == statuses(value)


def test_proof_cannot_be_required_without_a_margin(tmp_path: Path) -> None:
    words = given("paired.toml", tmp_path / "out")
    assert "no rule 'proved'" in refused(*words, "--require-proof")


# --- what is refused ----------------------------------------------------------------------------


def test_other_data_than_that_of_the_baseline(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = "".join(f" the ants carried the sand to hill {n} \n" for n in range(30))
    (tmp_path / "data" / "ptb.test.txt").write_text(lines)
    [record] = (path for path in record_files(Path("ran")) if path.name.startswith("ptb"))
    assert harness("baseline", record, "--out", tmp_path / "ptb.toml").code == 0
    words = given(str(tmp_path / "ptb.toml"), tmp_path / "out")
    line = refused(*words, "--data-dir", tmp_path / "data")
    assert "the baseline's rows came from" in line
    assert "--sample" in line


def test_no_data_for_one_benchmark(tmp_path: Path, place: Path) -> None:
    (tmp_path / "data").mkdir()
    sample = resources.files("harness.tasks") / "samples" / "WSCollection.sample.xml"
    assert sample.is_file()
    (tmp_path / "data" / "WSCollection.xml").write_bytes(sample.read_bytes())
    words = given("main.toml", tmp_path / "out")
    result = harness(*words, "--data-dir", tmp_path / "data", "--json")
    value = json.loads(result.out)
    assert result.code == 2
    assert statuses(value) == {"winograd": "undecided", "ptb": "not comparable"}
    assert "no data for" in next(v for v in value["verdicts"] if v["task"] == "ptb")["reason"]
    assert "no data for" in refused(*words, "--data-dir", tmp_path / "data", "--strict")


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The main baseline, its runs changed, with a checksum that fits."""
    runs = outcomes.unpack(Path("main.runs.json.gz").read_bytes(), "main")
    for run in runs["runs"]:
        change(run)
    packed = outcomes.pack(runs)
    (folder / "main.runs.json.gz").write_bytes(packed)
    text = Path("main.toml").read_text("utf-8")
    digest = hashlib.sha256(packed).hexdigest()
    (folder / "main.toml").write_text(re.sub('sha256 = "[0-9a-f]+"', f'sha256 = "{digest}"', text))
    return folder / "main.toml"


def test_none_of_the_items_is_left(tmp_path: Path) -> None:
    def renamed(run: dict[str, Any]) -> None:
        run["outcomes"]["ids"] = [f"gone-{name}" for name in run["outcomes"]["ids"]]

    words = given(str(edited(tmp_path, renamed)), tmp_path / "out")
    assert "has none of the 24 items of ptb" in refused(*words, "--sample")


def test_a_baseline_by_another_program() -> None:
    [run] = (r for r in load([Path("ran")]) if r.record.task == "ptb")
    foreign = replace(run, record=replace(run.record, origin="another"))
    baseline = Baseline((foreign,), {(*label(foreign.record), "ppl"): Rule("paired")}, 0.05)
    with pytest.raises(HarnessError, match="by another, which a gate cannot run"):
        plan(baseline, Where(sample=True))


def test_a_baseline_without_items() -> None:
    [run] = (r for r in load([Path("ran")], "no") if r.record.task == "ptb")
    baseline = Baseline((run,), {(*label(run.record), "ppl"): Rule("paired")}, 0.05)
    with pytest.raises(HarnessError, match="has no items of ptb to pair with"):
        plan(baseline, Where(sample=True))


# --- resuming ---------------------------------------------------------------------------------


def written(out: Path) -> list[Path]:
    """The records of a gate."""
    return sorted(out.glob("*/*.json"))


def slices(out: Path) -> list[dict[str, Any]]:
    return list(json.loads((out / FILE).read_text("utf-8"))["slices"])


def test_a_repeated_gate_computes_nothing(
    undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path("undisturbed")
    taken = slices(out)
    assert len(taken) > 2
    kept = []
    monkeypatch.setattr(ResponseCache, "keep", lambda self, answers: kept.append(answers))
    again = gate("--cache", "answers", out=out)
    assert kept == []
    assert slices(out) == taken
    again["stopped"]["seconds"] = undisturbed["stopped"]["seconds"]
    assert again == undisturbed


def test_a_stopped_gate_goes_on(tmp_path: Path, undisturbed: Any) -> None:
    out, cache = tmp_path / "out", ("--cache", tmp_path / "cache")
    gate("--budget", "0.001s", *cache, out=out)
    before = slices(out)
    [record] = written(out)
    mine = record.with_name("mine.json")
    mine.write_bytes(record.read_bytes())
    value = gate(*cache, out=out)
    assert slices(out)[: len(before)] == before
    assert statuses(value) == statuses(undisturbed)
    assert not record.exists(), "the record of the first stop is replaced by a later one"
    names = json.loads((out / FILE).read_text("utf-8"))["records"]
    assert {out / name for name in names.values()} == {*written(out)} - {mine}
    assert len(list(out.rglob("*.items.json.gz"))) == len(names) == 2


@pytest.mark.usefixtures("undisturbed")
def test_another_gate_starts_anew(tmp_path: Path) -> None:
    shutil.copy(Path("undisturbed", FILE), tmp_path)
    first = slices(tmp_path)
    gate("--looks", "2", "--cache", "answers", out=tmp_path)
    assert slices(tmp_path) != first


@pytest.mark.parametrize("text", ['{"kind": "gate", "schema": 2}', '{"kind": "ga', "[1]"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    words = given("main.toml", tmp_path)
    assert "remove it, or give another --out" in refused(*words, "--sample")


def test_a_shorter_second_run_loses_no_record(tmp_path: Path) -> None:
    gate(out=tmp_path)
    before = sorted(load([path])[0].record.task for path in written(tmp_path))
    gate("--budget", "0.001s", out=tmp_path)
    after = sorted(load([path])[0].record.task for path in written(tmp_path))
    assert after == before == ["ptb", "winograd"]


def test_records_outside_the_folder_stay(tmp_path: Path, place: Path) -> None:
    """Whatever gate.json says."""
    out = tmp_path / "out"
    gate("--budget", "0.001s", out=out)
    path = out / FILE
    value = json.loads(path.read_text("utf-8"))
    own = record_files(place / "ran")
    value["records"] = {name: str(own[0]) for name in value["records"]}
    path.write_text(json.dumps(value))
    gate(out=out)
    assert record_files(place / "ran") == own


KILLS = 10


def gate_killed(place: Path, kills: int) -> None:
    """Run a gate that is killed so often, and then to its end; all in forks of this process.

    It computes nothing before it forks, so that no thread is lost; but it imports what all need.
    """
    for name in ("compare.gate", "evaluate.run"):
        import_module(f"harness.commands.{name}")
    keep, log = ResponseCache.keep, os.open(place / "log", os.O_WRONLY | os.O_CREAT, 0o600)

    def run(after: int | None) -> Any:
        calls = 0

        def counted(self: ResponseCache, answers: Any) -> None:
            nonlocal calls
            keep(self, answers)
            calls += 1
            keys = [key(query, self._ends).hex() for query in answers]
            os.lseek(log, 0, os.SEEK_END)
            os.write(log, "".join(f"{text}\n" for text in keys).encode())
            if calls == after:
                os.kill(os.getpid(), signal.SIGKILL)

        ResponseCache.keep = counted  # type: ignore[method-assign]
        return harness(
            "gate", "--model", "first", "--baseline", "main.toml", "--sample", *BATCH,
            "--out", place / "out", "--cache", place / "cache", "--json",
        )  # fmt: skip

    rng, died = random.Random(0), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            run(rng.randint(1, 2))
            os._exit(0)
        rng.random()
        died += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    value = json.loads(run(None).out)
    (place / "found.json").write_text(json.dumps({"died": died, "value": value}))


def test_killed_ten_times_it_gives_the_same_verdicts(tmp_path: Path, undisturbed: Any) -> None:
    process = forked.calling(gate_killed, tmp_path, KILLS)
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    computed = (tmp_path / "log").read_text().split()
    assert found["died"] == KILLS
    assert len(computed) == len(set(computed)), "an answer was computed twice"
    assert statuses(found["value"]) == statuses(undisturbed)
    assert found["value"]["verdicts"] == undisturbed["verdicts"]
