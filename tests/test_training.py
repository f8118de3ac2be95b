"""Evaluations during training: training goes on as without, with the scores of checkpoints."""

import json
import logging
import math
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from console import harness, record_files

from harness import Evaluator, HarnessCallback, Job, evaluate, run_job, scores
from harness.engine.backends import in_process
from harness.engine.backends.rates import Rates
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.random_model import byte_tokenizer
from harness.engine.checkpoint.random_model import model as random_model
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoder
from harness.errors import DataError, EncodingError, HarnessError, RecordError, UsageError
from harness.records import folder as record_folder
from harness.records.record import Record
from harness.training import callback as callback_module

SAMPLES = Path(__file__).parents[1] / "tasks" / "samples"
TOKENIZER = byte_tokenizer()
TEXTS = [f"The {noun} sat on the sand and the man ran to it." for noun in ("cat", "dog", "ant")]
ROWS = [torch.tensor(TOKENIZER(text)["input_ids"][k : k + 24]) for k in range(8) for text in TEXTS]


class Spy(tf.TrainerCallback):
    """Stands for TensorBoard, W&B and others: keeps what a Trainer reports."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        self.logs.append((state.global_step, dict(logs)))

    def of(self, part: str) -> list[tuple[int, dict[str, float]]]:
        """Step and values of each log that has a name with this part."""
        return [(step, logs) for step, logs in self.logs if any(part in name for name in logs)]


class Change(tf.TrainerCallback):
    """Changes the model at one step, before it is evaluated."""

    def __init__(self, step: int, change: Callable[[torch.Tensor], object]) -> None:
        self.step, self.change = step, change

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                self.change(more["model"].transformer.ln_f.weight)


def trainer(folder: Path, *callbacks: tf.TrainerCallback, **changes: Any) -> Any:
    """A Trainer of a tiny GPT-2 with dropout, on shuffled rows, with a Spy."""
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "logging_steps": 3,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
        **changes,
    }
    processing_class = arguments.pop("processing_class", TOKENIZER)
    model = random_model(TOKENIZER, context=64)
    assert model.config.resid_pdrop > 0
    return tf.Trainer(
        model,
        tf.TrainingArguments(**arguments),
        train_dataset=[{"input_ids": row, "labels": row} for row in ROWS],
        data_collator=tf.default_data_collator,
        processing_class=processing_class,
        callbacks=[*callbacks, Spy()],
    )


def trained(folder: Path, *callbacks: tf.TrainerCallback, **changes: Any) -> tuple[Any, Spy]:
    """The same Trainer after training, and its Spy."""
    run = trainer(folder, *callbacks, **changes)
    run.train()
    return run, spy_of(run)


def spy_of(run: Any) -> Spy:
    [spy] = [c for c in run.callback_handler.callbacks if isinstance(c, Spy)]
    return spy


def lambada(**options: Any) -> HarnessCallback:
    return HarnessCallback("lambada", sample=True, **options)


def values(records: list[Record]) -> dict[str, float]:
    return {f"eval_harness/{r.task}/{s.metric}": s.value for r in records for s in r.scores}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "harness")
    return caplog


# --- training goes on as without -------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        (30, {"every": 15, "budget": "0.5s", "limit": 4}),
        (6, {"every": 1, "limit": 2, "on_regression": "ignore"}),
        (12, {"every": 5, "on_regression": "stop", "rule": "absolute:1e300"}),
    ],
    ids=["budget", "every step", "stop"],
)
def test_losses_and_weights_are_those_without_evaluations(
    steps: int, options: dict[str, Any], tmp_path: Path
) -> None:
    undisturbed, without = trained(tmp_path, max_steps=steps)
    run, spy = trained(tmp_path, lambada(**options), max_steps=steps)
    names = ("loss", "grad_norm", "learning_rate", "epoch")
    losses = [[(s, [v.get(n) for n in names]) for s, v in x.of("loss")] for x in (without, spy)]
    assert losses[0] == losses[1]
    assert [s for s, _ in losses[0]] == [*range(3, steps + 1, 3), steps]  # and the average
    weights = undisturbed.model.state_dict()
    assert all(torch.equal(value, weights[n]) for n, value in run.model.state_dict().items())
    due = [s for s in range(1, steps + 1) if s % options["every"] == 0 or s == steps]
    assert [s for s, _ in spy.of("harness")] == due


def test_scores_are_those_of_the_saved_checkpoint(tmp_path: Path) -> None:
    """At the step where they are logged, by the command, on the same rows."""
    options = {"every": "save", "limit": 7, "seed": 3, "out": tmp_path / "records"}
    _, spy = trained(
        tmp_path / "run", lambada(**options), save_strategy="steps", save_steps=3, max_steps=6
    )
    records = [record_folder.read(path) for path in record_files(tmp_path / "records")]
    by_step = {record.model["step"]: record for record in records}
    assert sorted(by_step) == [step for step, _ in spy.of("harness")] == [3, 6]
    for step, logged in spy.of("harness"):
        model = tmp_path / "run" / f"checkpoint-{step}"
        words = ["--sample", "--limit", 7, "--seed", 3, "--json", "--out", tmp_path / "command"]
        result = harness("lambada", "--model", model, *words)
        [saved] = json.loads(result.out)["records"]
        record = by_step[step]
        assert record.model["digest"] == saved["model"]["digest"]
        assert record.model["tokenizer"] == saved["model"]["tokenizer"]
        assert str(record.signature) == saved["signature"]
        assert record.model["name"] == "run"
        assert len(saved["scores"]) == len(record.scores) > 3
        for score in saved["scores"]:
            value = logged[f"eval_harness/lambada/{score['metric']}"]
            assert value == pytest.approx(score["value"], rel=1e-5)
    assert values([by_step[3]]) != values([by_step[6]])


# --- the Trainer's loggers -------------------------------------------------------------------


def test_each_score_is_reported_once_at_its_step(tmp_path: Path) -> None:
    own = lambada(every=4, out=tmp_path / "out")
    run, spy = trained(tmp_path / "run", own, logging_steps=2, max_steps=6)
    reported = spy.of("harness")
    assert [step for step, _ in reported] == [4, 6]
    history = [entry for entry in run.state.log_history if "eval_harness/lambada/ppl" in entry]
    assert history == [{**logs, "step": step} for step, logs in reported]
    records = [record_folder.read(path) for path in record_files(tmp_path / "out")]
    assert len(records) == 2
    for record in records:
        logs = dict(reported)[record.model["step"]]
        assert {name: logs[name] for name in values([record])} == values([record])
        assert logs.keys() - values([record]).keys() == {"epoch"}
    assert [step for step, _ in spy.of("grad_norm")] == [2, 4, 6]


def test_tensorboard_gets_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, spy = trained(tmp_path / "run", lambada(every=4), max_steps=6, report_to="tensorboard")
        reader = events.EventAccumulator(str(tmp_path / "events"))
        reader.Reload()
    found = [(e.step, e.value) for e in reader.Scalars("eval/harness/lambada/ppl-per-token")]
    name = "eval_harness/lambada/ppl-per-token"
    assert found == [(s, pytest.approx(v[name], rel=1e-6)) for s, v in spy.of("harness")]
    assert len(found) == 2


def test_a_trainer_that_is_not_found_can_be_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callback_module, "_calling_handler", lambda: None)
    run, spy = trained(tmp_path, lambada(), max_steps=3)
    assert not spy.of("harness")
    [entry] = [e for e in run.state.log_history if "eval_harness/lambada/ppl" in e]
    assert entry["step"] == 3
    assert "attach()" in quiet.text
    own = lambada()
    run = trainer(tmp_path, own, max_steps=3)
    own.attach(run)
    run.train()
    assert [step for step, _ in spy_of(run).of("harness")] == [3]


# --- the evaluation before -------------------------------------------------------------------


def damage(weight: torch.Tensor) -> None:
    """Every logit is larger, so that the model is sure of what it gets wrong."""
    weight *= 1.5


def messages(log: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about single steps."""
    return [m for m in (r.getMessage() for r in log.records) if m.startswith("step ")]


