"""Results of self-tests are stored, and used only where they still hold."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from conftest import byte_tokenizer, save_tiny

from harness.core import Encoding, Generate, Loglikelihood, NextWord, Request, Response
from harness.engine.backends import in_process
from harness.engine.cache.store import Store
from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.model import self_test_results
from harness.engine.model.forward import Forward
from harness.engine.model.self_test_results import NotStored, SelfTestResults
from harness.engine.scoring import planner
from harness.errors import CheckpointError

REQUESTS: list[Request] = [
    *(Loglikelihood("the quick brown fox", text) for text in (" jumps", " sleeps", " jumped")),
    NextWord("the quick brown", frozenset()),
    Generate("the quick brown fox", max_new_tokens=4),
]


def checkpoint_of(folder: Path, **settings: Any) -> Checkpoint:
    return load(str(folder), Settings(device="cpu", **settings))


def run(
    checkpoint: Checkpoint, *, store: Store | None, requests: list[Request] = REQUESTS
) -> tuple[dict[int, Response], int]:
    """The responses of a new engine, and how often the trunk ran."""
    count = 0
    real = Forward.trunk

    def trunk(self: Forward, *args: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        return real(self, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "trunk", trunk)
        engine = Engine(checkpoint, store=store)
        return dict(engine.answer(requests, engine.encode(requests, Encoding()))), count


def on_disk(folder: Path) -> Store:
    """A response cache without answers."""
    return Store(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", context=128)


def test_a_second_run_does_not_test_again_and_answers_the_same(
    folder: Path, tmp_path: Path
) -> None:
    first, tested = run(checkpoint_of(folder), store=on_disk(tmp_path / "1"))
    second, count = run(checkpoint_of(folder), store=on_disk(tmp_path / "2"))
    _, again = run(checkpoint_of(folder), store=on_disk(tmp_path / "3"))
    assert second == first
    assert count == again < tested / 2
    assert (cache_root() / self_test_results.FILE).is_file()


@pytest.mark.parametrize("store", [None, Store(None)], ids=["no-cache", "in memory"])
def test_without_a_response_cache_on_disk_nothing_is_read_or_written(
    folder: Path, tmp_path: Path, store: Store | None
) -> None:
    _, before = run(checkpoint_of(folder), store=store)
    assert not (cache_root() / self_test_results.FILE).exists()
    run(checkpoint_of(folder), store=on_disk(tmp_path / "1"))
    assert run(checkpoint_of(folder), store=None)[1] == before


def test_another_checkpoint_dtype_context_or_version_is_tested(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tested = run(checkpoint_of(folder), store=on_disk(tmp_path / "1"))
    checkpoint = checkpoint_of(folder)
    _, stored = run(checkpoint, store=on_disk(tmp_path / "2"))
    other = checkpoint_of(save_tiny(tmp_path / "other", context=128, seed=1))
    identity = checkpoint.identity
    changed = [
        other,
        checkpoint_of(folder, dtype="bfloat16"),
        checkpoint_of(folder, context=100),
        replace(checkpoint, identity=replace(identity, threads=identity.threads + 1)),
    ]
    for k, different in enumerate(changed):
        assert run(different, store=on_disk(tmp_path / f"a{k}"))[1] > stored
    real = in_process.numerics
    for k, (old, new) in enumerate((("torch:", "torch:9"), ("engine:", "engine:9"))):
        monkeypatch.setattr(in_process, "numerics", lambda c, o=old, n=new: real(c).replace(o, n))
        assert run(checkpoint, store=on_disk(tmp_path / f"b{k}"))[1] == tested
    monkeypatch.setattr(in_process, "numerics", real)
    monkeypatch.setattr(self_test_results, "VERSION", 0)
    assert run(checkpoint, store=on_disk(tmp_path / "c"))[1] == tested


def test_other_sizes_are_tested(folder: Path, tmp_path: Path) -> None:
    longer = [replace(request, context=f"{request.context} and more") for request in REQUESTS[:3]]  # type: ignore[call-arg, attr-defined]
    run(checkpoint_of(folder), store=on_disk(tmp_path / "1"), requests=REQUESTS[:3])
    counts = [
        run(checkpoint_of(folder), store=on_disk(tmp_path / f"{k}"), requests=longer)[1]
        for k in (2, 3)
    ]
    assert counts[0] > counts[1]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "b": null}', b"[" * 9999]
)
def test_a_damaged_file_is_ignored_and_replaced(
    folder: Path, tmp_path: Path, content: bytes
) -> None:
    path = cache_root() / self_test_results.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    _, tested = run(checkpoint_of(folder), store=on_disk(tmp_path / "1"))
    assert run(checkpoint_of(folder), store=on_disk(tmp_path / "2"))[1] < tested


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    first, tested = run(checkpoint_of(folder), store=None)
    checkpoint = checkpoint_of(folder)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file" / "cache"))
    assert run(checkpoint, store=on_disk(tmp_path / "1")) == (first, tested)


def test_a_stored_fault_is_logged_as_it_was(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = checkpoint_of(folder)
    calls: list[object] = []

    def fault(*args: object) -> str:
        calls.append(args)
        return "this model scores rows with branches differently from separate rows"

    monkeypatch.setattr(planner, "tree_fault", fault)
    notices = []
    for k in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "harness"):
            run(checkpoint, store=on_disk(tmp_path / f"{k}"))
        notices.append([m for m in caplog.messages if "differently from separate rows" in m])
    assert len(calls) == 1
    assert len(notices[0]) == 1
    assert notices[1] == notices[0]


def test_a_model_that_is_not_causal_is_refused_every_time(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    config = tf.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, is_decoder=False, initializer_range=0.4,
    )  # fmt: skip
    tf.BertLMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for k in range(2):
        with pytest.raises(CheckpointError, match="not a causal"):
            Engine(checkpoint_of(tmp_path / "model"), store=on_disk(tmp_path / f"{k}"))


def test_results_after_errors_are_not_stored() -> None:
    assert SelfTestResults("key").get("test", lambda: NotStored("no memory")) == "no memory"
    assert SelfTestResults("key").get("test", lambda: "") == ""
    assert SelfTestResults("key").get("test", lambda: "a fault") == ""
    assert SelfTestResults("other").get("test", lambda: "a fault") == "a fault"
    assert SelfTestResults().get("test", lambda: "tested") == "tested"
