"""Every mistake of a server is found: one line, exit code 2, and nothing wrong in the cache."""

from pathlib import Path

import pytest
from console import harness, record_files, refused
from fake_model import Model, from_folder
from fake_runs import CONTEXT, QUICK, Outcomes, assert_equal, outcomes, self_test_calls
from fake_server import FakeServer

TASK = ("cbt-cn", "--sample", "--limit", 1)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return from_folder(tiny_folder)


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcomes of the same weights in this process."""
    out = tmp_path_factory.mktemp("expected")
    run = harness(*TASK, "--model", tiny_folder, "--context", CONTEXT, "--out", out)
    assert run.code == 0, run.err
    return outcomes(out)


@pytest.fixture(scope="module")
def after(tiny_folder: Path, model: Model) -> int:
    """How many calls the self-test takes."""
    with FakeServer(model) as server:
        return self_test_calls(tiny_folder, server)[0]


def command(server: FakeServer, folder: Path, out: Path) -> tuple[object, ...]:
    model = ("--model", server.url, "--tokenizer", folder)
    folders = ("--cache", out / "cache", "--out", out / "records")
    return (*TASK, *model, *QUICK, *folders)


AT_ONCE = {
    "bos": "prompt_token_ids: expected the ",
    "cut": "prompt_token_ids: expected the ",
    "shifted": "(shift by one)",
    "last-row": "(shift by one)",
    "another": "answers to the same question differ",
    "order": "answers to the same question differ",
    "empty": "prompt_logprobs: expected ",
    "short": "prompt_logprobs: expected ",
    "quiet": "prompt_token_ids: expected those that were sent",
    "positive": "expected a log-probability between -9999 and 0, got 0.5",
    "nan": "expected a log-probability between -9999 and 0, got nan",
    "null": "expected a log-probability, got None",
    "floor": "expected a log-probability between -9999 and 0, got -9999.0",
    "tokenizer": "20 of 20 odd texts differ",
    "texts": "expected keys such as token_id:28",
    "html": "an HTML page titled '502 Bad Gateway' instead of JSON",
    "html-502": "HTTP 502: an HTML page titled '502 Bad Gateway'",
    "503": "HTTP 503",
    "429": "HTTP 429: Too Many Requests",
    "hang": "does not answer within 5 s",
    "broken": "cut the connection before its reply was complete",
}


@pytest.mark.parametrize("trap", AT_ONCE)
def test_a_mistake_from_the_first_call_on(
    trap: str, model: Model, tiny_folder: Path, tmp_path: Path
) -> None:
    with FakeServer(model, trap=trap) as server:
        line = refused(*command(server, tiny_folder, tmp_path))
    assert AT_ONCE[trap] in line
    assert server.url.removesuffix("/v1") in line
    assert not record_files(tmp_path / "records")


LATER = {
    "bos": "token ids that were sent, got",
    "shifted": "the server changed",
    "another": "the server changed",
    "order": "the server changed",
    "drift": "the server changed",
    "hidden-bos": "the server changed",
    "empty": "expected",
    **{name: AT_ONCE[name] for name in ("positive", "html", "429", "hang", "broken")},
}


@pytest.mark.parametrize("trap", LATER)
def test_a_mistake_after_the_self_test(
    trap: str,
    model: Model,
    expected: Outcomes,
    after: int,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    with FakeServer(model, trap=trap, after=after) as server:
        line = refused(*command(server, tiny_folder, tmp_path))
        assert server.trap.made
        assert LATER[trap] in line
        server.trap.times = 0  # the mistake is repaired
        again = harness(*command(server, tiny_folder, tmp_path))
    assert again.code == 0, again.err
    assert_equal(outcomes(tmp_path / "records"), expected)


def test_a_mistake_that_passes_is_waited_for(
    model: Model,
    expected: Outcomes,
    after: int,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    for trap in ("429", "broken"):
        with FakeServer(model, trap=trap, after=after, times=2) as server:
            run = harness(*command(server, tiny_folder, tmp_path / trap), "--patience", "20s")
        assert (run.code, server.trap.made) == (0, 2), run.err
        assert_equal(outcomes(tmp_path / trap / "records"), expected)
