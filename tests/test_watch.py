"""`harness watch`: complete checkpoints only, each once, whatever happens meanwhile."""

import json
import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import torch
from conftest import save_tiny
from console import Result, harness, refused, sized_record

from harness.commands.evaluate.watch import completeness, watcher
from harness.commands.evaluate.watch.candidates import scan
from harness.commands.evaluate.watch.completeness import Folder
from harness.commands.evaluate.watch.journal import evaluation_key
from harness.commands.evaluate.watch.progress import Evaluated, Progress
from harness.commands.model_options import ModelOptions
from harness.data import load as data
from harness.engine.checkpoint import load as checkpoints
from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.settings import Settings
from harness.files import atomic
from harness.plugins.registry import load_task
from harness.runner import Job

Scores = dict[str, float]  # by the paper's column, or else by metric
ROWS = ("--tasks", "lambada", "--sample", "--limit", "2")
QUICK = (*ROWS, "--settle", "0.4s", "--interval", "0.1s")
COPIED = (  # Trainer's order
    "config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json",
    "tokenizer.json", "trainer_state.json",
)  # fmt: skip


# --- checkpoints to copy into place -----------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 100 to 2000: of Trainer, of save_pretrained alone, and of nanoGPT."""
    place = tmp_path_factory.mktemp("made")
    for k in range(1, 21):
        folder = save_tiny(place / f"checkpoint-{k * 100}", seed=k)
        if k % 3 == 1:
            (folder / "trainer_state.json").write_text("{}")
        elif k % 3 == 2:
            save_nanogpt(folder, place / f"ckpt-{k * 100}.pt", step=k * 100)
            shutil.rmtree(folder)
    return place


