"""Runs with a model behind a server give what the same weights give in this process."""

import re
import signal
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import save_tiny
from console import harness, refused
from fake_model import Model, from_folder
from fake_runs import (
    CONTEXT,
    QUICK,
    Outcomes,
    assert_equal,
    outcomes,
    prompts,
    self_test_calls,
)
from fake_server import FakeServer

from harness.engine.checkpoint.random_model import byte_tokenizer
from harness.engine.checkpoint.random_model import model as random_model
from harness.engine.endpoint import served_model

TASKS = ("lambada", "cbt-cn", "winograd", "wikitext2", "enwik8", "coqa", "nq")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return from_folder(tiny_folder)


def command(task: str, name: object, out: Path, *words: object) -> tuple[object, ...]:
    folders = ("--cache", out / "cache", "--out", out / "records")
    return (task, "--sample", "--model", name, *folders, *words)


def evaluated(task: str, name: object, out: Path, *words: object) -> Outcomes:
    """The outcomes of a run that succeeds."""
    run = harness(*command(task, name, out, *words))
    assert run.code == 0, run.err
    return outcomes(out / "records")


def behind(server: FakeServer, folder: Path) -> tuple[object, ...]:
    """The address of a server, and the options that go with it."""
    return (server.url, "--tokenizer", folder, *QUICK, "--patience", "30s", "--timeout", "20s")


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    """The outcomes of the same weights in this process, computed once."""
    out = tmp_path_factory.mktemp("alone")

    @cache
    def run(task: str, *words: object) -> Outcomes:
        folder = out / f"{task} {words}"
        return evaluated(task, tiny_folder, folder, "--context", CONTEXT, *words)

    return run


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_outcomes_of_this_process(
    task: str, model: Model, alone: Callable[..., Outcomes], tiny_folder: Path, tmp_path: Path
) -> None:
    with FakeServer(model, most_logprobs=200) as server:
        name, *words = behind(server, tiny_folder)
        found = evaluated(task, name, tmp_path, *words, "--limit", 1)
    assert_equal(found, alone(task, "--limit", 1))


