"""Ray workers give what one process gives, also when one of them dies."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny
from console import harness, refused
from hypothesis import given
from hypothesis import strategies as st
from mixed import answers

from harness.commands.evaluate import concurrent_models
from harness.commands.evaluate.session import Session, job_for, opened
from harness.commands.model_options import ModelOptions
from harness.commands.options import (
    CacheOptions,
    DataOptions,
    OutputOptions,
    RunOptions,
    WorkersOptions,
)
from harness.core import (
    Encoding,
    Generate,
    Generated,
    Loglikelihood,
    Response,
    Word,
)
from harness.engine.backends import ray_workers
from harness.engine.backends.backend import BackendOptions
from harness.engine.backends.in_process import InProcess
from harness.engine.backends.ray_workers import RayWorkers, connect, parcels
from harness.engine.cache.store import Store
from harness.engine.checkpoint import load as checkpoint
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.queries.query import GenerationQuery, Query, Sharing, Span, WordQuery
from harness.errors import CheckpointError, NumericsError
from harness.plugins.registry import load_task
from harness.records.record import Record

# --- parcels --------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple)
QUESTIONS: st.SearchStrategy[Query] = st.one_of(
    st.builds(lambda ids: Span(ids, ids[-1:]), IDS),
    st.builds(lambda ids: WordQuery(ids, frozenset(), None, "word"), IDS),
    st.builds(lambda ids, seed: GenerationQuery(ids, 4, (), 2, (seed,)), IDS, st.integers(0, 2)),
)


@given(
    st.lists(QUESTIONS, unique=True, max_size=30),
    st.data(),
    st.sampled_from([None, Sharing(0.0, 64)]),
)
def test_each_unknown_question_is_in_one_parcel_and_the_largest_come_first(
    asked: list[Query], data: st.DataObject, sharing: Sharing | None
) -> None:
    known = data.draw(st.sets(st.sampled_from(asked))) if asked else set()
    found = parcels(asked, known, BackendOptions("numerics", sharing, 16, frozenset()))
    handed = [question for parcel in found for question in parcel.queries]
    assert len(handed) == len(set(handed))
    assert set(handed) == set(asked) - known
    sizes = [parcel.size for parcel in found]
    assert sizes == sorted(sizes, reverse=True)


# --- workers --------------------------------------------------------------------------------

ray = pytest.importorskip("ray", reason="Ray is not installed (extra `cluster`)")
# Otherwise workers would give way to the tests that run beside these.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 # Ray's spelling


def test_an_address_where_nobody_listens_is_refused_at_once(tiny_folder: Path) -> None:
    run = ("lambada", "--model", tiny_folder, "--sample", "--workers", 1)
    assert "no Ray cluster at '127.0.0.1:1'" in refused(*run, "--address", "127.0.0.1:1")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    connect(None, 2)
    yield
    ray.shutdown()


@pytest.fixture(scope="class")
def workers(two_workers: None, tiny_folder: Path) -> Iterator[RayWorkers]:
    settings = Settings(device="cpu", threads=1)
    found = RayWorkers(str(tiny_folder), settings, budget=64, count=2, total=2)
    yield found
    found.close()


def same(one: Response, two: Response) -> bool:
    if isinstance(one, Word) or isinstance(two, Word):
        return one == two
    if isinstance(one, Generated) and isinstance(two, Generated):
        alike = (one.text, one.tokens, one.ended) == (two.text, two.tokens, two.ended)
        return alike and one.logprobs == pytest.approx(two.logprobs, rel=1e-5, abs=1e-5)
    return one.logprob == pytest.approx(two.logprob, rel=1e-6, abs=1e-6)


class TestTwoWorkers:
    """One pair of workers for all of these: starting a pair takes seconds."""

    def test_workers_answer_as_one_process_does(
        self, workers: RayWorkers, tiny: Checkpoint, tmp_path: Path
    ) -> None:
        alone = Engine(tiny, budget=64)
        wanted = answers(alone)
        engine = Engine(workers, store=Store(tmp_path))
        for one, two in zip(answers(engine), wanted, strict=True):
            assert same(one, two)
        assert engine.tokens.asked == alone.tokens.asked
        assert engine.identity.digest == tiny.identity.digest

    def test_what_workers_answered_is_stored_and_known_to_one_process(
        self, workers: RayWorkers, tiny: Checkpoint, tmp_path: Path
    ) -> None:
        engine = Engine(workers, store=Store(tmp_path))
        wanted = answers(engine)
        alone = Engine(tiny, budget=64, store=Store(tmp_path))
        assert answers(alone) == wanted
        assert alone.tokens.computed == 0

    def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(
        self, workers: RayWorkers, tiny: Checkpoint
    ) -> None:
        engine = Engine(workers)
        requests = [
            Loglikelihood(f"The {n} ants and the {word}", " sand")
            for n in range(60)
            for word in "ab"
        ]
        encoded = engine.encode(requests, Encoding())
        found: dict[int, Response] = {}
        for i, response in engine.answer(requests, encoded):
            if not found:
                ray.kill(workers._actors[0], no_restart=False)
            found[i] = response
        wanted = answers(Engine(tiny, budget=64), requests)
        assert all(same(found[i], response) for i, response in enumerate(wanted))

    def test_the_command_prints_the_same_numbers(
        self,
        workers: RayWorkers,
        tiny_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        asked: list[dict[str, object]] = []
        monkeypatch.setattr(
            ray_workers, "RayWorkers", lambda *_, **how: asked.append(how) or workers
        )
        monkeypatch.setattr(workers, "close", lambda: None)  # the next tests need them
        run = ("lambada", "--model", tiny_folder, "--sample", "--no-cache", "--json")
        run = (*run, "--out", tmp_path)
        alone, spread = harness(*run), harness(*run, "--workers", 2)
        assert (alone.code, spread.code) == (0, 0), spread.err
        assert asked == [{"budget": None, "count": 2, "total": 2}]
        assert numbers(spread.out) == pytest.approx(numbers(alone.out), rel=1e-6)


def test_a_score_that_is_no_number_names_its_request(
    two_workers: None, tmp_path: Path, tiny: Checkpoint
) -> None:
    folder = save_tiny(tmp_path / "broken", context=256)
    spoil(folder)
    workers = RayWorkers(str(folder), Settings(device="cpu"), budget=64, count=1, total=1)
    engine = Engine(workers)
    with pytest.raises(NumericsError) as caught:
        answers(engine, [Generate(("The sand",), 3)])
    workers.close()
    assert caught.value.request == 0


def spoil(folder: Path) -> None:
    """Put NaN into the last layer's scale."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["transformer.ln_f.weight"][:] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})


