"""Connecting to a server: identity, replicas, tokenizer, key, and what doctor prints."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import save_tiny
from fake_model import Model, from_folder
from fake_server import FakeServer

from harness.commands.setup import checkpoint_checks
from harness.commands.setup.server_checks import server_findings
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import Settings
from harness.engine.endpoint.backend import Endpoint
from harness.engine.endpoint.connect import connect
from harness.engine.endpoint.settings import EndpointSettings
from harness.engine.queries.query import Span
from harness.errors import CheckpointError, EndpointError

KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return from_folder(tiny_folder)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("other") / "tiny-gpt2", context=256, seed=1)


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[FakeServer]:
    with FakeServer(model) as server:
        yield server


@pytest.fixture(scope="module")
def other(other_folder: Path) -> Iterator[FakeServer]:
    with FakeServer(from_folder(other_folder)) as server:
        yield server


def connected(server: FakeServer, *, store_results: bool = True, **changes: object) -> Endpoint:
    """A connection that is closed again."""
    settings = {"timeout": 10.0, "patience": 2.0} | changes
    endpoint = connect(
        EndpointSettings(server.url, **settings),  # type: ignore[arg-type]
        store_results=store_results,
    )
    endpoint.close()
    return endpoint


@pytest.fixture(scope="module")
def first(server: FakeServer) -> Endpoint:
    """One connection, for all that only look at it."""
    return connected(server)


def test_the_identity_says_what_is_known(
    first: Endpoint, server: FakeServer, tiny: Checkpoint
) -> None:
    identity = first.identity
    assert identity.name == f"{server.url}#tiny"
    assert identity.tokenizer == tiny.identity.tokenizer
    assert identity.context == 254  # 255 tokens in a prompt, the last of which is a target
    assert {identity.parameters, identity.dtype, identity.device} == {"unknown"}
    assert identity.endpoint is not None
    assert identity.endpoint["url"] == server.url.removesuffix("/v1")
    assert identity.endpoint["server"] == "vllm"
    assert identity.endpoint["version"] == "0.32.0"
    assert identity.endpoint["model"] == "tiny"
    assert len(identity.endpoint["fingerprint"]) == 16


def test_a_context_is_taken_and_too_long_a_one_refused(server: FakeServer) -> None:
    assert connected(server, context=100).identity.context == 100
    with pytest.raises(EndpointError, match="--context 255: the server accepts prompts of 255"):
        connected(server, context=255)


def test_the_record_gets_the_findings(first: Endpoint) -> None:
    facts = json.loads(json.dumps(first.options.facts))
    assert facts["self_test"]["verdict"] == "passed"
    assert 0 <= facts["self_test"]["spread"] < 1e-5
    probes = [finding["probe"] for finding in facts["self_test"]["findings"]]
    assert probes == [
        "server", "tokenizer", "prompt log-probabilities", "tokens by name", "shift by one",
        "most probable tokens", "sum", "uniform bound", "option order", "generation", "greedy flag",
        "spread", "longest prompt", "prefix cache", "speed",
    ]  # fmt: skip
    assert facts["abilities"]["block"] == 16


def test_the_digest_follows_the_model_and_not_the_address(
    first: Endpoint, other: FakeServer, model: Model
) -> None:
    digest = first.identity.digest
    with FakeServer(model) as elsewhere:
        assert connected(elsewhere).identity.digest == digest
    assert connected(other).identity.digest != digest


def test_ends_are_those_of_the_model_in_this_process(first: Endpoint, tiny: Checkpoint) -> None:
    assert first.options.ends == tiny.end_tokens


def test_the_backend_answers(server: FakeServer, model: Model) -> None:
    endpoint = connect(EndpointSettings(server.url), store_results=False)
    span = Span((40, 71, 80, 10), (80, 10, 90))
    [answers] = list(endpoint.answer([span], (), lambda done, total: None))
    endpoint.close()
    rows = model.rows((40, 71, 80, 10, 90))
    expected = [rows[i][token] for i, token in zip((1, 2, 3), (80, 10, 90), strict=True)]
    assert answers[span].value.logprobs.tolist() == pytest.approx(expected, abs=1e-5)  # type: ignore[union-attr]


# --- replicas ---------------------------------------------------------------------------------


def test_a_replica_with_the_same_model_is_taken(server: FakeServer, model: Model) -> None:
    with FakeServer(model) as second:
        endpoint = connected(server, replicas=(second.url,))
        assert endpoint.options.facts["replicas"] == [second.url.removesuffix("/v1")]
        assert endpoint.served.transport.urls[0] == server.url.removesuffix("/v1")


def test_a_replica_with_another_model_is_refused(server: FakeServer, other: FakeServer) -> None:
    with pytest.raises(EndpointError, match=r"replica .* differ by up to .* nats"):
        connected(server, replicas=(other.url,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sglang"}, "its kind is 'sglang', expected 'vllm'"),
        ({"name": "another"}, r"http://127.0.0.1:\d+ has no model 'tiny'; it has another"),
        ({"trap": "length"}, "it does not accept prompts of 255 tokens"),
        ({"trap": "empty"}, "prompt_logprobs"),
    ],
)
def test_a_replica_that_differs_is_refused(
    changes: dict[str, str], message: str, server: FakeServer, model: Model
) -> None:
    with (
        FakeServer(model, **changes) as second,  # type: ignore[arg-type]
        pytest.raises(EndpointError, match=message) as caught,
    ):
        connected(server, replicas=(second.url,))
    assert "\n" not in str(caught.value)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("trap", ["bos", "cut", "shifted", "order", "another", "nan", "tokenizer"])
def test_a_failed_probe_is_one_line(trap: str, model: Model) -> None:
    with FakeServer(model, trap=trap) as wrong, pytest.raises(EndpointError) as caught:
        connected(wrong)
    assert "fails the self-test (" in str(caught.value)
    assert wrong.url.removesuffix("/v1") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shifted_rows_are_found_where_only_prompts_are_scored(
    model: Model, tiny_folder: Path
) -> None:
    with (
        FakeServer(model, kind="openai", trap="shifted") as wrong,
        pytest.raises(EndpointError, match="another last token of a prompt moves"),
    ):
        connected(wrong, tokenizer=str(tiny_folder))


def test_a_wrong_address_is_an_error_at_once(server: FakeServer) -> None:
    with FakeServer(server.model) as gone:
        url = gone.url
    with pytest.raises(EndpointError, match="connection refused"):
        connect(EndpointSettings(url), store_results=False)


def test_the_key_is_needed_and_shown_nowhere(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServer(model, key=KEY) as locked:
        with pytest.raises(EndpointError, match="401"):
            connected(locked)
        with pytest.raises(EndpointError, match="--api-key-env names is not set"):
            connected(locked, api_key_env="ZSH_NO_KEY")
        monkeypatch.setenv("ZSH_KEY", f"{KEY}-wrong")
        with pytest.raises(EndpointError) as caught:
            connected(locked, api_key_env="ZSH_KEY")
        assert KEY not in str(caught.value)
        monkeypatch.setenv("ZSH_KEY", KEY)
        endpoint = connected(locked, api_key_env="ZSH_KEY")
    shown = f"{endpoint.identity}{endpoint.options}{caplog.text}{endpoint.served.transport!r}"
    assert KEY not in shown


def test_a_tokenizer_that_is_not_here_has_to_be_named(
    tiny_folder: Path, other_folder: Path
) -> None:
    source = str(tiny_folder / "no-such-folder")
    with FakeServer(from_folder(tiny_folder)) as server:
        server.model.source = source
        with pytest.raises(EndpointError, match="name the model's tokenizer by --tokenizer"):
            connected(server)
        given = connected(server, tokenizer=str(tiny_folder))
        with pytest.raises(CheckpointError, match="no-such-name"):
            connected(server, tokenizer="./no-such-name")
    assert given.tokenizer.digest


# --- doctor -----------------------------------------------------------------------------------


def test_doctor_compares_with_the_weights(
    server: FakeServer, tiny_folder: Path, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_checks, "SAMPLE_QUESTIONS", 1)
    settings = EndpointSettings(server.url)
    same = {
        finding.name: finding
        for finding in server_findings(settings, str(tiny_folder), Settings(device="cpu"))
    }
    assert "fail" not in {finding.state for finding in same.values()}
    assert same["self-test"].seen.startswith("passed: ")
    assert same["shuffled options"].seen.startswith("10.0 %")
    assert "e-0" in same["comparison"].seen
    assert "0 of 1 choices and 0 greedy flags are others" in same["flips"].seen
    differs = {
        finding.name: finding
        for finding in server_findings(settings, str(other_folder), Settings(device="cpu"))
    }
    assert differs["comparison"].state == "fail"
    assert differs["flips"].state == "warn"


def test_doctor_ends_with_the_probe_that_fails(model: Model) -> None:
    with FakeServer(model, trap="shifted") as wrong:
        findings = list(server_findings(EndpointSettings(wrong.url)))
    assert [finding.state for finding in findings].count("fail") == 1
    assert findings[-1].state == "fail"
    assert findings[-1].advice