def save_nanogpt(folder: Path, file: Path, *, step: int) -> None:
    """The GPT-2 in a folder as the training script of nanoGPT would have saved it."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder)
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {k: v.T.contiguous() if k.endswith(transposed) else v for k, v in
             model.state_dict().items()}  # fmt: skip
    c = model.config
    sizes = {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "dropout": 0.0,
             "block_size": c.n_positions, "bias": True, "vocab_size": c.vocab_size}  # fmt: skip
    content = {"model": state, "model_args": sizes, "iter_num": step, "config": {}}
    torch.save({**content, "optimizer": {}, "best_val_loss": torch.tensor(9.0)}, file)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the results of self-tests, which take longer than the evaluations of these tests."""
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture
def place(
    tiny_folder: Path, tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty folder with an empty folder `run`, and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setenv("HARNESS_CACHE", str(shared_cache))
    (tmp_path / "tokenizer").symlink_to(tiny_folder)
    (tmp_path / "run").mkdir()
    return tmp_path


def put(made: Path, name: str, target: Path | None = None, pause: float = 0.0) -> Path:
    """Write a checkpoint in the order of its program; in pieces if there is a pause."""
    source, target = made / name, target or Path("run") / name
    if source.is_file():
        data = source.read_bytes()
        with target.open("wb") as file:
            for part in (data[:1000], data[1000:9000], data[9000:]):
                file.write(part)
                file.flush()
                time.sleep(pause)
        return target
    target.mkdir(exist_ok=True)
    for file_name in COPIED:
        if (source / file_name).exists():
            shutil.copyfile(source / file_name, target / file_name)
            time.sleep(pause)
    return target


def put_broken(made: Path, name: str, target: Path | None = None) -> Path:
    """A checkpoint whose weights are cut short."""
    folder = put(made, name, target)
    os.truncate(folder / "model.safetensors", 3000)
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checkpoints that are loaded to the end."""
    names = []
    load = checkpoints.load

    def counted(name: str, settings: Settings) -> Any:
        checkpoint = load(name, settings)
        names.append(name)
        return checkpoint

    monkeypatch.setattr(checkpoints, "load", counted)
    return names


def journal(out: str = "results/records") -> dict[str, dict[str, str]]:
    """Name of each checkpoint -> its records, from the file that a watch goes on from."""
    value = json.loads((Path(out) / "watch.json").read_text())
    assert (value["kind"], value["schema"]) == ("watch", 2)
    return {Path(entry["path"]).name: entry["records"] for entry in value["checkpoints"]}


def last_table(out: str) -> dict[str, list[str]]:
    """The last table that was printed: name of each checkpoint -> step and scores."""
    lines = out.rpartition("step  checkpoint")[2].splitlines()[1:]
    rows = (line.split() for line in lines if re.match(r"\s*[\d,-]+  ", line))
    return {name: [step, *scores] for step, name, *scores in rows}


def scores_alone(*paths: Path) -> dict[str, Scores]:
    """What `harness lambada` says about checkpoints: name -> its scores."""
    models = [word for path in paths for word in ("--model", path)]
    result = harness("lambada", *models, "--sample", "--limit", "2", "--cache", "other", "--json",
                     "--tokenizer", "tokenizer", "--out", "alone")  # fmt: skip
    assert result.code == 0, result.err
    return {
        record["model"]["name"]: {s["column"] or s["metric"]: s["value"] for s in record["scores"]}
        for record in json.loads(result.out)["records"]
    }


def scores_watched(out: str = "results/records") -> dict[str, Scores]:
    files = [Path(out) / f for records in journal(out).values() for f in records.values()]
    records = [json.loads(file.read_text()) for file in files]
    return {
        record["model"]["name"]: {s["column"] or s["metric"]: s["value"] for s in record["scores"]}
        for record in records
    }


# --- a folder that fills ------------------------------------------------------------------------


def test_twenty_checkpoints_appear(made: Path, place: Path, loaded: list[str]) -> None:
    names = sorted((path.name for path in made.iterdir()), key=step_in)
    assert len(names) == 20
    broken = "checkpoint-900"
    in_pieces = ("ckpt-500.pt", "checkpoint-1000")

    def fill() -> None:
        (Path("run") / "train.log").write_text("step 1")
        (Path("run") / "optim_1.pt").write_bytes(b"no checkpoint")
        for name in names:
            if name == broken:
                put_broken(made, name)
            else:
                put(made, name, pause=0.15 if name in in_pieces else 0.0)
            time.sleep(0.02)

    thread = Thread(target=fill)
    thread.start()
    result = harness("watch", "run", *QUICK, "--tokenizer", "tokenizer", "--until", "2000")
    thread.join()
    assert result.code == 0, result.err
    assert not [*(cache_root() / "converted").glob("*")], "conversions are not kept"
    good = [name for name in names if name != broken]
    assert Counter(loaded) == Counter(f"run/{name}" for name in good), "each once"
    assert f"note: {broken} is left out: " in result.err
    assert "note: no checkpoints of a known format, ignored: optim_1.pt\n" in result.err
    table = last_table(result.out)
    assert list(table) == good, "in the order of training"
    assert [int(row[0].replace(",", "")) for row in table.values()] == list(map(step_in, good))
    assert scores_watched() == scores_alone(*(Path("run") / name for name in good))
    for name, values in scores_watched().items():
        expected = [f"{values['LAMBADA PPL']:.3g}", f"{values['LAMBADA ACC']:.2f}"]
        assert table[Path(name).name][1:] == expected
    again = harness("watch", "run", *QUICK, "--tokenizer", "tokenizer", "--once")
    assert len(loaded) == 19 + 19, "the second nineteen are those of `scores_alone`"
    assert last_table(again.out) == table
    assert f"note: left out before, and tried again if changed: {broken}\n" in again.err


def step_in(name: str) -> int:
    return int(re.findall(r"\d+", name)[0])


def test_killed_in_the_middle_it_goes_on(old: Callable[..., Path], loaded: list[str]) -> None:
    names = [f"checkpoint-{step}" for step in (100, 300, 400, 600, 700, 900)]
    for name in names:
        old(name)
    command = ("harness", "watch", "run", *QUICK, "--tokenizer", "tokenizer")
    process = forked.start(*command, out=Path("output"), err=Path("output"))
    wait_for(lambda: Path("results/records/watch.json").exists() and len(journal()) >= 2, process)
    process.kill()
    process.join()
    before = journal()
    assert 2 <= len(before) <= len(names)
    result = harness("watch", "run", *QUICK, "--tokenizer", "tokenizer", "--once", "--settle", "1s")
    assert result.code == 0, result.err
    assert loaded == [f"run/{name}" for name in names if name not in before], "nothing twice"
    assert list(last_table(result.out)) == names


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), Path("output").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def old(made: Path, place: Path) -> Callable[..., Path]:
    """A function that puts a checkpoint that has not been changed for a day."""

    def put_old(name: str, target: Path | None = None) -> Path:
        path = put(made, name, target)
        age(path)
        return path

    return put_old


def age(path: Path) -> None:
    """Nothing can set the time of an inode, so the test sets what is read of it."""
    aged.add(path.absolute())


aged: set[Path] = set()


@pytest.fixture(autouse=True)
def aging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = Folder._unsettled

    def unsettled(self: Folder, seen: Any, now: float) -> float:
        return 0.0 if self.once and seen.found.path.absolute() in aged else real(self, seen, now)

    monkeypatch.setattr(Folder, "_unsettled", unsettled)
    yield
    aged.clear()


def once(*words: object) -> Result:
    result = harness("watch", "run", *ROWS, "--once", *words)
    assert result.code == 0, result.err
    return result


def test_partly_evaluated_it_is_finished(old: Callable[..., Path], loaded: list[str]) -> None:
    old("checkpoint-100")
    once()
    result = once("--tasks", "lambada,ptb")
    assert loaded == ["run/checkpoint-100"] * 2
    assert "wrote 1 record to results/records" in result.err
    [row] = last_table(result.out).values()
    assert len(row) == 1 + 3
    assert len(journal()["checkpoint-100"]) == 2
    once("--tasks", "ptb")
    assert len(loaded) == 2


def test_a_record_that_is_gone_is_written_again(
    old: Callable[..., Path], loaded: list[str]
) -> None:
    old("checkpoint-100")
    once()
    [file] = journal()["checkpoint-100"].values()
    (Path("results/records") / file).unlink()
    once()
    assert len(loaded) == 2
    assert (Path("results/records") / file).exists()


def test_another_evaluation_is_another_record(old: Callable[..., Path], loaded: list[str]) -> None:
    old("checkpoint-100")
    once()
    once("--batch-tokens", "64")
    assert len(loaded) == 1, "the same but for rounding"
    once("--limit", "1")
    assert len(loaded) == len(journal()["checkpoint-100"]) == 2


def test_what_an_evaluation_depends_on() -> None:
    task = load_task("lambada")
    paper = task.protocol()
    rows = data.load(task.source(paper.options), data.Where(sample=True))
    job, model = Job(task, paper, rows, 2, 0), ModelOptions()
    jobs = [
        replace(job, limit=1), replace(job, limit=None), replace(job, seed=1),
        replace(job, protocol=task.protocol("paper", {"bos": "none"})),
        replace(job, data=replace(rows, sha256="0")),
        replace(job, task=replace(task, version=task.version + 1)),
    ]  # fmt: skip
    models = [
        replace(model, dtype="bfloat16"), replace(model, context=64),
        replace(model, options=("activation=gelu",)), replace(model, tokenizer="x"),
        replace(model, config=Path("x")), replace(model, trust_remote_code=True),
    ]  # fmt: skip
    keys = [evaluation_key(job, model), *(evaluation_key(other, model) for other in jobs)]
    keys += [evaluation_key(job, other) for other in models]
    assert len(set(keys)) == len(keys) == 13
    same = replace(model, batch_tokens=3, threads=1, device="cpu")
    assert evaluation_key(job, same) == keys[0]


# --- what is written again, and what goes -------------------------------------------------------


def test_a_file_that_is_overwritten_is_a_new_checkpoint(
    made: Path, old: Callable[..., Path], loaded: list[str]
) -> None:
    words = ("--tokenizer", "tokenizer")
    file = old("ckpt-200.pt", Path("run/ckpt.pt"))
    once(*words)
    put(made, "ckpt-500.pt", file)
    result = once(*words)
    assert loaded == ["run/ckpt.pt"] * 2
    lines = result.out.rpartition("step  checkpoint")[2].splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["200", "ckpt.pt"], ["500", "ckpt.pt"]]
    file.touch()
    result = once(*words)
    assert len(loaded) == 3, "it may have changed"
    lines = result.out.rpartition("step  checkpoint")[2].splitlines()[1:]
    assert len(lines) == 2, "but has not: it is the same checkpoint"


def test_a_damaged_one_is_tried_again_when_it_changes(made: Path, place: Path) -> None:
    folder = put_broken(made, "checkpoint-300")
    age(folder)
    first = once()
    assert first.out == ""
    assert "checkpoint-300 is left out: model 'run/checkpoint-300' cannot be loaded" in first.err
    second = once()
    assert "checkpoint-300 is left out: model" not in second.err, "named once"
    assert "left out before, and tried again if changed: checkpoint-300" in second.err
    put(made, "checkpoint-300")
    third = once()
    assert list(last_table(third.out)) == ["checkpoint-300"]


def test_weights_that_are_not_finite_do_not_end_the_watch(
    made: Path, old: Callable[..., Path]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = old("checkpoint-100")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    old("checkpoint-300")
    result = once()
    assert list(last_table(result.out)) == ["checkpoint-300"]
    assert re.search("checkpoint-100 is left out: .*(NaN|finite)", result.err)


def test_deleted_while_it_waits(made: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(made, "checkpoint-300")  # without a marker
    sleeps = []

    def rotate(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 1:
            shutil.rmtree("run/checkpoint-300")
            put(made, "checkpoint-400")

    monkeypatch.setattr(watcher, "time", clock(sleep=rotate))
    result = harness("watch", "run", *ROWS, "--until", "400")
    assert result.code == 0, result.err
    assert "note: checkpoint-300 was deleted before it was evaluated\n" in result.err
    assert list(last_table(result.out)) == ["checkpoint-400"]


def clock(sleep: Callable[[float], None]) -> Any:
    """The module `time` with another `sleep`."""

    class Clock:
        monotonic, time = staticmethod(time.monotonic), staticmethod(time.time)

    Clock.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
    return Clock


@pytest.mark.parametrize("how", ["deleted", "half deleted", "overwritten"])
def test_deleted_or_overwritten_while_it_is_read(
    how: str, made: Path, old: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old("checkpoint-100")
    old("checkpoint-300")
    load = checkpoints.load

    def meanwhile(name: str, settings: Settings) -> Any:
        if name.endswith("-100"):
            if how == "deleted":
                shutil.rmtree(name)
            elif how == "half deleted":
                (Path(name) / "config.json").unlink()
            else:
                checkpoint = load(name, settings)
                put(made, "checkpoint-700", Path(name))
                return checkpoint
        return load(name, settings)

    monkeypatch.setattr(checkpoints, "load", meanwhile)
    result = once()
    assert list(last_table(result.out)) == ["checkpoint-300"]
    said = "was written to while it was read" if how == "overwritten" else "was deleted before"
    assert f"note: checkpoint-100 {said}" in result.err
    assert "checkpoint-100" not in journal()


def test_weights_in_use_do_not_change_with_their_file(made: Path, place: Path) -> None:
    folder = put(made, "checkpoint-100")
    copied = checkpoints.load(str(folder), Settings(device="cpu", copied=True))
    weights = copied.model.transformer.wte.weight
    before = weights.clone()
    other = (made / "checkpoint-300" / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(other)
    assert torch.equal(weights, before)
    with Path("/proc/self/maps").open() as maps:
        assert str(folder.absolute()) not in maps.read()


# --- what is complete ---------------------------------------------------------------------------


class Watched:
    """A folder with a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, settle: float = 30) -> None:
        self.now = 1000.0
        monkeypatch.setattr(completeness, "time", self)
        self.folder = Folder(Path("run"), settle, False, ())

    def monotonic(self) -> float:
        return self.now

    def after(self, seconds: float) -> list[str]:
        """The complete ones after some seconds."""
        self.now += seconds
        return [str(found.path.relative_to("run")) for found in self.folder.poll().complete]