def test_more_workers_than_the_cluster_holds_are_refused(
    two_workers: None, tiny_folder: Path
) -> None:
    with pytest.raises(CheckpointError, match="do not fit the cluster's 2 CPUs"):
        RayWorkers(str(tiny_folder), Settings(), budget=None, count=3, total=3)


def test_a_model_that_no_worker_can_load_is_one_line(two_workers: None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint") as caught:
        RayWorkers(str(tmp_path), Settings(), budget=None, count=1, total=1)
    assert "\n" not in str(caught.value)


# --- the command line -----------------------------------------------------------------------


def numbers(out: str) -> list[float]:
    scores: list[dict[str, Any]] = json.loads(out)["records"][0]["scores"]
    return [score["value"] for score in scores]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--address", "127.0.0.1:1"), "--address needs --workers"),
        (("--workers", 2, "--plan"), "--plan and --budget are for one process"),
        (("--workers", 2, "--budget", "1m"), "--plan and --budget are for one process"),
    ],
)
def test_options_that_contradict_each_other(
    words: tuple[object, ...], expected: str, tiny_folder: Path
) -> None:
    assert expected in refused("lambada", "--model", tiny_folder, "--sample", *words)


# --- several checkpoints, with Ray as the command starts it ------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pair")
    return [save_tiny(folder / f"m{seed}", context=128, seed=seed) for seed in range(2)]


def scores(out: str) -> dict[str, list[float]]:
    """Scores by model."""
    records = json.loads(out)["records"]
    return {r["model"]["name"]: [score["value"] for score in r["scores"]] for r in records}


@pytest.fixture
def no_ray() -> Iterator[None]:
    """As in a new process, nothing has connected."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("no_ray")
def test_models_side_by_side_score_as_they_do_alone(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both threads need the connection; a third model, which fails, costs them nothing."""
    together = threading.Barrier(2, timeout=120)
    real = concurrent_models.evaluate_job

    def met(*words: Any) -> Any:
        together.wait()  # passes only if both models are evaluated at the same time
        return real(*words)

    monkeypatch.setattr(concurrent_models, "evaluate_job", met)
    board, out = tmp_path / "board.csv", tmp_path / "beside"
    run = ("table3", "--sample", "--limit", 2, "--no-cache", "--json")
    alone = harness(*run, "--model", *pair, "--out", tmp_path / "alone")
    assert alone.code == 0, alone.err
    models = ("--model", tmp_path / "nowhere", *pair)
    result = harness(*run, *models, "--workers", 2, "--leaderboard", board, "--out", out)
    assert result.code == 2
    assert "nowhere" in result.err.strip().splitlines()[-1]
    beside = scores(result.out)
    assert sorted(beside) == sorted(scores(alone.out)) == [str(path) for path in pair]
    for name, values in scores(alone.out).items():
        assert beside[name] == pytest.approx(values, abs=1e-6, rel=1e-6)
    assert all(path.name in board.read_text() for path in pair)
    assert len(list(out.rglob("lambada*.json"))) == 2


