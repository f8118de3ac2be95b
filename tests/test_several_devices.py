"""Models that one device does not hold: spread over several, and in parts in several processes.

There are no accelerators here. A model is spread over memory and disk, which takes the same hooks
of accelerate, and two processes on the CPU hold the parts of another.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from console import refused
from mixed import answers
from transformers import LlamaConfig, LlamaForCausalLM

from harness.core import Encoding, Generated, Loglikelihood, Response, Word
from harness.engine.backends import tensor_parallel
from harness.engine.backends.in_process import InProcess
from harness.engine.backends.tensor_parallel import TensorParallel
from harness.engine.checkpoint import onednn
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.placement import device_map
from harness.engine.checkpoint.random_model import byte_tokenizer
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.model.out_of_memory import recover
from harness.errors import CheckpointError

LAYERS, VALUES = 4, 181_696
HALF = {"cpu": VALUES * 4 * 2 // 3}  # bytes: two thirds of the float32 weights
OFFLOAD, AUTO = Settings(device_map="offload"), Settings(device_map="auto")


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of random weights, whose class has a plan for tensor parallelism."""
    return str(save_llama(tmp_path_factory.mktemp("llama"), tied=request.param))


def save_llama(folder: Path, *, tied: bool = False, heads: int = 4) -> Path:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS,
        num_attention_heads=heads, num_key_value_heads=2, max_position_embeddings=256,
        initializer_range=0.2, bos_token_id=0, eos_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def same(one: Response, two: Response) -> bool:
    if isinstance(one, Word) or isinstance(two, Word):
        return one == two
    if isinstance(one, Generated) and isinstance(two, Generated):
        alike = (one.text, one.tokens, one.ended) == (two.text, two.tokens, two.ended)
        return alike and one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
    return one.logprob == pytest.approx(two.logprob, abs=1e-4)


def assert_same(one: Engine, two: Engine) -> None:
    """Every kind of request has the same answer, and the checkpoint is known as the same."""
    for left, right in zip(answers(one), answers(two), strict=True):
        assert same(left, right), (left, right)
    assert one.tokens == two.tokens
    assert one.identity.digest == two.identity.digest
    assert one.identity.parameters == two.identity.parameters