@pytest.fixture
def watched(place: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_trainer_writes_its_state_last(made: Path, watched: Watched) -> None:
    folder = put(made, "checkpoint-100")
    (folder / "trainer_state.json").rename("state")
    assert watched.after(0) == []
    assert watched.after(20) == []
    Path("state").rename(folder / "trainer_state.json")
    (folder / "trainer_state.json").touch()
    assert watched.after(1) == ["checkpoint-100"]


def test_a_state_that_is_older_than_the_weights_says_nothing(made: Path, watched: Watched) -> None:
    folder = put(made, "checkpoint-100")
    os.utime(folder / "trainer_state.json", (1, 1))
    assert watched.after(0) == []
    assert watched.after(29) == []
    assert watched.after(1) == ["checkpoint-100"]


def test_without_a_marker_it_has_to_settle(made: Path, watched: Watched) -> None:
    folder = put(made, "checkpoint-300")
    assert watched.after(0) == []
    assert watched.after(29) == []
    (folder / "model.safetensors").touch()
    assert watched.after(29) == [], "the time counts from the last change"
    assert watched.after(29) == []
    assert watched.after(1) == ["checkpoint-300"]
    assert watched.folder.poll().complete, "it stays complete"


def test_one_look_is_not_enough_to_settle(made: Path, watched: Watched) -> None:
    watched.folder.settle = 0.0
    put(made, "checkpoint-300")
    assert watched.after(1e9) == []
    assert watched.after(0) == ["checkpoint-300"]


def test_all_shards_have_to_be_there(made: Path, watched: Watched) -> None:
    folder = put(made, "checkpoint-300")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert watched.after(0) == []
    assert watched.after(1000) == []
    (folder / names[1]).touch()
    assert watched.after(0) == []
    assert watched.after(30) == ["checkpoint-300"]


def test_a_file_that_says_stable(made: Path, watched: Watched) -> None:
    folder = put(made, "checkpoint-300")
    (folder / "STABLE").touch()
    assert watched.after(0) == ["checkpoint-300"]


def test_llmc_writes_an_empty_file_last(place: Path, watched: Watched) -> None:
    header = (20240326).to_bytes(4, "little") + bytes(2000)
    for step in ("00000100", "00000200"):
        Path(f"run/model_{step}.bin").write_bytes(header)
        Path(f"run/state_{step}_00000.bin").write_bytes(b"\0" * 100)
    assert watched.after(0) == []
    assert watched.after(1000) == []
    Path("run/DONE_00000200").touch()
    assert watched.after(1) == ["model_00000200.bin"]


def test_a_nanogpt_file_has_no_marker(made: Path, watched: Watched) -> None:
    put(made, "ckpt-200.pt")
    assert watched.after(0) == []
    assert watched.after(29) == []
    assert watched.after(1) == ["ckpt-200.pt"]


def test_a_file_is_looked_into_once(
    made: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine.checkpoint.formats import registry

    looked = []
    real = registry.recognise
    monkeypatch.setattr(registry, "recognise", lambda path: looked.append(path) or real(path))
    put(made, "ckpt-200.pt")
    Path("run/optim.pt").write_bytes(b"x")
    watched.after(0)
    assert looked == [], "it may be half written"
    for _ in range(5):
        watched.after(10)
    assert Counter(looked) == {Path("run"): 1, Path("run/ckpt-200.pt"): 1, Path("run/optim.pt"): 1}


def test_a_bare_state_dict_is_ignored(
    place: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine.checkpoint.formats import registry

    form = SimpleNamespace(name="state dict", is_complete=lambda path: None)
    monkeypatch.setattr(registry, "recognise", lambda path: form if path.is_file() else None)
    Path("run/weights.pt").touch()
    for ignored, expected in ((("state dict",), []), ((), ["weights.pt"])):
        watched.folder = Folder(Path("run"), 30, False, (), ignored)
        watched.after(0)
        assert watched.after(30) == expected


# --- what is found ------------------------------------------------------------------------------


def test_files_inside_a_checkpoint_are_not_checkpoints(made: Path, place: Path) -> None:
    folder = put(made, "checkpoint-100")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"state": {}, "param_groups": []}, folder / name)
    bare = Path("run/checkpoint-200")  # of a program that keeps the model elsewhere
    bare.mkdir()
    (bare / "trainer_state.json").touch()
    torch.save({}, bare / "optimizer.pt")
    (folder / "global_step100").mkdir()
    torch.save({}, folder / "global_step100" / "mp_rank_00_model_states.pt")
    found = {str(f.path) for f in scan(Path("run"), ())}
    assert found == {"run/checkpoint-100", "run/checkpoint-200"}


def test_a_folder_of_folders(made: Path, place: Path) -> None:
    for name in ("run/a/checkpoint-100", "run/a", "run/b"):
        Path(name).mkdir(exist_ok=True, parents=True)
        put(made, "checkpoint-100", Path(name))
    Path("run/latest").symlink_to(Path("a/checkpoint-100"))
    Path("run/loop").symlink_to(Path())
    Path("run/.hidden").mkdir()
    put(made, "checkpoint-100", Path("run/.hidden"))
    put(made, "checkpoint-100", Path("run/tmp-checkpoint-100"))
    Path("run/ckpt.pt.tmp").touch()
    found = {str(f.path) for f in scan(Path("run"), [Path("run/b")]) if f.is_folder}
    assert found == {"run/a/checkpoint-100", "run/a"}


def test_the_records_may_lie_in_the_folder(old: Callable[..., Path]) -> None:
    old("checkpoint-100")
    for _ in range(2):
        result = once("--out", "run/records")
        assert list(last_table(result.out)) == ["checkpoint-100"]
        assert "ignored" not in result.err


# --- when it starts and stops -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--until", "300"), [100, 300]),
        (("--until", "250"), [100, 300]),
        # The last step is reached by the first; of the others only the earlier ones are wanted.
        (("--until", "300", "--newest-first"), [700, 100]),
    ],
)
def test_until_a_step(
    words: tuple[str, ...], expected: list[int], made: Path, place: Path, loaded: list[str]
) -> None:
    for step in (100, 300, 700):
        put(made, f"checkpoint-{step}")
        Path(f"run/checkpoint-{step}/trainer_state.json").touch()
    result = harness("watch", "run", *QUICK, *words)
    assert result.code == 0, result.err
    assert [step_in(name) for name in loaded] == expected


