"""Options of models behind servers: which go together, and what reaches the connection."""

import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from console import harness, record_files, refused
from served import NAME, URL, Calls, Served, serve

import harness as public
from harness.cli.group import cli
from harness.commands.evaluate.models import matching
from harness.commands.model_options import ModelOptions
from harness.commands.server_options import ServerOptions
from harness.engine.backends.in_process import InProcess
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.endpoint.settings import EndpointSettings
from harness.errors import EndpointError, UsageError
from harness.records.folder import read

ROWS = ("--sample", "--limit", "2", "--no-cache")


@pytest.fixture
def served(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Calls, list[Served]]:
    """Every server is this process; what it is connected with, and the connections."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    return serve(monkeypatch, lambda settings: Served(tiny, settings))


# --- options that do not go together ------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--revision", "main"), ("--trust-remote-code",), ("--device", "cpu"),
        ("--dtype", "float32"), ("--batch-tokens", "64"), ("--threads", "1"), ("--compile",),
        ("--model-option", "activation=gelu"), ("--model-config", "config.json"),
        ("--device-map", "auto"), ("--tensor-parallel", "2"),
        ("--workers", "1"), ("--workers", "1", "--address", "a:1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_of_checkpoints_are_refused(words: tuple[str, ...]) -> None:
    line = refused("ptb", "--model", NAME, *ROWS, *words)
    assert f"{words[0]} is for a checkpoint that the harness runs itself" in line
    assert line.endswith(f"leave it out for the server {NAME}")


def test_every_option_of_a_model_was_tried() -> None:
    marks = test_options_of_checkpoints_are_refused.pytestmark  # type: ignore[attr-defined]
    tried = {words[0].removeprefix("--") for words in marks[0].args[1]}
    flags = {
        f.metadata.get("flag", f.name).replace("_", "-")
        for f in fields(ModelOptions)
        if f.name not in ("names", "context", "tokenizer")
    }
    assert tried == flags | {"workers"}


@pytest.mark.parametrize(
    "words",
    [
        ("--concurrency", "16"), ("--replica", URL), ("--api-key-env", "KEY"),
        ("--timeout", "5m"), ("--patience", "10m"), ("--max-spread", "0.001"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("command", [("lambada",), ("table3",), ("jitter", "lambada")])
def test_options_of_servers_are_refused_without_one(
    command: tuple[str, ...], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sesame")
    line = refused(*command, "--model", "gpt2", "--sample", *words)
    assert f"{words[0]} is for a model behind a server; name the server" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--model", "http://"), "'http://' is not the address of a server; expected an address"),
        (("--model", "http:///v1"), "'http:///v1' is not the address of a server"),
        (("--model", "http://h:port"), "has no valid host and port; expected an address such as"),
        (("--model", "http://[::1/v1"), "has no valid host and port"),
        (("--model", "http://h/v1#"), "'http://h/v1#' names no model after the #"),
        (("--model", NAME, "--replica", "b:1"), "'b:1' is not the address of a server"),
        (("--model", NAME, "--replica", "http://b#x"), "the replica http://b#x names a model"),
        (("--model", NAME, "--replica", f"{URL}/"), f"the server {URL}/ is given twice"),
        (
            ("--model", NAME, "--replica", "http://b", "--replica", "http://b"),
            "the server http://b is given twice",
        ),
        (
            ("--model", NAME, "--model", "http://c", "--replica", "http://b"),
            "--replica is for one server; 2 are models of this run",
        ),
        (("--model", NAME, "--max-spread", "-1"), "-1.0 is not in the range 0<=x<=100"),
        (("--model", NAME, "--max-spread", "nan"), "'nan' is not a number"),
        (("--model", NAME, "--concurrency", "0"), "0 is not in the range 1<=x<=4096"),
        (("--model", NAME, "--timeout", "5"), "such as 10m"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_what_is_no_server_is_refused(words: tuple[str, ...], expected: str) -> None:
    assert expected in refused("lambada", *words, *ROWS)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:sesame@h/v1", "http://sesame@h/v1", "https://h/v1?api_key=sesame",
        "http://u:sesame#x@h/v1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--model", "--replica"])
def test_secrets_in_an_address_are_refused_and_not_repeated(flag: str, url: str) -> None:
    words = [flag, url] if flag == "--model" else ["--model", NAME, flag, url]
    line = refused("lambada", *words, *ROWS)
    assert "sesame" not in line
    assert "the address of a server has" in line


@pytest.mark.parametrize(
    ("name", "shown"),
    [("NO_SUCH_KEY", True), ("sk-sesame", False), ("sesame", False), ("SESAME", False)],
)
def test_a_key_that_is_no_variable_is_not_repeated(name: str, shown: bool) -> None:
    line = refused("ptb", "--model", NAME, *ROWS, "--api-key-env", name)
    assert "--api-key-env: the environment variable" in line
    assert (name in line) is shown


# --- what reaches the connection ----------------------------------------------------------


def test_defaults_are_those_of_the_settings(served: tuple[Calls, list[Served]]) -> None:
    assert harness("ptb", "--model", NAME, *ROWS).code == 0
    assert served[0] == [(EndpointSettings(NAME), False)]


def test_options_reach_the_connection(
    served: tuple[Calls, list[Served]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sesame")
    words = ["--concurrency", "3", "--replica", "http://b", "--replica", "https://c/v1"]
    words += ["--api-key-env", "KEY", "--timeout", "7s", "--patience", "2m", "--max-spread", "0.5"]
    words += ["--context", "100", "--tokenizer", "there"]
    result = harness("lambada", "--model", NAME, "--sample", "--limit", "2", *words)
    assert result.code == 0
    expected = EndpointSettings(
        NAME, "there", ("http://b", "https://c/v1"), 3, "KEY", 7.0, 120.0, 100, 0.5
    )
    [(settings, stored)] = served[0]
    assert (settings, stored) == (expected, True)  # the response cache is on disk
    [path] = record_files(Path("results"))
    assert read(path).model["context"] == 100
    for path in (p for p in Path().rglob("*") if p.is_file()):
        assert b"sesame" not in path.read_bytes()


def test_connections_are_closed(
    served: tuple[Calls, list[Served]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*words: object) -> Iterator[Any]:
        raise EndpointError("the server is gone")

    assert harness("run", "ptb,text8", "--model", NAME, *ROWS).code == 0
    monkeypatch.setattr(InProcess, "answer", failing)
    assert "the server is gone" in refused("ptb", "--model", NAME, *ROWS)
    assert [one.is_open for one in served[1]] == [False, False]


def test_a_server_that_fails_stops_no_other_model(
    tiny: Checkpoint,
    tiny_folder: Path,
    served: tuple[Calls, list[Served]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(settings: EndpointSettings) -> Served:
        if settings.url.endswith("gone"):
            raise EndpointError("no reply from http://b")
        return Served(tiny, settings)

    serve(monkeypatch, answer)
    models = ("--model", NAME, "--model", str(tiny_folder), "--model", "http://b/v1#gone")
    result = harness("ptb", *models, *ROWS, "--concurrency", "3")
    assert result.code == 2
    assert "http://b/v1#gone failed: no reply from http://b" in result.err
    names = {read(path).model["name"] for path in record_files(Path("results"))}
    assert names == {NAME, str(tiny_folder)}


def test_a_run_file_has_the_options(served: tuple[Calls, list[Served]]) -> None:
    Path("suite.toml").write_text(
        f'tasks = "lambada"\nmodel = "{NAME}"\nsample = true\nlimit = 2\nconcurrency = 3\n'
        'replica = ["http://b"]\ntimeout = "7s"\nmax-spread = 0.5\n'
    )
    assert harness("run", "suite.toml", "--patience", "9s").code == 0
    [(settings, _)] = served[0]
    expected = EndpointSettings(
        NAME, replicas=("http://b",), concurrency=3, timeout=7, patience=9, max_spread=0.5
    )
    assert settings == expected
    Path("suite.toml").write_text(f'tasks = "lambada"\nmodel = "{NAME}"\nmax-spread = true\n')
    assert "max-spread is True; expected a string" in refused("run", "suite.toml", "--sample")


def test_show_reads_the_tokenizer_of_the_server(served: tuple[Calls, list[Served]]) -> None:
    result = harness("show", "lambada", "--model", NAME, "--sample", "--timeout", "7s")
    assert result.code == 0
    assert "lambada item 0" in result.out
    assert [settings.timeout for settings, _ in served[0]] == [7.0]
    assert not served[1][0].is_open


def test_jitter_varies_the_calls_in_flight(served: tuple[Calls, list[Served]]) -> None:
    words = ("--model", NAME, "--sample", "--limit", "2", "--file", "jitter.json")
    result = harness("jitter", "lambada", *words, "--concurrency", "4")
    assert result.code == 0
    assert [settings.concurrency for settings, _ in served[0]] == [4, 4, 1, 16]
    assert "lambada (paper) in 4 variants" in result.out
    assert "note: lambada: 4 calls in flight, again" in result.err


# --- names of models ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http://[::1]:8000/v1", "https://h/v1#org/name@rev", NAME])
def test_an_address_is_no_pattern_and_has_no_revision(name: str) -> None:
    assert matching(name) == [name]


def test_an_address_is_no_task() -> None:
    line = refused("run", "lambada", "--model", "gpt2", NAME)
    assert f"{NAME!r} is a server, not a task" in line


def test_completion_leaves_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(*words: str) -> str:
        env = {
            "_HARNESS_COMPLETE": "zsh_complete",
            "COMP_WORDS": " ".join(["harness", *words]),
            "COMP_CWORD": str(len(words)),
            "MY_KEY_FOR_SERVERS": "sesame",
        }
        return CliRunner().invoke(cli, prog_name="harness", env=env).output

    assert complete("lambada", "--model", "http://127").strip() == ""
    completed = complete("lambada", "--api-key-env", "MY_KEY_FOR")
    assert "MY_KEY_FOR_SERVERS" in completed
    assert "sesame" not in completed


# --- gates, and records of the other kind -------------------------------------------------


@pytest.fixture
def baseline(served: tuple[Calls, list[Served]]) -> str:
    """A baseline of a server."""
    assert harness("run", "ptb", "--model", NAME, *ROWS, "--out", "ran").code == 0
    words = ("baseline", "ran", "--out", "main.toml", "--rule", "proved:2%")
    assert harness(*words).code == 0
    return "main.toml"


def test_a_gate_asks_a_server(served: tuple[Calls, list[Served]], baseline: str) -> None:
    words = ("gate", "--model", NAME, "--baseline", baseline, "--sample", "--no-cache")
    result = harness(*words, "--concurrency", "3")
    assert result.code in (0, 2), result
    assert "ptb" in result.out
    assert served[0][-1][0].concurrency == 3
    assert not served[1][-1].is_open
    line = refused(*words, "--device", "cpu")
    assert "--device is for a checkpoint that the harness runs itself" in line


@pytest.mark.parametrize("model", [(), ("--model", NAME)])
def test_noise_goes_into_no_server(
    served: tuple[Calls, list[Served]], baseline: str, model: tuple[str, ...]
) -> None:
    line = refused("gate", "--self-test", *model, "--baseline", baseline, "--sample")
    assert "--self-test puts noise into the weights" in line


def test_explain_takes_a_model_of_the_kind_of_the_record(
    served: tuple[Calls, list[Served]], tiny_folder: Path
) -> None:
    for name, out in ((NAME, "server"), (str(tiny_folder), "checkpoint")):
        assert harness("lambada", "--model", name, *ROWS, "--out", out).code == 0
    [of_server], [of_checkpoint] = (record_files(Path(n)) for n in ("server", "checkpoint"))
    line = refused("explain", of_server, "0", "--model", tiny_folder)
    assert f"the record is of {NAME}; give the address of its server" in line
    line = refused("explain", of_checkpoint, "0", "--model", NAME)
    assert f"the record is of {tiny_folder}; give its checkpoint" in line
    assert "--device is for a checkpoint" in refused("explain", of_server, "0", "--device", "cpu")
    line = refused("explain", of_checkpoint, "0", "--timeout", "5s")
    assert "--timeout is for a model behind a server" in line


def test_doctor_compares_one_server_with_weights(tiny_folder: Path) -> None:
    line = refused("doctor", "--model", tiny_folder, "--compare-with", tiny_folder)
    assert "--compare-with is for one model server; name it by --model" in line
    assert "--compare-with is for one" in refused("doctor", "--compare-with", tiny_folder)
    line = refused("doctor", "--model", NAME, "--dtype", "bfloat16")
    assert "--dtype is for a checkpoint that the harness runs itself" in line
    assert "--timeout is for a model behind" in refused("doctor", "--timeout", "5s")


# --- from Python --------------------------------------------------------------------------


def test_evaluate_takes_an_address(served: tuple[Calls, list[Served]]) -> None:
    [record] = public.evaluate(NAME, tasks="ptb", sample=True, limit=2, context=99)
    assert record.endpoint is not None
    settings = public.EndpointSettings(NAME, timeout=7, api_key_env="KEY")
    [again] = public.evaluate(settings, "folder", "lambada", sample=True, limit=2, cache=True)
    assert again.scores == record.scores or again.model["context"] != record.model["context"]
    assert served[0] == [
        (EndpointSettings(NAME, context=99), False),
        (EndpointSettings(NAME, tokenizer="folder", timeout=7, api_key_env="KEY"), True),
    ]
    assert not any(one.is_open for one in served[1])
    evaluator = public.Evaluator("lambada", sample=True, limit=2)
    evaluator.prepare(NAME)
    [record] = evaluator(NAME)
    assert record.rows == 2


def test_evaluate_refuses_what_a_server_has_not(served: tuple[Calls, list[Served]]) -> None:
    with pytest.raises(UsageError, match="is a server; leave out name and step"):
        public.evaluate(NAME, tasks="ptb", sample=True, step=3)
    with pytest.raises(UsageError, match="is a server; leave out batch_tokens, 64"):
        public.evaluate(NAME, tasks="ptb", sample=True, batch_tokens=64)
    with pytest.raises(UsageError, match="give the tokenizer of its model by name"):
        public.evaluate(NAME, object(), "lambada", sample=True)
    with pytest.raises(UsageError, match="a user, a password or a query"):
        public.EndpointSettings("http://u:p@h")
    assert served[0] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("concurrency", 0), ("timeout", 0.0), ("timeout", math.nan), ("patience", -1.0),
     ("max_spread", -1e-9), ("max_spread", math.nan)],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{field} {value}: expected at least"):
        EndpointSettings(NAME, **{field: value})


def test_numbers_of_the_options_fit_their_settings() -> None:
    names = {field.name for field in fields(ServerOptions)}
    assert names == {f.name for f in fields(EndpointSettings)} - {"url", "tokenizer", "context"}