# --- several devices ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_is_partly_on_disk_answers_as_in_memory(
    llama: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)  # of float32 weights
    whole = load(llama, Settings(device="cpu", dtype=dtype))
    half = {"cpu": HALF["cpu"] // (2 if dtype == "bfloat16" else 1)}
    monkeypatch.setattr(device_map, "free_memory", lambda: half)
    spread = load(llama, Settings(device_map="offload", dtype=dtype))
    assert {"cpu", "disk"} == set(spread.model.hf_device_map.values())
    assert any(parameter.is_meta for parameter in spread.model.parameters())
    assert spread.identity.device == "cpu, disk"
    if dtype == "float32":  # in bfloat16, products over packed weights round otherwise
        assert_same(Engine(spread), Engine(whole))
    assert spread.identity.digest == whole.identity.digest


def test_what_is_not_asked_for_is_not_offloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_llama(tmp_path)
    monkeypatch.setattr(device_map, "free_memory", lambda: HALF)
    line = refused("lambada", "--model", folder, "--sample", "--device-map", "auto")
    assert "and this machine's memory has" in line
    assert "--device-map offload" in line
    with pytest.raises(CheckpointError, match="read from its files during the run"):
        load(str(folder), Settings(device_map="offload", copied=True))


def test_a_model_that_one_device_holds_is_not_spread(tmp_path: Path) -> None:
    folder = str(save_llama(tmp_path))
    found, plain = load(folder, AUTO), load(folder, Settings(device="cpu"))
    assert not hasattr(found.model, "hf_device_map")
    assert InProcess(found).options == InProcess(plain).options  # packed weights, among others


def test_layers_go_to_accelerators_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaConfig.from_pretrained(save_llama(tmp_path))
    model = device_map.without_numbers(config, torch.float32, Settings())
    free = {0: VALUES * 4, 1: VALUES * 4, "cpu": 1 << 30}  # of which a share may hold weights
    monkeypatch.setattr(device_map, "free_memory", lambda: free)
    found = device_map.spread(model, torch.float32, torch.device("cuda"))
    assert found is not None
    places = [found[f"model.layers.{layer}"] for layer in range(LAYERS)]
    assert places == sorted(places)
    assert set(found.values()) == {0, 1}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("own_gpt:load", AUTO, "for which --device-map has no meaning"),
        ("LLAMA", Settings(tensor_parallel=2), "a command with --tensor-parallel 2"),
    ],
)
def test_refusals_of_load(
    name: str, settings: Settings, message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(name.replace("LLAMA", str(tiny_folder)), settings)


def test_without_accelerate_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_llama(tmp_path)
    monkeypatch.setattr(device_map, "find_spec", lambda name: None)
    run = ("lambada", "--model", folder, "--sample")
    for flag, value in (("--device-map", "auto"), ("--tensor-parallel", 2)):
        assert f"{flag} needs accelerate; pip install" in refused(*run, flag, value)


# --- parts in several processes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TensorParallel, Checkpoint]]:
    """A model in two processes, and the same in this one."""
    folder = str(save_llama(tmp_path_factory.mktemp("parts"), tied=True))
    found = TensorParallel(folder, Settings(tensor_parallel=2, threads=1), budget=64)
    yield found, load(folder, Settings(device="cpu"))
    found.close()


def test_parts_answer_as_the_whole_does(parts: tuple[TensorParallel, Checkpoint]) -> None:
    divided, whole = parts
    engine = Engine(divided)
    assert_same(engine, Engine(whole, budget=64))
    assert "tensor_parallel:2" in engine.describe()["numerics"]


def test_parts_estimate_as_the_whole_does(parts: tuple[TensorParallel, Checkpoint]) -> None:
    divided, whole = parts
    requests = [Loglikelihood(f"The {n} ants", " sand") for n in range(9)]
    found = []
    for engine in (Engine(divided), Engine(whole, budget=64)):
        found.append(engine.estimate(requests, engine.encode(requests, Encoding())))
    assert found[0].computed == found[1].computed
    assert found[0].seconds > 0


def test_a_process_that_dies_ends_the_run_in_one_line(
    parts: tuple[TensorParallel, Checkpoint],
) -> None:
    divided, _ = parts  # the last test with them
    engine = Engine(divided)
    requests = [Loglikelihood(f"The {n} ants and", " sand") for n in range(60)]
    encoded = engine.encode(requests, Encoding())
    answering = engine.answer(requests, encoded)
    next(answering)
    os.kill(divided.processes[1].pid, signal.SIGKILL)
    with pytest.raises(CheckpointError, match=r"process 2 of --tensor-parallel 2 ended by signal"):
        list(answering)
    assert not any(process.is_alive() for process in divided.processes)
    with pytest.raises(CheckpointError, match="have been ended"):
        list(engine.answer(requests, encoded))


def test_what_cannot_be_divided_is_refused_before_a_process_starts(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorParallel, "_start", lambda *words: pytest.fail("started"))
    run = ("lambada", "--sample", "--no-cache", "--model")
    line = refused(*run, tiny_folder, "--tensor-parallel", 2)
    assert "GPT2LMHeadModel of transformers has no plan for tensor parallelism" in line
    folder = save_llama(tmp_path)
    line = refused(*run, folder, "--tensor-parallel", 4)
    assert "num_key_value_heads is 2, which 4 processes cannot divide evenly" in line
    monkeypatch.setattr(tensor_parallel, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    line = refused(*run, folder, "--tensor-parallel", 2)
    assert "needs 2 devices; this machine has 1" in line


def test_processes_that_wait_for_each_other_do_not_halve_their_batches() -> None:
    error = torch.OutOfMemoryError("out of memory")
    with pytest.raises(CheckpointError, match="give a smaller --batch-tokens"):
        recover(error, torch.device("cpu"), processes=2)
    recover(error, torch.device("cpu"))