def test_until_a_time(place: Path) -> None:
    started = time.monotonic()
    result = harness("watch", "run", *QUICK, "--until", "0.5s")
    assert result.code == 0, result.err
    assert time.monotonic() - started >= 0.5
    assert result.out == ""


@pytest.mark.parametrize(
    ("words", "order"), [((), [100, 300, 700]), (("--newest-first",), [700, 300, 100])]
)
def test_the_order(
    words: tuple[str, ...], order: list[int], old: Callable[..., Path], loaded: list[str]
) -> None:
    for step in (300, 700, 100):
        old(f"checkpoint-{step}")
    result = once(*words)
    assert [step_in(name) for name in loaded] == order
    assert [step_in(name) for name in last_table(result.out)] == [100, 300, 700]


def test_it_waits_for_the_folder(made: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def appear(seconds: float) -> None:
        Path("later").mkdir(exist_ok=True)
        put(made, "checkpoint-100", Path("later/checkpoint-100"))

    monkeypatch.setattr(watcher, "time", clock(sleep=appear))
    result = harness("watch", "later", *QUICK, "--until", "100")
    assert result.code == 0, result.err
    assert "note: later: waiting for the folder to appear\n" in result.err
    assert list(last_table(result.out)) == ["checkpoint-100"]


def test_once_leaves_what_may_not_be_complete(made: Path, place: Path) -> None:
    put(made, "checkpoint-300")
    result = once("--settle", "1h")
    assert result.out == ""
    said = "checkpoint-300 is left for the next time: it has changed within the last 3600 s"
    assert f"note: {said}\n" in result.err


def test_interrupted_it_says_what_was_done(
    made: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watcher, "time", clock(sleep=interrupt))
    put(made, "checkpoint-100")
    result = harness("watch", "run", *QUICK, "--leaderboard", "board.csv")
    assert result.code == 2
    assert "interrupted; finished before and kept in results/records: 1 record" in result.err
    assert len(journal()) == 1
    assert "checkpoint-100" in Path("board.csv").read_text()


def test_one_watch_for_one_folder_of_records(old: Callable[..., Path]) -> None:
    old("checkpoint-100")
    Path("results/records").mkdir(parents=True)
    with atomic.locked(Path("results/records")):
        message = refused("watch", "run", *ROWS, "--once")
    assert "another harness watch writes to 'results/records'" in message
    once()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("nowhere", "--once"), "there is no folder 'nowhere'"),
        (("tokenizer/config.json",), "is a file; expected a folder with checkpoints"),
        (("run", "--until", "soon"), "'soon': expected a number and s, m, h, d or w"),
        (("run", "--tasks", "lamda"), "there is no task 'lamda'; did you mean lambada?"),
        (("run", "--device", "cuda:77"), "device 'cuda:77' cannot be used"),
        (("run", "--settle", "30"), "expected a number and s, m, h, d or w"),
        (("run", "--cache", "a", "--no-cache"), "--cache and --no-cache contradict"),
    ],
)
def test_refused(words: tuple[str, ...], expected: str, place: Path) -> None:
    assert expected in refused("watch", *words, "--sample", "--limit", "2")


