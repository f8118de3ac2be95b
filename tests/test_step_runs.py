"""Many checkpoints of a training run in one command: names, steps, failures, tables, curves."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import save_tiny
from console import harness, made_record, record_files, refused
from huggingface_hub import HfApi, constants
from rich.console import Console

from harness import scores
from harness.analysis import leaderboard
from harness.analysis.steps import step_curves
from harness.commands.evaluate.models import matching
from harness.commands.inspect import rerun
from harness.commands.model_options import ModelOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.core import Score
from harness.display import curves as display
from harness.engine.checkpoint.formats import registry
from harness.engine.checkpoint.formats.registry import Converted
from harness.engine.checkpoint.locate import Located, locate
from harness.engine.checkpoint.settings import Settings
from harness.engine.queries.encode import Encoder
from harness.errors import CheckpointError
from harness.records.folder import write
from harness.records.record import Record

pytestmark = pytest.mark.usefixtures("self_tests_once")

RUN = ("--sample", "--limit", 2)
STEPS = (0, 1000, 10_000)


def commit(step: int) -> str:
    return f"{step:040x}"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders checkpoint-0, checkpoint-1000, ..., with other weights each."""
    folder = tmp_path_factory.mktemp("run")
    for seed, step in enumerate(STEPS):
        save_tiny(folder / f"checkpoint-{step}", context=128, seed=seed)
    return folder


@pytest.fixture(scope="module")
def hub(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The hub's local cache with these revisions of me/tiny; main is the last."""
    root = tmp_path_factory.mktemp("hub") / "models--me--tiny"
    for step in STEPS:
        shutil.copytree(checkpoints / f"checkpoint-{step}", root / "snapshots" / commit(step))
        for name in (f"step{step}", *(["main"] if step == STEPS[-1] else [])):
            (root / "refs").mkdir(exist_ok=True)
            (root / "refs" / name).write_text(commit(step))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(root.parent))
        yield root


def records(*words: object) -> list[dict[str, Any]]:
    result = harness(*words, *RUN, "--json")
    assert result.code == 0, result.err
    found: list[dict[str, Any]] = json.loads(result.out)["records"]
    return found


def identities(*words: object) -> list[tuple[str, str | None, int | None]]:
    models = [record["model"] for record in records(*words)]
    return [(model["name"], model["revision"], model["step"]) for model in models]


# --- revisions on the hub -----------------------------------------------------------------------


