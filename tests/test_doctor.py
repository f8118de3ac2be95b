"""`harness doctor`: what each check says of a sane installation, and that each can fail."""

import json
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from console import harness
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.commands.setup import bfloat16_checks, installation_checks
from harness.commands.setup import checkpoint_checks as checks
from harness.commands.setup.checkpoint_checks import Fact, Facts
from harness.commands.setup.installation_checks import Finding
from harness.core import Example, Response
from harness.engine.backends import machine
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.plugins.registry import load_task
from harness.task import Options

pytestmark = pytest.mark.usefixtures("short_measurements")

# --- versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tested", "needed", "state", "seen"),
    [
        ({"torch": torch.__version__}, "torch>=2", "ok", "1 of them in the tested version"),
        (
            {"torch": torch.__version__.partition("+")[0]},
            "torch>=2",
            "ok",
            "1 of them in the tested version",
        ),
        ({"other": "1"}, "torch>=2", "ok", "0 of them in the tested version"),
        ({}, "torch>=2", "ok", "1 packages as required"),
        ({"torch": "1.0"}, "torch>=2", "warn", "(tested with 1.0)"),
        ({}, "torch>=999", "fail", "(needs >=999)"),
        ({}, "no-such-package-here", "fail", "no-such-package-here missing"),
    ],
)
def test_versions(tested: dict[str, str], needed: str, state: str, seen: str) -> None:
    found = installation_checks.versions(tested, [Requirement(needed)])
    assert found.state == state
    assert seen in found.seen
    assert bool(found.advice) == (state != "ok")


def test_what_is_declared_and_tested_is_read_from_this_project() -> None:
    names = {need.name for need in installation_checks.requirements()}
    assert {"torch", "click", "numpy"} <= names
    assert "pytest" not in names, "extras are optional"
    assert installation_checks.tested_versions()["torch"].count(".") == 2
    assert {canonicalize_name(name) for name in names} <= set(installation_checks.tested_versions())


# --- machine ----------------------------------------------------------------------------------


def test_device_threads_and_rate() -> None:
    names = [f.name for f in installation_checks.hardware("cpu", None)]
    assert names == ["device", "threads", "products", "bfloat16"]
    [found] = installation_checks.hardware("no-such-device", None)
    assert found.state == "fail"
    assert "this machine has: cpu" in found.seen


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert installation_checks.threading_of(9, 2).state == "warn"
    assert "OMP_NUM_THREADS=1" in installation_checks.threading_of(1, 8).seen
    assert installation_checks.threading_of(1, 8).state == "warn"
    assert installation_checks.threading_of(8, 8).state == "ok"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert installation_checks.threading_of(4, 8).state == "ok", "torch counts no hyperthreads"