def test_a_damaged_journal_is_refused(old: Callable[..., Path]) -> None:
    old("checkpoint-100")
    once()
    path = Path("results/records/watch.json")
    path.write_text(path.read_text()[:-20])
    assert "watch.json' is not a JSON file" in refused("watch", "run", *ROWS, "--once")
    path.write_text('{"kind": "watch", "schema": 2, "rows": {}, "checkpoints": [{}]}')
    assert "watch.json is not a valid watch file" in refused("watch", "run", *ROWS, "--once")


def test_other_commands_skip_the_journal(old: Callable[..., Path]) -> None:
    old("checkpoint-100")
    once()
    result = harness("leaderboard", "--out", "board.csv")
    assert result.code == 0, result.err
    assert "checkpoint-100" in Path("board.csv").read_text()


# --- a time for each checkpoint -----------------------------------------------------------------


def test_a_budget_chooses_the_rows_once(old: Callable[..., Path]) -> None:
    words = ("watch", "run", "--tasks", "lambada", "--sample", "--once", "--budget", "0.001s")
    old("checkpoint-100")
    first = harness(*words)
    assert first.code == 0, first.err
    assert "lambada: 2 rows, for 0 s of the budget" in first.err
    old("checkpoint-300")
    second = harness(*words)
    assert "of the budget" not in second.err
    records = [json.loads((Path("results/records") / file).read_text())
               for kept in journal().values() for file in kept.values()]  # fmt: skip
    assert [record["limit"] for record in records] == [2, 2]
    rows = {record["signature"].partition("model")[0] for record in records}
    assert len(rows) == 1


