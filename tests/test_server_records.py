"""Records of models behind servers, in everything that reads records."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import harness, made_record, record_files, refused
from served import NAME, Calls, Served, serve, served_identity

from harness.analysis.paper import published
from harness.analysis.runs import incomparable
from harness.analysis.scores import scores
from harness.engine.checkpoint.load import Checkpoint
from harness.records.folder import read
from harness.records.record import Record, short_name

FACTS = {"numerics": "endpoint:1|server:vllm-0.32.0", "ends": [0]}


def of_server(verdict: str = "passed", **changes: Any) -> Record:
    """A record made by hand of a model behind a server."""
    model = {
        **made_record().model,
        "name": NAME,
        **dict.fromkeys(("parameters", "dtype", "device", "threads"), "unknown"),
        "context": 1023,
        "endpoint": {"url": "http://h", "server": "vllm", "version": "0.32.0", "model": "smol"},
    }
    versions = {"harness": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
    fields: dict[str, Any] = {
        "model": model,
        "engine": {**FACTS, "self_test": {"verdict": verdict}},
        "environment": {"versions": versions},
    }
    return made_record(**{**fields, **changes})


# --- signature ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "signed"),
    [("passed", "passed"), ("spread 0.004 allowed", "spread=0.004")],
)
def test_the_signature_has_the_server_and_not_our_libraries(verdict: str, signed: str) -> None:
    signature = str(of_server(verdict).signature)
    assert signature.endswith(f"|ctx:1023|dtype:unknown|harness:0.1.0|server:vllm-0.32.0+{signed}")
    assert "torch" not in signature


def test_a_server_without_a_version() -> None:
    record = of_server()
    endpoint = {"server": "openai", "version": ""}
    nameless = replace(record, model={**record.model, "endpoint": endpoint})
    assert str(nameless.signature).endswith("|server:openai+passed")


def test_a_record_of_a_checkpoint_is_signed_as_before() -> None:
    signature = str(made_record().signature)
    assert signature.endswith("|ctx:1024|dtype:float32|harness:0.1.0|torch:2.13.0")


def test_it_can_be_compared_with_a_checkpoint() -> None:
    one, other = made_record(), of_server()
    assert incomparable(one, other) is None
    assert one.signature.diff(other.signature) == {
        "context": ("1024", "1023"),
        "dtype": ("float32", "unknown"),
        "torch": ("2.13.0", "none"),
        "server": ("none", "vllm-0.32.0+passed"),
    }


def test_another_fingerprint_is_another_file() -> None:
    one = of_server()
    other = replace(one, model={**one.model, "digest": "b1" * 32})
    assert one.filename() != other.filename()


# --- an unknown size ----------------------------------------------------------------------


def test_the_size_is_unknown() -> None:
    assert (of_server().parameters, made_record().parameters) == (None, 124439808)
    assert published.nearest_size(None) == "1542M"
    frame = scores([of_server()])
    assert set(frame["parameters"]) == {"unknown"}
    assert set(frame["paper_model"]) == {"1542M"}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (NAME, "smol"), ("https://h/v1#org/name", "name"), ("http://h:8000/v1", "v1"),
        ("out/checkpoint-5", "checkpoint-5"), ("org/name@main", "name@main"), ("/", "/"),
        ("a#b", "a#b"),
    ],
)  # fmt: skip
def test_the_short_name_of_a_model(name: str, short: str) -> None:
    assert short_name(name) == short


# --- everything that reads records --------------------------------------------------------


@pytest.fixture(scope="module")
def world(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a server in `ran`, whose answers are in the cache `stored`."""
    place = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("HARNESS_DATA", raising=False)
        serve(patch, lambda settings: Served(tiny, settings))
        run = ("--model", NAME, "--sample", "--limit", "8", "--cache", "stored", "--out", "ran")
        assert harness("run", "lambada,cbt-cn", *run).code == 0
        assert harness("baseline", "ran", "--out", "main.toml", "--rule", "absolute:1").code == 0
    return place