def test_rate_is_products_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: every look at it is a millisecond later."""
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 1000)
    monkeypatch.setattr(machine, "MATRIX_SIZE", 32)
    assert machine.product_rate("cpu", 0.05) == pytest.approx(2 * 32**3 / 1e-3 / 1e9)
    assert installation_checks.rate(0.5, "cpu").state == "warn"
    assert installation_checks.rate(90, "cpu").state == "ok"


# --- hub --------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as here:
        thread = threading.Thread(target=here.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{here.server_port}"
        here.shutdown()
        thread.join()


def test_a_hub_that_answers(server: str) -> None:
    assert installation_checks.hub(server) == Finding("hub", "ok", f"{server} is reachable")


def test_no_hub_is_a_warning_and_never_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, says nothing
        begun = time.perf_counter()
        found = installation_checks.hub(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        assert time.perf_counter() - begun < 5
    assert found.state == "warn"
    refused = installation_checks.hub("http://127.0.0.1:9", timeout=0.2)
    assert refused.state == "warn"
    assert refused.advice


def test_offline_by_choice_is_no_warning() -> None:
    assert installation_checks.hub() == Finding(
        "hub", "ok", "not tried: HF_HUB_OFFLINE is set, cached files are used"
    )


# --- data -------------------------------------------------------------------------------------


def test_data_found_missing_changed_and_broken(tmp_path: Path) -> None:
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "one two three"}\n')
    (tmp_path / "NQ-open.dev.jsonl").write_text("no JSON\n")
    (tmp_path / "WSCollection.xml").write_bytes(b"")
    found = {f.name: f for f in installation_checks.rows(tmp_path)}
    assert found["data lambada"].state == "warn"
    assert "the published file 4aa8d02cd17c" in found["data lambada"].seen
    assert found["data nq"].state == "fail"
    assert found["data winograd"].state == "fail"
    assert found["data ptb"].state == "warn"
    assert found["data ptb"].seen.startswith("missing: ptb.test.txt")
    assert "https://" in found["data ptb"].advice
    assert "data nq pairs" in found


def test_no_or_wrong_data_folder(tmp_path: Path) -> None:
    [found] = installation_checks.rows(None)
    assert found.state == "warn"
    [found] = installation_checks.rows(tmp_path / "none")
    assert found.state == "fail"


def test_published_files_are_known(data_dir: Path) -> None:
    found = {f.name: f for f in installation_checks.rows(data_dir)}
    assert not [f for f in found.values() if f.state == "fail"]
    assert found["data lambada"].seen == ("lambada_test.jsonl, 5,153 rows, checksum as published")


# --- checkpoint ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tiny: Checkpoint) -> Engine:
    return Engine(tiny)


def scaled(checkpoint: Checkpoint, factor: float) -> Engine:
    """An engine whose logits are multiplied: 0 makes them uniform, much makes them too sure."""
    engine = Engine(checkpoint)
    forward: Any = engine.backend.forward  # type: ignore[attr-defined]
    plain = forward.head
    forward.head = lambda states: plain(states) * factor
    return engine


def test_uniform_logits_are_at_the_bound_and_confident_nonsense_above_it(
    tiny: Checkpoint,
) -> None:
    flat = checks.uniform_bound(scaled(tiny, 0.0))
    bound = math.log(len(tiny.tokenizer))
    assert flat.state in ("fail", "warn"), "at the bound, rounding decides"
    assert flat.seen.startswith(f"{bound:.2f} nats per token")
    assert checks.uniform_bound(scaled(tiny, 50.0)).state == "fail"


def test_a_model_that_knows_its_text_is_below_the_bound(tiny: Checkpoint) -> None:
    """Logits of the byte frequencies of the text, whatever the context."""
    engine = Engine(tiny)
    text = "".join(
        f"{row.fields['text'].strip()}\n" for row in rows_of("wikitext2")[: checks.SAMPLE_LINES]
    )
    [ids] = tiny.tokenizer.encode([text])
    counts = torch.bincount(torch.tensor(ids), minlength=len(tiny.tokenizer)) + 0.1
    forward: Any = engine.backend.forward  # type: ignore[attr-defined]
    forward.head = lambda states: counts.log().expand(len(states), -1).clone()
    found = checks.uniform_bound(engine)
    assert found.state == "ok"
    share = counts[ids] / counts.sum()
    assert found.seen.startswith(f"{-float(share.log().mean()):.2f} nats")


def rows_of(name: str) -> Sequence[Any]:
    from harness.data import load as data

    task = load_task(name)
    return data.load(task.source(task.protocol().options), data.Where(sample=True)).rows


def test_shuffled_options_are_at_chance_for_any_model(engine: Engine) -> None:
    found = checks.shuffled_options(engine)
    assert found.state == "ok"
    assert found.seen.startswith("10.0 %")


def test_an_answer_that_leaks_is_not_at_chance(engine: Engine) -> None:
    task = load_task("cbt-cn")

    def measures(options: Options) -> tuple[Any, ...]:
        def right(example: Example, responses: Sequence[Response]) -> list[tuple[float, ...]]:
            return [(1.0, 1.0)]

        return tuple(replace(m, extract=right) for m in task.measures(options))

    found = checks.shuffled_options(engine, replace(task, measures=measures))
    assert found.state == "fail"
    assert found.seen.startswith("100.0 %")


def test_shared_rows_agree_and_other_weights_do_not(
    engine: Engine, tiny: Checkpoint, tmp_path: Path
) -> None:
    found = checks.shared_rows(engine, Engine(tiny, share=False))
    assert found.state == "ok"
    assert "cannot share prefixes" not in found.seen
    twin = load(str(save_tiny(tmp_path / "twin", context=256, seed=1)), Settings(device="cpu"))
    assert checks.shared_rows(engine, Engine(twin, share=False)).state == "fail"
    assert "cannot share prefixes" in checks.shared_rows(*[Engine(tiny, share=False)] * 2).seen


def facts_of(tiny: Checkpoint, context: str, continuation: str, wrong: float = 0.0) -> Facts:
    """What the library's own model says, as if it had been published."""
    before, after = tiny.tokenizer.encode([context, continuation])
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
    nats = float(logits.log_softmax(-1)[range(len(after)), after].sum())
    fact = Fact(context, continuation, tuple(before), tuple(after), nats + wrong, "this test")
    return Facts("tiny", tiny.identity.parameters, len(tiny.tokenizer), (fact,))