@pytest.mark.parametrize("on_regression", ["ignore", "warn", "stop"])
def test_a_damaged_model_is_noticed(
    on_regression: Any, tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    own = lambada(every=2, on_regression=on_regression)
    run, spy = trained(tmp_path, Change(6, damage), own, learning_rate=0.0, max_steps=10)
    assert run.state.global_step == (6 if on_regression == "stop" else 10)
    reported = dict(spy.of("harness"))
    assert list(reported) == list(range(2, run.state.global_step + 1, 2))
    assert reported[2] == {**reported[4], "epoch": reported[2]["epoch"]}
    assert reported[6]["eval_harness/lambada/ppl"] > reported[4]["eval_harness/lambada/ppl"]
    warned = messages(quiet)
    assert len(warned) == (on_regression != "ignore")
    for line in warned:
        assert line.startswith("step 6: lambada ppl is worse than at step 4: worse by ")
        assert "one-sided p" in line
        assert line.endswith("; training stops") == (on_regression == "stop")


def test_a_rule_decides_what_a_regression_is(
    tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    own = lambada(every=3, on_regression="stop", rule="relative:1e300")
    run, _ = trained(tmp_path, Change(6, damage), own, learning_rate=0.0, max_steps=9)
    assert run.state.global_step == 9
    assert not messages(quiet)


def test_too_few_examples_to_compare_are_said_once(
    tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path, lambada(every=1, limit=4), max_steps=3)
    few = "is not compared: 4 examples are too few for a paired test"
    assert messages(quiet) == [
        f"step 2: lambada {metric} {few}" for metric in ("ppl", "acc-word-stopfilter")
    ]


# --- what goes wrong -------------------------------------------------------------------------


def test_training_survives_an_evaluation_that_fails(
    tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    own = HarnessCallback(["lambada", "wikitext2"], sample=True, every=2)
    nan = Change(4, lambda weight: weight.fill_(math.nan))
    run, spy = trained(tmp_path, nan, own, max_steps=6)
    assert run.state.global_step == 6
    assert [step for step, _ in spy.of("harness")] == [2]
    errors = [r.getMessage() for r in quiet.records if r.levelno == logging.ERROR]
    assert [line.partition(":")[0] for line in errors] == ["step 4", "step 6"]
    assert all("nan" in line and "\n" not in line for line in errors)


def test_scores_before_a_failure_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: pytest.LogCaptureFixture
) -> None:
    own = HarnessCallback(["lambada", "wikitext2"], sample=True)
    real_answer = Engine.answer

    def answer(engine: Engine, requests: Any, *more: Any) -> Any:
        if type(requests[0]).__name__ == "RollingLoglikelihood":
            raise RuntimeError("no more\nmemory")
        return real_answer(engine, requests, *more)

    monkeypatch.setattr(Engine, "answer", answer)
    _, spy = trained(tmp_path, own, max_steps=2)
    [(step, logs)] = spy.of("harness")
    assert step == 2
    assert {name.split("/")[1] for name in logs if "/" in name} == {"lambada"}
    assert "step 2: the evaluation failed: RuntimeError: no more memory" in quiet.text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tasks": ["lambda"]}, UsageError, "no task 'lambda'; did you mean lambada"),
        ({"sample": False}, DataError, "no data for LAMBADA"),
        ({"budget": "30"}, UsageError, "'30': expected a number and s, m, h, d or w"),
        ({"budget": 0}, UsageError, "budget 0: expected more than 0 seconds"),
        ({"limit": 0}, UsageError, "limit 0: expected at least 1"),
        ({"context": 4}, UsageError, "context 4: expected at least 8"),
        ({"batch_tokens": 0}, UsageError, "batch_tokens 0: expected at least 1"),
        ({"hub": True}, UsageError, "sample and hub name different rows"),
        ({"protocol": "papers"}, UsageError, "no task has a protocol 'papers'"),
        ({"set": {"strides": 4}}, UsageError, "no task has an option 'strides'"),
        ({"out": SAMPLES / "README.md"}, RecordError, "cannot write to output folder"),
        ({"every": 0}, UsageError, "every=0: expected a number of steps, or 'save'"),
        ({"every": "epoch"}, UsageError, "every='epoch': expected"),
        ({"on_regression": "halt"}, UsageError, "expected one of ignore, warn, stop"),
        ({"rule": "worse"}, UsageError, "rule 'worse': expected one of proved, paired"),
        ({"alpha": 1.0}, UsageError, "alpha=1.0: expected a level between 0 and 1"),
    ],
)
def test_wrong_options_are_refused_before_training(
    options: dict[str, Any], error: type[HarnessError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    with pytest.raises(error) as caught:
        HarnessCallback(**{"tasks": "lambada", "sample": True, **options})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("own", "changes", "error", "words"),
    [
        ({"every": "save"}, {}, UsageError, "no checkpoint will be saved"),
        (
            {},
            {"processing_class": None},
            UsageError,
            "no tokenizer: give the Trainer processing_class",
        ),
        ({"tasks": ["winograd"]}, {}, EncodingError, "winograd example 4: a continuation of 73"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_when_training_starts(
    own: dict[str, Any], changes: dict[str, Any], error: type[HarnessError], words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    run = trainer(
        tmp_path, HarnessCallback(**{"tasks": "lambada", "sample": True, **own}), **changes
    )
    with pytest.raises(error, match=words):
        run.train()
    assert run.state.global_step == 0


# --- several processes ------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    """Process 0 evaluates; the other neither waits for ever nor trains on alone."""
    code = """
import os, sys  # both processes are one up to here: importing takes most of the time
from pathlib import Path
from test_training import Change, damage, lambada, spy_of, trained

child = os.fork()
rank = "0" if child else "1"
os.environ.update(RANK=rank, LOCAL_RANK=rank)
own = lambada(every=2, on_regression="stop", limit=8)
run, spy = trained(Path(sys.argv[1]), Change(4, damage), own, max_steps=8, ddp_backend="gloo")
line = f"{rank} {run.state.global_step} {[step for step, _ in spy.of('harness')]}\\n"
sys.stdout.flush()
os.write(1, line.encode())  # whole, because the other process writes to the same pipe
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, **shared},
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=500)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # both of them
    lines = sorted(line for line in out.splitlines() if line[:2] in ("0 ", "1 "))
    assert (lines, process.returncode) == (["0 4 [2, 4]", "1 4 []"], 0), out + err


# --- checkpoints of the Trainer --------------------------------------------------------------


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_run_evaluates_the_same_rows(
    restore: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the budget would now allow other rows."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    budget = {"every": 2, "budget": "1s"}
    machine_of(monkeypatch, seconds_per_token=0.01)
    run, first = trained(tmp_path, own := lambada(**budget), **saving)
    chosen = own.rows["lambada"]
    assert chosen is not None
    assert 2 <= chosen < 12
    machine_of(monkeypatch, seconds_per_token=0.02)
    other = lambada(**budget)
    run = trainer(tmp_path, other, **saving, restore_callback_states_from_checkpoint=restore)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    [again] = [c for c in run.callback_handler.callbacks if isinstance(c, HarnessCallback)]
    assert again.rows == {"lambada": chosen}
    assert spy_of(run).of("harness") == first.of("harness")[-1:]


def test_a_run_without_evaluations_is_resumed_with_them(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trained(tmp_path, **saving, max_steps=2)
    run = trainer(tmp_path, lambada(every=2), **saving, max_steps=6)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [step for step, _ in spy_of(run).of("harness")] == [4, 6]
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["HarnessCallback"]["attributes"] == {
        "rows": {"lambada": None}
    }


def test_a_callback_can_be_pickled(tmp_path: Path) -> None:
    own = lambada(every=2, limit=3, tokenizer=TOKENIZER)
    _, spy = trained(tmp_path, own, max_steps=4)
    copied = pickle.loads(pickle.dumps(own))
    assert copied.state() == own.state()
    _, again = trained(tmp_path, copied, max_steps=4)
    assert again.of("harness") == spy.of("harness")


# --- evaluators ------------------------------------------------------------------------------


def machine_of(monkeypatch: pytest.MonkeyPatch, seconds_per_token: float) -> None:
    """A machine that needs this time, whatever this one does."""
    rates = Rates(token=seconds_per_token, path=0.0, tree=0.0, head=0.0, step=seconds_per_token)
    monkeypatch.setattr(in_process, "rates", lambda forward, key: rates)


def test_a_budget_chooses_the_rows_of_the_command(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(monkeypatch, seconds_per_token=0.01)
    options = ["--sample", "--budget", "2s", "--json", "--out", tmp_path, "--no-cache"]
    result = harness("run", "lambada", "wikitext2", "--model", tiny_folder, *options)
    by_command = {r["task"]: r["limit"] for r in json.loads(result.out)["records"]}
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_folder)
    evaluator = Evaluator(["lambada", "wikitext2"], tokenizer=TOKENIZER, sample=True, budget=2)
    records = evaluator(model)
    assert evaluator.rows == by_command == {r.task: r.limit for r in records}
    assert all(isinstance(limit, int) for limit in by_command.values())


def test_rows_and_tokens_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_encode = Encoder._encode

    def encode(encoder: Encoder, *words: Any) -> Any:
        calls.append(words)
        return real_encode(encoder, *words)

    monkeypatch.setattr(Encoder, "_encode", encode)
    evaluator = Evaluator(["lambada"], tokenizer=TOKENIZER, sample=True, limit=5)
    first, second = (
        evaluator(random_model(TOKENIZER, context=64, seed=seed), step=seed)[0] for seed in (1, 2)
    )
    assert len(calls) == 1
    assert (first.model["step"], second.model["step"]) == (1, 2)
    assert first.outcomes is not None
    assert second.outcomes is not None
    assert first.outcomes.ids == second.outcomes.ids
    assert first.outcomes.metrics != second.outcomes.metrics


def test_a_loop_without_a_trainer(tmp_path: Path) -> None:
    """The loop of the documentation: scores of each step, as a table."""
    torch.manual_seed(1)
    model = random_model(TOKENIZER, context=64).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    evaluator = Evaluator(["lambada"], tokenizer=TOKENIZER, sample=True, limit=5, out=tmp_path)
    records = []
    for step in range(5):
        if step % 2 == 0:
            records += evaluator(model, step=step, name="mine")
        batch = torch.stack(ROWS[4 * step : 4 * step + 4])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.training
    assert [record.model["step"] for record in records] == [0, 2, 4]
    table = scores(records)
    assert set(table.model) == {"mine"}
    assert len(table[table.metric == "ppl"].value.unique()) == 3
    assert len(record_files(tmp_path)) == 3


# --- one call --------------------------------------------------------------------------------


def test_a_model_is_evaluated_in_one_call(tiny_folder: Path) -> None:
    """In memory, by its path, and on the command line."""
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_folder)
    in_memory = evaluate(model, TOKENIZER, "lambada", sample=True, limit=4, seed=2)
    by_path = evaluate(tiny_folder, tasks=["lambada"], sample=True, limit=4, seed=2)
    assert values(in_memory) == pytest.approx(values(by_path), rel=1e-5)
    assert in_memory[0].model["digest"] == by_path[0].model["digest"]
    assert str(in_memory[0].signature) == str(by_path[0].signature)
    assert in_memory[0].model["name"] == "GPT2LMHeadModel"


def test_a_tokenizer_by_name(tiny_folder: Path) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_folder)
    options = {"tasks": "lambada", "sample": True, "limit": 2}
    [by_name] = evaluate(model, tiny_folder, **options)
    [by_object] = evaluate(model, TOKENIZER, **options)
    assert str(by_name.signature) == str(by_object.signature)
    assert values([by_name]) == values([by_object])


def test_options_reach_the_record(tiny_folder: Path, tmp_path: Path) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_folder)
    [record] = evaluate(
        model,
        TOKENIZER,
        ["wikitext2"],
        sample=True,
        set={"stride": 32},
        context=64,
        batch_tokens=99,
        name="mine",
        step=7,
        out=tmp_path,
    )
    assert record.options["stride"] == 32
    assert record.model["context"] == 64
    assert record.engine["budget"] == 99
    assert (record.model["name"], record.model["step"]) == ("mine", 7)
    [path] = record_files(tmp_path)
    assert values([record_folder.read(path)]) == values([record])


def test_answers_are_cached_on_request(tiny_folder: Path, tmp_path: Path) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_folder)
    options = {"sample": True, "limit": 3}
    first, second = (
        evaluate(model, TOKENIZER, "lambada", cache=tmp_path, **options)[0] for _ in range(2)
    )
    assert first.tokens.computed > 0
    assert second.tokens.computed == 0
    assert values([first]) == values([second])


def test_data_that_is_missing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    quiet: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A task by its name must have data; the others of a table are left out. As `harness run`."""
    shutil.copy(SAMPLES / "lambada_test.jsonl", tmp_path)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    with pytest.raises(DataError, match="no data for test set of wikitext-2"):
        evaluate(tiny_folder, tasks=["lambada", "wikitext2"])
    with pytest.raises(DataError, match="refused by --strict"):
        evaluate(tiny_folder, strict=True)
    quiet.clear()
    records = evaluate(tiny_folder, limit=2)
    assert {record.task for record in records} == {"lambada"}
    assert "no data for test set of wikitext-2" in quiet.text


def test_jobs_are_run_as_before_with_a_warning(tiny: Checkpoint) -> None:
    from harness import Where, load_data, load_task

    task = load_task("lambada")
    rows = load_data(task.source(task.protocol().options), Where(sample=True))
    job = Job(task, task.protocol(), rows, limit=3)
    with pytest.warns(DeprecationWarning, match=r"is now harness\.run_job") as caught:
        old = evaluate(job, Engine(tiny))  # type: ignore[arg-type]
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"is now harness\.run_job"):
        named = evaluate(job=job, engine=Engine(tiny))  # type: ignore[call-arg]
    new = run_job(job, Engine(tiny))
    assert old.scores == named.scores == new.scores  # type: ignore[attr-defined]


def test_a_tokenizer_of_a_model_by_name_has_a_name(tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match="give its tokenizer by name too"):
        evaluate(tiny_folder, TOKENIZER, "lambada", sample=True)