@pytest.fixture
def calls(world: Path, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The connections that are made; the folder is that of the records."""
    monkeypatch.chdir(world)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    return serve(monkeypatch, lambda settings: Served(tiny, settings))[0]


def test_the_record(world: Path, tiny: Checkpoint) -> None:
    paths = record_files(world / "ran")
    assert [path.parent.name for path in paths] == ["smol-5e5e5e5e"] * 2
    record = read(paths[0])
    assert record.model["endpoint"] == served_identity(tiny).endpoint
    assert (record.server, record.self_test) == ("vllm 0.32.0", "passed")


def test_a_table_of_the_paper(calls: Calls) -> None:
    words = ("table3", "--model", NAME, "--sample", "--limit", "2", "--cache", "stored")
    result = harness(*words, "--out", "t3")
    assert result.code == 0
    line = f"Table 3 of Radford et al. 2019 for {NAME} (vllm 0.32.0, context 255); paper: 1542M"
    assert line in result.out
    assert "note: computed by vllm 0.32.0: self-test passed" in result.out
    result = harness(*words, "--out", "t3", "--size", "345M")
    assert "; paper: 345M" in result.out
    result = harness(*words, "--out", "t3", "--json", "--size", "345M")
    models = {s["paper_model"] for r in json.loads(result.out)["records"] for s in r["scores"]}
    assert models == {"345M", None}


def test_one_task_a_grid_and_a_plan(calls: Calls) -> None:
    words = ("lambada", "--model", NAME, "--sample", "--limit", "2", "--cache", "stored")
    result = harness(*words, "--out", "one", "--leaderboard", "x.csv")
    assert result.code == 2  # a leaderboard is for several tasks
    result = harness(*words, "--out", "one")
    assert f"lambada v2  {NAME} (vllm 0.32.0)  2 of 12 examples" in result.out
    assert "lambada under 5 protocols" in harness(*words, "--out", "grid", "--grid").out
    plan = harness(*words, "--plan").out
    assert f"plan for {NAME}; nothing has been computed" in plan
    assert "longest prompt" in plan
    assert "peak memory" not in plan


def test_tables_and_pages(calls: Calls) -> None:
    assert harness("leaderboard", "--records", "ran", "--out", "board.csv").code == 0
    with Path("board.csv").open() as file:
        [row] = csv.DictReader(file)
    assert (row["model"], row["parameters"], row["dtype"]) == (NAME, "unknown", "unknown")
    assert harness("report", "ran", "--out", "page.html", "--no-tokens").code == 0
    page = Path("page.html").read_text("utf-8")
    assert "<dt>server</dt><dd>vllm 0.32.0</dd>" in page
    assert "number format" not in page
    assert harness("power", "ran").code == 0
    assert harness("compare", "ran", "ran").code == 0
    line = refused("curve", "ran")
    assert "nothing to draw: no record has a score and the size of its model" in line
    assert calls == []


def test_checks_and_the_cache(calls: Calls) -> None:
    result = harness("check", "ran", "--baseline", "main.toml")
    assert "cbt-cn" in result.out
    assert "not comparable" not in result.out, result.out
    assert NAME in harness("cache", "--cache", "stored").out
    assert "are sound" in harness("cache", "--cache", "stored", "check").out
    assert calls == []


def test_explain_needs_no_server_for_what_is_cached(
    calls: Calls, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_from: list[str | None] = []

    def load_tokenizer(folder: Path, name: str, settings: Any) -> Any:
        read_from.append(settings.tokenizer)
        return tiny.tokenizer

    monkeypatch.setattr("harness.engine.checkpoint.load.load_tokenizer", load_tokenizer)
    [path, _] = record_files(Path("ran"))
    result = harness("explain", path, first_item(path), "--cache", "stored")
    assert result.code == 0, result.err
    assert "note: ranks of scored tokens need the weights" in result.err
    assert calls == []
    assert read_from == ["tiny"]
    assert harness("explain", path, first_item(path), "--no-cache", "--tokenizer", "x").code == 0
    assert read_from == ["tiny", "x"]
    [(settings, _)] = calls
    assert (settings.url, settings.context, settings.tokenizer) == (NAME, 255, "x")


def first_item(path: Path) -> str:
    """The id of the first example of a record."""
    from harness.records.folder import read_outcomes

    return str(read_outcomes(path, read(path)).ids[0])


def test_explain_refuses_another_model_behind_the_same_name(
    world: Path, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Served):
        def __init__(self, settings: Any) -> None:
            super().__init__(tiny, settings)
            self.identity = replace(self.identity, digest="07" * 32)

    monkeypatch.chdir(world)
    monkeypatch.setattr(
        "harness.engine.checkpoint.load.load_tokenizer", lambda *words: tiny.tokenizer
    )
    _, opened = serve(monkeypatch, Other)
    [path, _] = record_files(Path("ran"))
    line = refused("explain", path, first_item(path), "--no-cache", "--no-ranks")
    assert "has other answers to the self-test (070707070707...) than the record" in line
    assert line.endswith("give --model the record's server")
    assert not opened[0].is_open


def test_the_report_shows_tokens_of_cached_answers(
    calls: Calls, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.engine.checkpoint.load.load_tokenizer", lambda *words: tiny.tokenizer
    )
    result = harness("report", "ran", "--out", "tokens.html", "--cache", "stored")
    assert result.code == 0
    assert "no tokens" not in result.err, result.err
    assert calls == []