def test_a_released_model_is_recognised(engine: Engine, tiny: Checkpoint) -> None:
    known = facts_of(tiny, "one two", " is it")
    found = checks.released(engine, known)
    assert found == Finding(
        "released model", "ok", "GPT-2 small as released: 1 published log-probabilities agree"
    )
    other = checks.released(engine, facts_of(tiny, "one two", " is it", wrong=-0.5))
    assert other.state == "ok"
    assert other.seen.startswith("not GPT-2 small: ' is it' has ")


def test_who_is_called_gpt2_must_be_it(engine: Engine, tiny: Checkpoint) -> None:
    named = Engine(replace(tiny, identity=replace(tiny.identity, name="gpt2")))
    assert checks.released(named, facts_of(tiny, "a", " b")).state == "ok"
    assert checks.released(named, facts_of(tiny, "a", " b", wrong=-0.5)).state == "fail"
    assert checks.released(named).state == "fail", "another size"
    assert checks.released(engine).seen.startswith("not GPT-2 small: ")
    known = facts_of(tiny, "a", " b")
    [fact] = known.facts
    read_otherwise = known._replace(facts=(fact._replace(continuation_ids=(1,)),))
    assert "its tokenizer encodes" in checks.released(named, read_otherwise).seen


def test_the_published_facts_fit_the_published_tokenizer(data_dir: Path) -> None:
    from transformers import GPT2TokenizerFast

    folder = data_dir / "gpt2-bpe"
    if not folder.is_dir():
        pytest.skip("HARNESS_DATA has no folder gpt2-bpe with GPT-2's vocabulary")
    gpt2: Any = GPT2TokenizerFast(
        vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe")
    )
    known = checks.gpt2_small()
    assert len(gpt2) == known.vocabulary
    assert len(known.facts) == 4
    for fact in known.facts:
        before = fact.context_ids if fact.context else ()
        assert gpt2(fact.context + fact.continuation).input_ids == [*before, *fact.continuation_ids]
        assert fact.source.startswith("https://github.com/")


@pytest.mark.parametrize(
    ("gain", "lacks", "seen"),
    [
        (1.94, "", "products of large matrices run at 1.9 times the rate of float32"),
        (
            0.5, "this CPU has no instructions",
            "this CPU has no instructions; products of large matrices run at 0.5 times the rate of "
            "float32: --dtype bfloat16 is slower here, and less exact",
        ),
    ],
)  # fmt: skip
def test_what_bfloat16_gains(gain: float, lacks: str, seen: str) -> None:
    assert installation_checks.bfloat16(gain, lacks) == ("bfloat16", "ok", seen, "")


