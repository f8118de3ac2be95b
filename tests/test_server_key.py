"""The key of a server is sent to it, and stands nowhere else: no record, cache, log or message."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import Result, harness, refused
from fake_model import from_folder
from fake_server import FakeServer

import harness as public
from harness.commands.setup import checkpoint_checks
from harness.engine.endpoint.connect import connect
from harness.engine.endpoint.settings import EndpointSettings
from harness.errors import EndpointError

KEY = "sesame-4711"
WRONG = "simsim-0815"


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[FakeServer]:
    """A server that demands the key, and repeats a wrong one in its error."""
    with FakeServer(from_folder(tiny_folder), key=KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, with both keys in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("RIGHT_KEY", KEY)
    monkeypatch.setenv("WRONG_KEY", WRONG)


def written() -> dict[str, bytes]:
    """All files that commands have written, by name."""
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


def test_it_is_in_nothing_that_a_run_leaves(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    reach = ("--model", server.url, "--api-key-env", "RIGHT_KEY")
    rows = ("--sample", "--limit", "2")
    results: list[Result] = []
    with caplog.at_level(logging.DEBUG):
        results.append(harness("lambada", *reach, *rows, "--dump", "items.jsonl", "--signatures"))
        results.append(harness("ptb", *reach, *rows, "--json", "--no-cache"))
        results.append(harness("lambada", *reach, *rows, "--plan"))
        [path] = Path("results").rglob("lambada*.json")
        item = json.loads(Path("items.jsonl").read_text("utf-8").split("\n")[0])["id"]
        results.append(harness("explain", path, item, "--json"))
        results.append(harness("report", "results", "--out", "page.html"))
        results.append(harness("cache"))
    assert [result.code for result in results] == [0] * len(results), results
    shown = "".join(result.out + result.err for result in results) + caplog.text
    files = written()
    assert len(files) >= 6, files.keys()  # records, outcomes, items, page, caches
    for text in (shown.encode(), *files.values()):
        assert KEY.encode() not in text
    assert b"RIGHT_KEY" not in b"".join(files.values())


@pytest.mark.parametrize("words", [("lambada", "--sample"), ("show", "lambada", "--sample")])
def test_a_wrong_one_is_not_repeated(server: FakeServer, words: tuple[str, ...]) -> None:
    line = refused(*words, "--model", server.url, "--api-key-env", "WRONG_KEY")
    assert "401" in line
    assert WRONG not in line
    line = refused(*words, "--model", server.url)
    assert "name the environment variable that holds the key by --api-key-env" in line


@pytest.mark.usefixtures("short_measurements")
def test_doctor_names_it_in_no_finding(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_checks, "SAMPLE_QUESTIONS", 1)
    for variable, code in (("RIGHT_KEY", 0), ("WRONG_KEY", 1)):
        result = harness("doctor", "--model", server.url, "--api-key-env", variable)
        assert result.code == code, result
        assert KEY not in result.out + result.err
        assert WRONG not in result.out + result.err


def test_it_is_in_no_value_in_memory(server: FakeServer) -> None:
    settings = EndpointSettings(server.url, api_key_env="RIGHT_KEY")
    endpoint = connect(settings, store_results=False)
    try:
        shown = [repr(settings), repr(endpoint), repr(vars(endpoint)), repr(endpoint.options)]
        shown += [repr(endpoint.served), repr(endpoint.served.transport)]
        assert not any(KEY in text for text in shown)
    finally:
        endpoint.close()
    wrong = public.EndpointSettings(server.url, api_key_env="WRONG_KEY")
    with pytest.raises(EndpointError) as caught:
        public.evaluate(wrong, tasks="ptb", sample=True)
    causes: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(repr(error) + str(error))
        error = error.__cause__ or error.__context__
    assert not any(WRONG in text for text in causes)