def two_workers_for(out: Path, *models: str) -> RunOptions:
    return RunOptions(
        ModelOptions(models),
        DataOptions(sample=True, limit=2),
        output=OutputOptions(out),
        workers=WorkersOptions(2),
        cache=CacheOptions(off=True),
    )


@pytest.fixture
def lanes_without_ray(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lane has an engine of this process, where one model serves one thread at a time."""
    turn = threading.Lock()

    @contextmanager
    def engine(model: str, lane: Session) -> Iterator[Engine]:
        del model, lane
        with turn:
            yield Engine(tiny)

    monkeypatch.setattr(concurrent_models, "open_engine", engine)
    monkeypatch.setattr(concurrent_models, "connect_workers", lambda lane: None)


@pytest.mark.usefixtures("lanes_without_ray")
def test_a_defect_in_one_lane_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever one model dies of, the records of the others are written."""
    real, left = concurrent_models.evaluate_job, iter([ZeroDivisionError("a defect")])

    def spoilt(job: Any, engine: Any, lane: Any) -> Any:
        for error in left:
            raise error
        return real(job, engine, lane)

    monkeypatch.setattr(concurrent_models, "evaluate_job", spoilt)
    options = two_workers_for(tmp_path, "a", "b", "c")
    task = load_task("lambada")
    with opened(options) as session:
        job = job_for(task, task.protocol(), options.data)
        with pytest.raises(ZeroDivisionError):
            concurrent_models.evaluate_models([job], session, lambda records: None)
        assert len(session.records) == 2


@pytest.mark.usefixtures("lanes_without_ray")
def test_the_same_model_twice_has_two_lanes(tmp_path: Path) -> None:
    """The command line drops repetitions; who calls from Python gets a record for each."""
    options = two_workers_for(tmp_path, "a", "a")
    task = load_task("lambada")
    with opened(options) as session:
        job = job_for(task, task.protocol(), options.data)
        shown: list[Record] = []
        concurrent_models.evaluate_models([job], session, shown.extend)
        first, second = session.records
    assert shown == [first, second]
    assert first is not second
    assert first.scores == second.scores


@pytest.mark.usefixtures("no_ray")
def test_the_workers_of_one_model_make_room_for_the_next_ones(
    pair: list[Path], tmp_path: Path
) -> None:
    """The command starts Ray with one CPU."""
    result = harness(*two_models(pair, tmp_path), "--workers", 1, "--vary", "bos=none,eot")
    assert result.code == 0, result.err
    assert_both_are_recorded(result.out, pair, 4)


def two_models(pair: list[Path], out: Path) -> tuple[object, ...]:
    run = ("lambada", "--model", *pair, "--sample", "--limit", 2, "--no-cache")
    return (*run, "--out", out, "--json")


def assert_both_are_recorded(out: str, pair: list[Path], count: int) -> None:
    found = json.loads(out)["records"]
    assert len(found) == count
    assert {record["model"]["name"] for record in found} == set(map(str, pair))


@pytest.mark.parametrize(
    "words",
    [
        ("jitter", "lambada", "--file", "jitter.json"),
        ("lambada", "second", "--no-cache", "--out", "records"),
        ("lambada", "second", "--no-cache", "--out", "records", "--grid"),
    ],
    ids=["jitter", "models", "grid"],
)
def test_workers_are_gone_before_the_next_model_is_loaded(
    words: tuple[str, ...], tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alive: list[int] = []
    made: list[int] = []

    class Counted(InProcess):
        """Workers of this process."""

        identity = tiny.identity

        def __init__(self, *words: object, **options: object) -> None:
            super().__init__(tiny, budget=512, share=True)
            assert not alive, "the workers of the previous model still hold its memory"
            made.append(1)
            alive.append(1)

        def close(self) -> None:
            alive.clear()

    monkeypatch.setattr(ray_workers, "RayWorkers", Counted)
    monkeypatch.setattr(ray_workers, "connect", lambda address, cpus: None)
    monkeypatch.setattr(checkpoint, "tokenizer_and_context", lambda *_: (tiny.tokenizer, 256))
    result = harness(*words, "--model", "first", "--sample", "--limit", 2, "--workers", 1)
    assert result.code == 0, result.err
    assert len(made) >= 2
    assert not alive