def test_the_cost_of_bfloat16_is_measured_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(device="cpu")
    checkpoint = load(str(tiny_folder), settings)
    first = bfloat16_checks.cost(checkpoint, settings)
    assert (first.name, first.state) == ("bfloat16 cost", "ok")
    monkeypatch.setattr(bfloat16_checks, "compare", None)
    assert bfloat16_checks.cost(checkpoint, settings) == first


def test_the_cost_of_bfloat16_is_that_of_each_token(tiny_folder: Path) -> None:
    full = Engine(load(str(tiny_folder), Settings(device="cpu")))
    nothing = bfloat16_checks.compare(full, full)
    assert nothing[1:] == (0.0, 0.0, 0.0)
    half = Engine(load(str(tiny_folder), Settings(device="cpu", dtype="bfloat16")))
    found = bfloat16_checks.compare(full, half)
    assert 0 < found.mean < found.high < found.largest < 1


def test_a_large_model_is_measured_in_one_round(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Engine] = []

    def counted(engine: Engine, spans: Any) -> object:
        asked.append(engine)
        return span_answers(engine, spans)

    span_answers = bfloat16_checks.span_answers
    monkeypatch.setattr(bfloat16_checks, "span_answers", counted)
    one, two = (Engine(load(str(tiny_folder), Settings(device="cpu"))) for _ in range(2))
    bfloat16_checks.compare(one, two)
    assert asked == [one, two] * bfloat16_checks.ROUNDS
    monkeypatch.setattr(bfloat16_checks, "ENOUGH", 0.0)
    bfloat16_checks.compare(one, two)
    assert asked[2 * bfloat16_checks.ROUNDS :] == [one, two]


def test_a_slower_bfloat16_is_not_recommended() -> None:
    slow, fast = (
        bfloat16_checks.judge(bfloat16_checks.Cost(speed, 0.01, 0.02, 0.5)) for speed in (0.8, 1.8)
    )
    assert slow.seen == f"{fast.seen.replace('1.8', '0.8')}: keep --dtype float32, which is faster"


# --- the command ------------------------------------------------------------------------------


def test_the_command_says_all_and_fails_for_a_random_model(tiny_folder: Path) -> None:
    result = harness("doctor", "--model", tiny_folder, "--device", "cpu")
    names = [line[6:28].strip() for line in result.out.split("\n") if line[:4].strip()]
    assert names[:6] == ["versions", "device", "threads", "products", "bfloat16", "hub"]
    check_names = [
        "model",
        "uniform bound",
        "shuffled options",
        "shared rows",
        "cached steps",
        "released model",
        "bfloat16 cost",
    ]
    assert names[-8:-1] == check_names
    assert result.code == 1, "random weights of a large spread are worse than uniform"
    assert "1 failed: uniform bound" in result.out


def test_without_a_model_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    result = harness("doctor", "--device", "cpu", "--json")
    value = json.loads(result.out)
    assert result.code == 0
    assert value["ok"] is True
    states = {f["name"]: f["state"] for f in value["findings"]}
    assert states["data"] == "warn"
    assert states["hub"] == "ok"


def test_a_model_that_cannot_be_loaded_is_a_finding(tmp_path: Path) -> None:
    result = harness("doctor", "--model", tmp_path, "--device", "cpu")
    assert result.code == 1
    assert "fail  model" in result.out
    assert "it has no config.json" in result.out


def test_a_model_of_nan_fails_its_checks(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny(tmp_path / "nan", context=256)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("ln_f.weight"))
    weights[name][:] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    result = harness("doctor", "--model", folder, "--device", "cpu")
    assert result.code == 1
    assert "fail  uniform bound" in result.out


# --- checks that raise --------------------------------------------------------------------------