def test_a_pattern_stands_for_all_revisions_by_step(
    hub: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = Encoder._encode

    def counted(self: Encoder, *words: object) -> object:
        calls.append(1)
        return real(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "_encode", counted)
    out = ("--no-cache", "--out", tmp_path / "out")
    found = records("lambada", "--model", "me/tiny@step*", *out)
    assert [(m["name"], m["revision"], m["step"]) for m in (r["model"] for r in found)] == [
        (f"me/tiny@step{step}", commit(step), step) for step in STEPS
    ]
    assert len(calls) == 1, "equal texts are encoded once for all models"
    [alone] = records("lambada", "--model", checkpoints / "checkpoint-1000", *out)
    assert found[1]["scores"] == alone["scores"]
    assert len({str(r["scores"]) for r in found}) == len(STEPS)


def test_one_revision(hub: Path, tmp_path: Path) -> None:
    run = ("lambada", "--out", tmp_path / "out", "--model", "me/tiny", "--revision", "step1000")
    assert identities(*run) == [("me/tiny", commit(1000), 1000)]
    for revision, step in (("main", STEPS[-1]), (commit(0), 0)):
        located = locate(f"me/tiny@{revision}", Settings())
        assert (located.revision, located.step) == (commit(step), None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("me/tiny@step0", "--revision", "main"),
            "--model me/tiny@step0 names a revision; leave out --revision main",
        ),
        (
            ("me/tiny@stap*",),
            "--model 'me/tiny@stap*' matches nothing; me/tiny has 4 revisions: main, step0, "
            "step1000, step10000",
        ),
        (("me/none@step*",), "model 'me/none': HF_HUB_OFFLINE is set"),
        (("me/tiny@step7",), "model 'me/tiny' at revision 'step7': there is no folder"),
        (("nowhere-*",), "--model 'nowhere-*' matches nothing; expected the files or folders"),
    ],
)
def test_names_that_lead_nowhere(hub: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused("lambada", "--model", *words, *RUN)


def test_what_is_on_this_machine_has_no_revision(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoints)
    message = "is on this machine; only models on the hub have revisions such as 'step1'"
    assert message in refused("lambada", "--model", "checkpoint-0@step1", *RUN)
    with pytest.raises(CheckpointError, match=message):
        locate("checkpoint-0", Settings(revision="step1"))
    shutil.copytree("checkpoint-0", tmp_path / "run@home")
    monkeypatch.chdir(tmp_path)
    assert locate("run@home", Settings()) == Located(Path("run@home"))


def test_the_hub_is_asked_for_revisions(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(_api: HfApi, name: str) -> SimpleNamespace:
        assert name == "me/tiny"
        names = (["main", "step2", "step10"], ["v1", "step2"])
        branches, tags = ([SimpleNamespace(name=n) for n in group] for group in names)
        return SimpleNamespace(branches=branches, tags=tags)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "list_repo_refs", listed)
    assert matching("me/tiny@step*") == ["me/tiny@step2", "me/tiny@step10"]
    assert matching("me/tiny@*") == [f"me/tiny@{r}" for r in ("main", "v1", "step2", "step10")]

    def unreachable(_api: HfApi, name: str) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(HfApi, "list_repo_refs", unreachable)
    with pytest.raises(CheckpointError, match=r"\(ConnectionError: no network at all\); with HF_"):
        matching("me/tiny@step*")


# --- files and folders --------------------------------------------------------------------------


def test_a_pattern_stands_for_all_paths_by_step(tmp_path: Path) -> None:
    names = ["checkpoint-1000", "checkpoint-500", "checkpoint-best", "a2", "a10", ".checkpoint-1"]
    for name in names:
        (tmp_path / "deep" / name).mkdir(parents=True)
    found = [Path(path).name for path in matching(f"{tmp_path}/*/*")]
    assert found == ["a2", "a10", "checkpoint-best", "checkpoint-500", "checkpoint-1000"]
    (tmp_path / "odd[1]").mkdir()
    assert matching(f"{tmp_path}/odd[1]") == [f"{tmp_path}/odd[1]"]
    assert matching("gpt2") == ["gpt2"]


def test_a_checkpoint_that_cannot_be_loaded_costs_only_itself(
    checkpoints: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    board = tmp_path / "board.csv"
    shutil.copytree(checkpoints, run)
    (run / "checkpoint-1000" / "model.safetensors").write_bytes(b"cut short")
    out = ("--out", tmp_path / "out", "--leaderboard", board)
    result = harness("run", "lambada", "--model", run / "checkpoint-*", *RUN, *out)
    assert result.code == 2
    broken = f"{run}/checkpoint-1000"
    assert result.err.splitlines()[-1] == f"harness: 1 of 3 models failed: {broken}"
    assert f"note: {broken} failed: model " in result.err
    with board.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "10000"]
    table = result.out.rpartition(f"{run}/checkpoint-* by step\n")[2].splitlines()
    assert table[0].split() == ["step", "LAMBADA", "PPL", "LAMBADA", "ACC"]
    assert [line.split()[0] for line in table[1:]] == ["0", "10,000"]


def test_a_failure_leaves_the_json_of_the_other_models(checkpoints: Path, tmp_path: Path) -> None:
    models = ("--model", tmp_path / "none", checkpoints / "checkpoint-0")
    result = harness("lambada", *models, *RUN, "--out", tmp_path / "out", "--json")
    assert result.code == 2
    [record] = json.loads(result.out)["records"]
    assert record["model"]["step"] == 0
    assert result.err.splitlines()[-1] == f"harness: 1 of 2 models failed: {tmp_path}/none"


def test_the_step_that_the_format_states_comes_first(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = checkpoints / "checkpoint-1000"
    assert locate(str(folder), Settings()).step == 1000
    file = tmp_path / "checkpoint-500" / "model_00000700.bin"
    file.parent.mkdir()
    file.write_bytes(b"anything")
    for stated, step in ((7, 7), (0, 0), (None, 700)):
        converted = Converted(folder, stated, {})
        monkeypatch.setattr(registry, "convert", lambda *words, c=converted: c)
        assert locate(str(file), Settings()).step == step


def test_a_repository_named_like_a_step_has_none(hub: Path) -> None:
    shutil.copytree(hub, hub.parent / "models--stepfun--step3")
    shutil.copytree(hub, hub.parent / "models--me--tiny-step-5k")
    assert locate("stepfun/step3", Settings()).step is None
    assert locate("me/tiny-step-5k", Settings()).step == 5000


# --- tables and curves --------------------------------------------------------------------------


def of_step(step: int, ppl: float, run: str = "me/tiny@step", **changes: Any) -> Record:
    """A record of LAMBADA by the checkpoint of a step, with an interval of 1 %."""
    score = Score("ppl", ppl, "per word", False, 0.5, ppl * 0.99, ppl * 1.01, {}, "LAMBADA PPL")
    model = {
        **made_record().model, "name": f"{run}{step}", "step": step,
        "digest": f"{abs(hash((run, step))):064x}"[:64],
    }  # fmt: skip
    return made_record(**{"model": model, "scores": (score,), **changes})


PPLS = dict(
    zip(range(0, 11_000, 1000), [900.0, 120, 80, 70, 65, 62, 60, 59, 88, 57.5, 57], strict=True)
)


def run_of_records() -> list[Record]:
    return [of_step(step, ppl) for step, ppl in PPLS.items()]


def test_a_curve_per_training_run() -> None:
    other = [of_step(step, 50.0 + step, run="me/other@step") for step in (1, 2)]
    unknown = made_record()
    again = of_step(2000, 81.0, created="2026-02-01T00:00:00+00:00")
    first, second = step_curves([*other, *run_of_records(), unknown, again])
    assert (first.run, second.run) == ("me/other@step*", "me/tiny@step*")
    assert [(p.step, p.value) for p in second.points] == list({**PPLS, 2000: 81.0}.items())
    assert [p.step for p in second.points if p.outlier] == [8000]
    assert not any(p.outlier for p in first.points)
    assert step_curves([unknown]) == []


def test_other_sizes_and_protocols_have_other_curves() -> None:
    base = of_step(1, 30.0)
    sized = of_step(2, 29.0, model={**of_step(2, 29.0).model, "parameters": 7})
    other = of_step(3, 28.0, options={"quotes": "off", "stride": 1024}, protocol="other")
    assert len(step_curves([base, sized, other])) == 3
    assert len(step_curves([base, of_step(2, 29.0)])) == 1


def test_steps_in_the_leaderboard_and_in_the_table_of_scores(tmp_path: Path) -> None:
    stray = made_record()
    steps = run_of_records()
    mixed = [steps[3], stray, steps[0], of_step(5, 9.0, run="me/b@step"), *steps[1:3], *steps[4:]]
    rows = leaderboard.rows(mixed)
    assert [row["model"] for row in rows[-2:]] == ["gpt2", "me/b@step5"]
    assert [row["step"] for row in rows] == [*PPLS, "", 5]
    assert list(rows[0])[:3] == ["model", "step", "digest"]
    assert "step" not in leaderboard.rows([stray])[0]
    frame = scores([stray, *steps])
    assert frame["step"].tolist() == [None, None, *PPLS]
    _, markdown = leaderboard.write(rows, tmp_path / "board.csv")
    assert "| me/tiny@step8000  | 8000 " in markdown.read_text()


def test_the_terminal_shows_and_marks_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=100, record=True)
    monkeypatch.setattr(display, "OUT", console)
    acc = [
        of_step(s, 1.0, scores=(made_record().scores[1],), task="cbt-cn") for s in list(PPLS)[1:]
    ]
    display.show_step_curves(step_curves([*run_of_records(), *acc]))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines[0] == "me/tiny@step* by step"
    assert lines[1].split() == ["step", "LAMBADA", "PPL", "LAMBADA", "ACC"]
    assert lines[2].split() == ["0", "900.00"]
    assert lines[10].split() == ["8,000", "88.00", "(!)", "45.00"]
    assert lines[13].startswith("(!) me/tiny@step8000: LAMBADA PPL 88.00 leaves the curve of its")
    assert len(lines) == 15  # the last one is wrapped


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for record in (*run_of_records(), *(of_step(s, 99.0 - s, run="me/b@step") for s in (1, 2))):
        write(record, tmp_path / "records")
    write(of_step(1, 30.0, run="me/c@step", task="ptb"), tmp_path / "records")
    write(made_record(), tmp_path / "records")
    return tmp_path / "records"


def test_the_curve_command_over_steps(written: Path) -> None:
    result = harness("curve", written, "--over", "step")
    assert result.code == 0
    assert "note: left out, training step unknown: gpt2" in result.err
    assert [line for line in result.out.splitlines() if line.endswith(" by step")] == [
        f"{run} by step" for run in ("me/b@step*", "me/c@step*", "me/tiny@step*")
    ]
    found = json.loads(harness("curve", written, "--over", "step", "--json").out)["curves"]
    [curve] = [c for c in found if c["run"] == "me/tiny@step*"]
    assert [(p["step"], p["outlier"]) for p in curve["points"]] == [(s, s == 8000) for s in PPLS]
    assert curve["points"][0]["low"] == pytest.approx(891)
    only = json.loads(harness("curve", written, "--over", "step", "--task", "ptb", "--json").out)
    assert [c["run"] for c in only["curves"]] == ["me/c@step*"]


def test_a_curve_over_steps_needs_steps(tmp_path: Path) -> None:
    write(made_record(), tmp_path)
    assert "the step is read from names such as" in refused("curve", tmp_path, "--over", "step")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_over_steps(written: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / f"{n}{suffix}" for n in "ab"]
    for picture in pictures:
        assert harness("curve", written, "--over", "step", "-o", picture).code == 0
    first, second = (picture.read_bytes() for picture in pictures)
    assert first == second
    assert len(first) > 5000


def test_the_axes_of_the_picture(written: Path) -> None:
    pytest.importorskip("matplotlib")
    from harness.report.step_plot import LEAVES, _figure

    curves = step_curves([*run_of_records(), *(of_step(s, 99.0 - s, "me/b@step") for s in (1, 2))])
    figure = _figure([curves])
    [panel] = figure.axes
    assert panel.get_xscale() == "symlog"
    low, high = panel.get_xlim()
    assert low < 0 < 10_000 < high, "step 0 is inside"
    [texts] = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert texts == ["me/b@step*", "me/tiny@step*", LEAVES]
    [ring] = [line for line in panel.get_lines() if line.get_label() == LEAVES]
    assert np.asarray(ring.get_xdata()).tolist() == [8000]


def test_the_report_page_takes_many_steps(written: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert harness("report", written, "--out", page).code == 0
    text = page.read_text()
    assert "tiny@step8000" in text


# --- runs of such checkpoints again -------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of one revision."""
    out = tmp_path_factory.mktemp("evaluated")
    run = ("--model", "me/tiny@step1000", *RUN, "--out", out, "--no-cache")
    assert harness("lambada", *run).code == 0
    [path] = record_files(out)
    return path


def explained(path: Path, *words: object) -> str:
    result = harness("explain", path, "6", "--no-cache", *words)
    assert result.code == 0, result.err
    return result.out


def test_the_commit_of_the_record_is_explained(evaluated: Path, hub: Path) -> None:
    before = explained(evaluated)
    (hub / "refs" / "step1000").write_text(commit(0))  # the branch is moved
    assert explained(evaluated) == before
    message = refused("explain", evaluated, "6", "--no-cache", "--model", "me/tiny@step1000")
    assert "has other weights" in message
    (hub / "refs" / "step1000").write_text(commit(1000))


def renamed(path: Path, **model: Any) -> Record:
    """A record with other facts about its model."""
    record = Record.from_json(json.loads(path.read_text()), "record")
    return replace(record, model={**record.model, "revision": None, **model})


def test_the_model_options_of_the_record_are_used(evaluated: Path) -> None:
    changed = renamed(evaluated, name="out/ckpt.pt", options={"a": "b"})
    again = rerun.run_again(changed, ModelOptions(), DataOptions(), CacheOptions(off=True))
    assert again.place.model.settings().options == (("a", "b"),)
    assert again.place.model.names == ("out/ckpt.pt",)
    given = ModelOptions(options=("a=c",), tokenizer="tokens", config=Path("config.json"))
    settings = rerun.run_again(
        changed, given, DataOptions(), CacheOptions(off=True)
    ).place.model.settings()
    assert settings.options == (("a", "c"),)
    assert (settings.tokenizer, settings.config_file) == ("tokens", Path("config.json"))


def test_a_model_in_memory_says_what_to_do(
    evaluated: Path, checkpoints: Path, tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(renamed(evaluated, name="GPT2LMHeadModel").to_json()))
    message = refused("explain", path, "6", "--no-cache")
    assert "was a model in memory that has been saved, `harness explain --model` says" in message
    assert explained(path, "--model", checkpoints / "checkpoint-1000")