# --- curves -------------------------------------------------------------------------------------


def test_a_step_that_leaves_the_curve_is_marked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = [5.0, 4.4, 4.1, 3.9, 3.8, 7.0, 3.65, 3.6, 3.57]
    evaluated = []
    for k, loss in enumerate(losses, 1):
        name = f"checkpoint-{k}00"
        ppl = math.exp(loss)
        record = sized_record(1000, ppl)
        model = {**record.model, "name": f"run/{name}", "step": k * 100, "digest": f"{k:064}"}
        evaluated.append(Evaluated(Path(name), (replace(record, model=model),)))
    Progress(None, Path("curve.svg"), None).update(evaluated)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:10] if "(!)" in line] == ["checkpoint-600"]
    assert lines[10].startswith("(!) run/checkpoint-600: LAMBADA PPL ")
    assert len(lines) == 11
    assert "<svg" in Path("curve.svg").read_text()


# --- event files --------------------------------------------------------------------------------


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: tag -> (step, value)."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}


def test_event_files_have_each_score_once(old: Callable[..., Path]) -> None:
    pytest.importorskip("tensorboard")
    for step in (300, 100):
        old(f"checkpoint-{step}")
    once()
    old("checkpoint-700")
    for _ in range(2):
        once("--tensorboard", "events")
    old("checkpoint-900")
    once("--tensorboard", "events", "--newest-first")
    found = events(Path("events"))
    assert "harness/lambada/ppl" in found
    assert [step for step, _ in found["harness/lambada/ppl"]] == [100, 300, 700, 900]
    expected = {step_in(name): values["LAMBADA PPL"] for name, values in scores_watched().items()}
    assert dict(found["harness/lambada/ppl"]) == pytest.approx(expected, rel=1e-6)


def test_runs_have_event_files_of_their_own(old: Callable[..., Path]) -> None:
    pytest.importorskip("tensorboard")
    for run in ("a", "b"):
        Path("run", run).mkdir()
        old("checkpoint-100", Path(f"run/{run}/checkpoint-100"))
    old("checkpoint-100", Path("run/final"))
    result = once("--tensorboard", "events")
    assert result.err.count("final: no training step is known; the curves leave it out") == 1
    for run in ("a", "b"):
        assert [step for step, _ in events(Path("events", run))["harness/lambada/ppl"]] == [100]


def test_without_tensorboard_nothing_is_computed(
    old: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.report import tensorboard

    old("checkpoint-100")
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    message = refused("watch", "run", *ROWS, "--once", "--tensorboard", "events")
    assert "pip install 'zero-shot-harness[tensorboard]'" in message
    assert not Path("results").exists()