def test_cached_steps_agree_and_wrong_ones_do_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks.cached_steps(engine).state == "ok"
    real = checks.span_answers

    def shifted(engine: Engine, spans: Any) -> Any:
        found = real(engine, spans)
        next(iter(found.values())).value.logprobs[3] += 0.1
        return found

    monkeypatch.setattr(checks, "span_answers", shifted)
    found = checks.cached_steps(engine)
    assert found.state == "fail"
    assert "differs from a full pass by 1.0e-01 nats" in found.seen


def test_what_a_check_raises_is_a_line_and_what_it_has_found_stays() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("one", "ok", "fine")
        raise ValueError("several\n  lines " + "and much text " * 50)

    first, second = installation_checks.guarded("two", check, "do this")
    assert first == Finding("one", "ok", "fine")
    assert second.state == "fail"
    assert second.seen.startswith("ValueError: several lines and much")
    assert len(second.seen) == installation_checks.MAX_ERROR_CHARS
    assert second.advice == "do this"


@pytest.mark.parametrize(
    ("where", "name", "failed"),
    [
        (installation_checks, "versions", "versions"),
        (installation_checks, "rate", "device"),
        (installation_checks, "hub", "hub"),
        (checks, "uniform_bound", "uniform bound"),
        (checks, "shuffled_options", "shuffled options"),
        (checks, "shared_rows", "shared rows"),
        (checks, "cached_steps", "cached steps"),
        (checks, "released", "released model"),
    ],
)
def test_a_check_that_raises_is_a_finding_and_the_others_go_on(
    where: Any, name: str, failed: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*words: object, **more: object) -> None:
        raise RuntimeError("The size of tensor a (5) must match\nthe size of tensor b (502)")

    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr(bfloat16_checks, "is_measurable", lambda checkpoint, name: False)
    for check in ("uniform_bound", "shuffled_options", "shared_rows", "cached_steps", "released"):
        monkeypatch.setattr(checks, check, lambda *engines: Finding("stub", "ok", "fine"))
    monkeypatch.setattr(where, name, raising)
    result = harness("doctor", "--model", tiny_folder, "--device", "cpu")
    assert result.code == 1
    assert "Traceback" not in result.out + result.err
    seen = "RuntimeError: The size of tensor a (5) must match the size of tensor b (502)"
    assert f"fail  {failed:22} {seen}" in " ".join(result.out.splitlines()).replace("  ->", "")
    assert f"1 failed: {failed}" in result.out
    assert result.out.count("stub") == (5 if where is installation_checks else 4)


def test_a_model_whose_code_raises_is_a_finding(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both when it is loaded and when it is run."""
    from harness.engine.checkpoint import load as checkpoint

    def raising(*words: object, **more: object) -> None:
        raise AttributeError("'tuple' object has no attribute 'new_zeros'")

    monkeypatch.setattr(checkpoint, "load", raising)
    result = harness("doctor", "--model", tiny_folder, "--device", "cpu", "--json")
    value = json.loads(result.out)
    assert result.code == 1
    failed = [f for f in value["findings"] if f["state"] == "fail"]
    assert [f["name"] for f in failed] == ["model"]
    assert failed[0]["seen"] == "AttributeError: 'tuple' object has no attribute 'new_zeros'"
    assert failed[0]["advice"]


def test_a_benchmark_whose_data_raise_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = installation_checks.load_task

    def load_task(name: str) -> Any:
        if name == "cbt-cn":
            raise KeyError("broken")
        return real(name)

    monkeypatch.setattr(installation_checks, "load_task", load_task)
    found = {f.name: f for f in installation_checks.rows(tmp_path)}
    assert found["data cbt-cn"].state == "fail"
    assert found["data cbt-cn"].seen == "KeyError: 'broken'"
    assert {"data lambada", "data cbt-ne", "data nq pairs"} <= found.keys()