@pytest.mark.parametrize(
    ("kind", "task"),
    [("sglang", "lambada"), ("sglang", "cbt-cn"), ("sglang", "coqa"),
     ("openai", "cbt-cn"), ("openai", "wikitext2"), ("llama.cpp", "coqa")],
)  # fmt: skip
def test_other_servers_have_the_outcomes_of_this_process(
    kind: str,
    task: str,
    model: Model,
    alone: Callable[..., Outcomes],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    size = ("--limit", 1, "--context", CONTEXT - 1)  # SGLang takes a token less
    with FakeServer(model, kind=kind) as server:
        name, *words = behind(server, tiny_folder)
        found = evaluated(task, name, tmp_path, *words, *size)
    assert_equal(found, alone(task, *size))


def test_what_a_server_does_not_show_is_refused(
    model: Model, tiny_folder: Path, tmp_path: Path
) -> None:
    with FakeServer(model, kind="llama.cpp") as server:
        name, *words = behind(server, tiny_folder)
        line = refused(*command("cbt-cn", name, tmp_path, *words, "--limit", 1))
    assert "most probable" in line
    assert re.search(r"\d+ of \d+", line)


def test_sampled_texts_are_the_same_again(model: Model, tiny_folder: Path, tmp_path: Path) -> None:
    runs = []
    for number, concurrency in enumerate((1, 8)):
        with FakeServer(model) as server:
            name, *words = behind(server, tiny_folder)
            words += ["--concurrency", concurrency, "--limit", 1]
            runs.append(evaluated("cnn-dm", name, tmp_path / str(number), *words))
    assert_equal(*runs, tolerance=0)


# --- interruptions ---------------------------------------------------------------------------


@contextmanager
def during(server: FakeServer, action: Callable[[], None], calls: int) -> Iterator[None]:
    """Do something once a server has been sent so many calls."""
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            deadline = time.monotonic() + 60
            while server.trap.calls < calls:
                assert time.monotonic() < deadline, f"{server.trap.calls} calls"
                time.sleep(0.005)
            action()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()
    assert not failed, failed


class Begins(NamedTuple):
    """How many calls the self-test takes."""

    server: int
    replica: int


@pytest.fixture(scope="module")
def begins(model: Model, tiny_folder: Path) -> Begins:
    with FakeServer(model) as server, FakeServer(model) as replica:
        return Begins(*self_test_calls(tiny_folder, server, replica))


def test_a_server_that_is_started_again_goes_on(
    model: Model, alone: Callable[..., Outcomes], begins: Begins, tiny_folder: Path, tmp_path: Path
) -> None:
    with FakeServer(model, delay=0.01) as server:

        def restart() -> None:
            server.kill()
            time.sleep(0.5)
            server.start()

        name, *words = behind(server, tiny_folder)
        with during(server, restart, begins.server + 20):
            found = evaluated("cbt-cn", name, tmp_path, *words, "--limit", 4)
    assert_equal(found, alone("cbt-cn", "--limit", 4))


def test_another_model_after_a_restart_is_refused(
    model: Model, alone: Callable[..., Outcomes], begins: Begins, tiny_folder: Path, tmp_path: Path
) -> None:
    other = from_folder(save_tiny(tmp_path / "other", context=256, seed=1))
    with FakeServer(model, delay=0.01) as server:

        def restart() -> None:
            server.kill()
            server.model = other
            server.start()

        name, *words = behind(server, tiny_folder)
        words += ["--limit", 4]
        with during(server, restart, begins.server + 20):
            line = refused(*command("cbt-cn", name, tmp_path, *words))
        assert "changed" in line
        server.model = model
        found = evaluated("cbt-cn", name, tmp_path, *words)
    assert_equal(found, alone("cbt-cn", "--limit", 4))


def test_a_run_that_is_interrupted_asks_only_what_is_missing(
    model: Model,
    alone: Callable[..., Outcomes],
    begins: Begins,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_model, "STRETCH_CALLS", 8)
    with FakeServer(model, delay=0.02) as server:
        name, *words = behind(server, tiny_folder)
        words += ["--limit", 6]
        run = command("cbt-cn", name, tmp_path, *words)

        def interrupt() -> None:
            server.delay = 5.0  # the run cannot end before the signal reaches it
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        before_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with during(server, interrupt, begins.server + 40):
                assert harness(*run).code != 0
        finally:  # a shell starts what runs in its background without one
            signal.signal(signal.SIGINT, before_handler)
        server.delay = 0.0
        before = prompts(server)[begins.server :]
        server.bodies.clear()
        found = evaluated("cbt-cn", name, tmp_path, *words)
        after = prompts(server)[begins.server :]
    assert_equal(found, alone("cbt-cn", "--limit", 6))
    assert set(before) - set(after), "everything was asked again"


def test_a_replica_that_dies_costs_nothing(
    model: Model, alone: Callable[..., Outcomes], begins: Begins, tiny_folder: Path, tmp_path: Path
) -> None:
    with FakeServer(model, delay=0.01) as server, FakeServer(model, delay=0.01) as replica:
        name, *words = behind(server, tiny_folder)
        words += ["--replica", replica.url, "--limit", 4]
        with during(replica, replica.kill, begins.replica + 8):
            found = evaluated("cbt-cn", name, tmp_path, *words)
    assert_equal(found, alone("cbt-cn", "--limit", 4))


def test_a_replica_with_another_model_is_refused(
    model: Model, tiny_folder: Path, tmp_path: Path
) -> None:
    other = from_folder(save_tiny(tmp_path / "other", context=256, seed=1))
    with FakeServer(model) as server, FakeServer(other) as replica:
        name, *words = behind(server, tiny_folder)
        run = command("cbt-cn", name, tmp_path, *words, "--replica", replica.url, "--limit", 1)
        assert replica.url.removesuffix("/v1") in refused(*run)


# --- ties and the key ------------------------------------------------------------------------


def test_tied_tokens_have_the_outcomes_of_this_process(tmp_path: Path) -> None:
    """vLLM counts ranks upwards: none of two equal tokens has rank 1."""
    network, tokenizer = tied_network()
    network.save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "tied")
    alone = evaluated("lambada", tmp_path / "tied", tmp_path / "alone", "--context", CONTEXT)
    with FakeServer(from_folder(tmp_path / "tied"), most_logprobs=200) as server:
        name, *words = behind(server, tmp_path / "tied")
        assert_equal(evaluated("lambada", name, tmp_path / "served", *words), alone)


def tied_network() -> tuple[Any, Any]:
    """Every token's output row is that of another one: `a` and `A`, `b` and `B`, ..."""
    tokenizer = byte_tokenizer()
    network = random_model(tokenizer, context=256, tie_word_embeddings=False)
    with torch.no_grad():
        for letter in string.ascii_lowercase:
            small, large = (tokenizer.convert_tokens_to_ids(x) for x in (letter, letter.upper()))
            network.lm_head.weight[large] = network.lm_head.weight[small]
    return network, tokenizer


def test_the_key_is_nowhere(
    model: Model, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-not-to-be-seen"
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "user"))
    with FakeServer(model, key=key) as server:
        name, *words = behind(server, tiny_folder)
        run = command("cbt-cn", name, tmp_path, *words, "--limit", 1, "--api-key-env", "KEY")
        monkeypatch.setenv("KEY", key)
        right = harness(*run)
        assert right.code == 0, right.err
        monkeypatch.setenv("KEY", key + "-wrong")  # the server repeats it in its refusal
        line = refused(*run)
        assert "401" in line
        server.kill()
        gone = refused(*run)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".json" for path in files)
    for text in (right.out, right.err, line, gone, *(path.read_bytes() for path in files)):
        assert (key.encode() if isinstance(text, bytes) else key) not in text
