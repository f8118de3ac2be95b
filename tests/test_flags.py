"""Every option of every command changes what happens, or is refused; none is read by nobody.

Each command is run with and without each of its options, on a tiny model, and what can be observed
is compared: what is printed, which files are written, and with which values the parts behind the
commands are called. A new option fails here until it is given a value to try, and has an effect.
"""

import json
import re
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import click
import pytest
from conftest import save_tiny
from console import harness, law_records, refused
from served import NAME, Served, serve
from test_power import ACC, MORE, NATS, OTHER, PPL, RIGHT, made

from harness.analysis import noise_floor as movements
from harness.analysis.noise_floor import Noise
from harness.cli.evaluate.benchmark import benchmark_command
from harness.cli.group import cli
from harness.commands.compare import jitter
from harness.commands.evaluate.watch import completeness, watcher
from harness.commands.setup import bfloat16_checks, doctor, server_checks
from harness.commands.setup import installation_checks as installation
from harness.data import load as data
from harness.engine import engine as engines
from harness.engine.backends import in_process as locals_
from harness.engine.backends import ray_workers, tensor_parallel
from harness.engine.backends.in_process import InProcess
from harness.engine.backends.rates import Rates
from harness.engine.checkpoint import load as checkpoints
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.steps import step_of
from harness.engine.endpoint.settings import EndpointSettings
from harness.engine.engine import Engine
from harness.jobs.selection import PAPER_TABLES
from harness.overlap import scan
from harness.plugins.registry import load_task
from harness.records.folder import write
from harness.runner import evaluation

LAST = "acc-last-token"

pytestmark = pytest.mark.usefixtures("self_tests_once")

Given = dict[str, str | None]  # option -> its value; None for a flag

OUT: Given = {"--out": "out"}
RUN: Given = {"--model": "first", "--sample": None, "--limit": "2", "--no-cache": None, **OUT}
ROWS: Given = {"--model": "first", "--sample": None, "--limit": "2"}
WATCHED: Given = {
    "--tasks": "lambada,ptb", "--once": None, "--settle": "1h", "--sample": None, "--limit": "2",
    "--no-cache": None, **OUT,
}  # fmt: skip
GATE: Given = {
    "--model": "first", "--baseline": "gated.toml", "--sample": None, "--no-cache": None,
    "--batch-tokens": "128", **OUT,
}  # fmt: skip
SERVED: Given = {"--model": NAME}  # is behind a server
BASE: dict[str, tuple[list[str], Given]] = {
    "lambada": ([], RUN),
    "table3": ([], RUN),
    "run": (["lambada,ptb"], RUN),
    "watch": (["runs"], WATCHED),
    "show": (["lambada"], ROWS),
    "jitter": (["lambada"], {**ROWS, "--file": "jitter.json"}),
    "doctor": ([], {"--model": "first"}),
    "overlap": (
        ["lambada"],
        {"--sample": None, "--limit": "3", "--corpus": "corpus.txt", "--json": None},
    ),
    "explain": (["RECORD.json", "0"], {"--cache": "stored", "--data-dir": "data"}),
    "compare": (["one", "two"], {}),
    "baseline": (["one"], {"--out": "main.toml"}),
    "check": (["two"], {"--baseline": "held.toml"}),
    "gate": ([], GATE),
    "power": (["one"], {}),
    "curve": (["curve"], {}),
    "report": (["ran"], {"--out": "page.html", "--cache": "stored"}),
    "leaderboard": ([], {"--records": "one", "--out": "board.csv"}),
    "cache": ([], {"--cache": "stored"}),
    "init-task": (["my-riddles"], {}),
    "cache prune": ([], {"--cache": "stored", "--older": "1d"}),
    "cache check": ([], {"--cache": "stored"}),
    "tasks": ([], {}),
    "completion": (["bash"], {}),
}
"""Command -> arguments and options of the run that the others are compared with."""
TRIED: dict[str, tuple[str | None, Given, tuple[str, ...]]] = {
    "--model": ("second", {}, ()),
    "--over": ("step", {}, ()),
    "--revision": ("v2", {}, ()),
    "--trust-remote-code": (None, {}, ()),
    "--device": ("cpu", {}, ()),
    "--dtype": ("bfloat16", {}, ()),
    "--model-option": ("activation=gelu", {}, ()),
    "--tokenizer": ("second", {}, ()),
    "--model-config": ("second/config.json", {}, ()),
    "--context": ("64", {}, ()),
    "--batch-tokens": ("64", {}, ()),
    "--threads": ("3", {}, ()),
    "--compile": (None, {}, ()),
    "--device-map": ("auto", {}, ()),
    "--tensor-parallel": ("2", {}, ()),
    "--workers": ("1", {}, ()),
    "--address": ("10.0.0.1:1", {"--workers": "1"}, ()),
    "--concurrency": ("3", SERVED, ("--batch-tokens",)),
    "--replica": ("http://127.0.0.1:8124", SERVED, ("--batch-tokens",)),
    "--api-key-env": ("SERVER_KEY", SERVED, ("--batch-tokens",)),
    "--timeout": ("7s", SERVED, ("--batch-tokens",)),
    "--patience": ("8s", SERVED, ("--batch-tokens",)),
    "--max-spread": ("0.5", SERVED, ("--batch-tokens",)),
    "--compare-with": ("second", SERVED, ()),
    "--data-dir": ("data", {}, ("--sample",)),
    "--data-file": ("data/lambada_test.jsonl", {}, ("--sample",)),
    "--sample": (None, {}, ("--sample",)),
    "--hub": (None, {}, ("--sample",)),
    "--limit": ("1", {}, ()),
    "--seed": ("1", {}, ()),
    "--protocol": ("lm-eval", {}, ()),
    "--set": ("bos=none", {}, ()),
    "--grid": (None, {}, ()),
    "--vary": ("bos=none,eot", {}, ()),
    "--out": ("elsewhere", {}, ("--out",)),
    "--cache": ("store", {}, ("--no-cache", "--cache")),
    "--no-cache": (None, {}, ("--no-cache", "--cache")),
    "--dump": ("items.jsonl", {}, ()),
    "--plan": (None, {}, ()),
    "--budget": ("1s", {}, ("--limit",)),
    "--json": (None, {}, ("--json",)),
    "--strict": (None, {}, ()),
    "--signatures": (None, {}, ()),
    "--size": ("1542M", {}, ()),
    "--leaderboard": ("board.csv", {}, ()),
    "--file": ("else.json", {}, ("--file",)),
    "-n": ("2", {}, ()),
    "--corpus": ("more.txt", {}, ()),
    "--against": ("lambada", {}, ()),
    "--backend": ("bloom", {}, ()),
    "--rate": ("0.01", {"--backend": "bloom"}, ()),
    "--ngram": ("3", {}, ()),
    "--field": ("other", {"--corpus": "rows.jsonl"}, ()),
    "--by-line": (None, {}, ()),
    "--record": ("ran", {}, ("--limit",)),
    "--no-ranks": (None, {}, ()),
    "--all": (None, {}, ()),
    "--flips": ("1", {}, ()),
    "--anyway": (None, {}, ()),
    "--rule": ("absolute:1", {}, ()),
    "--score": (f"lambada:{LAST}", {}, ()),
    "--pooled": (None, {}, ()),
    "--tier": ("advisory", {}, ()),
    "--alpha": ("0.01", {}, ()),
    "--beta": ("0.2", {}, ()),
    "--baseline": ("other.toml", {}, ("--baseline",)),
    "--require-proof": (None, {}, ()),
    "--junit": ("junit.xml", {}, ()),
    "--jitter": ("noise.json", {}, ()),
    "--drop": ("3", {}, ()),
    "--power": ("0.9", {}, ()),
    "--correlation": ("0.1", {}, ()),
    "--discordance": ("0.3", {}, ()),
    "--task": ("ptb", {}, ()),
    "--title": ("Another title", {}, ()),
    "--items": ("1", {}, ()),
    "--no-tokens": (None, {}, ()),
    "--records": ("two", {}, ("--records",)),
    "--older": ("0s", {}, ()),
    "--above": ("1k", {}, ("--older",)),
    "--checkpoint": ("first", {}, ("--older",)),
    "--tasks": ("ptb", {}, ("--tasks",)),
    "--once": (None, {"--until": "300"}, ("--once",)),
    "--newest-first": (None, {}, ()),
    "--until": ("100", {}, ()),
    "--interval": ("10m", {"--until": "300"}, ("--once",)),
    "--settle": ("0.001s", {}, ("--settle",)),
    "--plot": ("curves.svg", {}, ()),
    "--looks": ("2", {}, ()),
    "--fail-fast": (None, {}, ()),
    "--self-test": (None, {}, ("--out",)),
    "--noise": ("2%", {"--self-test": None}, ("--out",)),
    "--tensorboard": ("events", {}, ()),
}
"""Option -> a value to try, what both runs are given besides, and what both go without."""
SPECIAL: dict[tuple[str, str], tuple[list[str] | None, str | None, Given, tuple[str, ...]]] = {
    # the same, with other arguments, where the general run shows nothing
    ("show", "--limit"): (None, "1", {"-n": "2"}, ()),
    ("overlap", "--workers"): (None, "2", {}, ()),
    ("compare", "--anyway"): (["one", "different"], None, {}, ()),
    ("report", "--cache"): (None, "stored", {"--data-dir": "data"}, ("--cache",)),
    ("report", "--data-dir"): (None, "data", {}, ()),
    ("explain", "--data-dir"): (None, "data", {}, ("--data-dir",)),
    ("explain", "--data-file"): (None, "data/lambada_test.jsonl", {}, ("--data-dir",)),
    ("explain", "--hub"): (None, None, {}, ("--data-dir",)),
    **{
        ("explain", flag): (
            ["SERVED.json", "0"],
            value,
            {"--tokenizer": "first", "--no-cache": None},
            ("--cache",),
        )
        for flag, value in (
            ("--concurrency", "3"),
            ("--api-key-env", "SERVER_KEY"),
            ("--timeout", "7s"),
            ("--patience", "8s"),
            ("--max-spread", "0.5"),
        )
    },
    ("explain", "--cache"): (None, "stored", {"--no-ranks": None}, ("--cache",)),
    ("overlap", "--data-file"): (None, "data/lambada_test.jsonl", {}, ("--sample",)),
    ("curve", "--task"): (None, "ptb", {}, ()),
    ("gate", "--budget"): (None, "0.001s", {}, ()),
    ("gate", "--fail-fast"): (None, None, {"--baseline": "better.toml"}, ()),
    ("gate", "--require-proof"): (None, None, {"--baseline": "better.toml"}, ()),
    ("check", "--require-proof"): (["one"], None, {"--baseline": "proved.toml"}, ()),
}


def every_command() -> dict[str, click.Command]:
    """All commands, subcommands too, with one benchmark for all of them."""
    found: dict[str, click.Command] = {"lambada": benchmark_command("lambada")}
    for name, command in cli.fixed().items():
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": one for sub, one in command.commands.items()}
    return found


def options_of(command: click.Command) -> list[str]:
    """The name of each option; of a pair such as --ranks/--no-ranks the one that changes it."""
    found = [p for p in command.params if isinstance(p, click.Option)]
    return [p.secondary_opts[0] if p.secondary_opts else p.opts[-1] for p in found]


COMMANDS = every_command()
PAIRS = [
    (name, option)
    for name, command in COMMANDS.items()
    if name != "section3"  # the same as table3, which the test below holds it to
    for option in options_of(command)
]


def test_section3_takes_what_table3_takes() -> None:
    assert options_of(COMMANDS["section3"]) == options_of(COMMANDS["table3"])


def test_every_command_is_tried() -> None:
    assert {*BASE, "section3"} == set(COMMANDS)
    assert {option for _, option in PAIRS} == set(TRIED)


# --- a small world ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint) -> Path:
    """Models, data, records, baselines and a response cache, by the names used above."""
    place = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("HARNESS_DATA", raising=False)
        for seed, name in enumerate(("first", "second")):
            save_tiny(place / name, context=256, seed=seed)
        for step in (100, 200, 300):
            save_tiny(place / "runs" / f"checkpoint-{step}", context=256)
        for step in (100, 200):  # the third may not be complete
            (place / "runs" / f"checkpoint-{step}" / "trainer_state.json").touch()
        (place / "data").mkdir()
        rows = [f"The ants carried the sand to the hill {n} and then to the sea" for n in range(3)]
        text = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        (place / "data" / "lambada_test.jsonl").write_text(text)
        run = ("--model", "first", "--data-dir", "data", "--cache", "stored", "--out", "ran")
        assert harness("lambada", *run).code == 0
        [record] = (p for p in Path("ran").rglob("*.json"))
        shutil.copy(record, "RECORD.json")
        [items] = Path("ran").rglob("*.items.json.gz")
        shutil.copy(items, items.name.replace(record.stem, "RECORD"))
        served(tiny, patch)
        made(place / "one", {PPL: NATS, ACC: RIGHT, LAST: RIGHT})
        made(place / "two", {PPL: MORE, ACC: OTHER, LAST: OTHER})
        made(place / "different", {PPL: MORE, ACC: OTHER}, prompt={"name": "x", "sha256": "00"})
        rules = {"held": "absolute:0", "other": "absolute:50", "proved": "proved:0.01"}
        for name, rule in rules.items():
            assert harness("baseline", "one", "--out", f"{name}.toml", "--rule", rule).code == 0
        for name, model, rule in (("gated", "first", "proved:2%"), ("better", "second", "paired")):
            run = ("--model", model, "--sample", "--no-cache", "--out", name)
            assert harness("run", "ptb", *run).code == 0
            words = ("--out", f"{name}.toml", "--rule", rule)
            assert harness("baseline", name, *words).code == 0
        moved = Noise("lambada", "paper", ACC, "%", 60.0, 5.0, {"float32": 5.0})
        movements.write(place / "noise.json", [moved], {})
        for step, found in enumerate(law_records(0.07)):
            last = replace(found.scores[0], metric="ppl-last-token", column=None)
            model = {**found.model, "step": step}
            write(replace(found, model=model, scores=(*found.scores, last)), place / "curve")
        corpora(place)
    return place


@pytest.fixture(scope="module")
def without_option() -> dict[str, Any]:
    """What was seen of the runs that the others are compared with."""
    return {}


def served(tiny: Checkpoint, patch: pytest.MonkeyPatch) -> None:
    """Write the record of a model behind a server, whose answers are not cached."""
    serve(patch, lambda settings: Served(tiny, settings))
    run = ("--model", NAME, "--data-dir", "data", "--no-cache", "--out", "served")
    assert harness("lambada", *run).code == 0
    [record] = (p for p in Path("served").rglob("*.json"))
    shutil.copy(record, "SERVED.json")


def corpora(place: Path) -> None:
    """The built-in rows of LAMBADA, a few words on each line, and other texts."""
    task = load_task("lambada")
    rows = data.load(task.source(task.protocol().options), data.Where(sample=True)).rows
    words = " ".join(str(row.fields["text"]) for row in rows).split()
    lines = [" ".join(words[i : i + 5]) for i in range(0, len(words), 5)]
    (place / "corpus.txt").write_text("\n".join(lines))
    (place / "more.txt").write_text(" ".join(words[:60]))
    fields = {"text": "nothing of the kind", "other": " ".join(words)}
    (place / "rows.jsonl").write_text(json.dumps(fields) + "\n")


@pytest.fixture
def observed(
    world: Path, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "Observed":
    """A function that runs a command in a fresh copy of the world and says what was seen."""
    calls: list[str] = []

    def loaded(name: str, settings: Any) -> Checkpoint:
        calls.append(f"load {name} {settings}")
        return replace(tiny, identity=replace(tiny.identity, name=name, step=step_of(name)))

    def tokenizer(name: str, settings: Any) -> Any:
        read = (settings.revision, settings.trust_remote_code, settings.context)
        read = (*read, settings.options, settings.tokenizer, settings.config_file)
        calls.append(f"tokenizer of {name} {read}")
        return tiny.tokenizer, settings.context or 256

    class Workers(InProcess):
        """Workers of this process."""

        identity = tiny.identity

        def __init__(self, *words: object, **options: object) -> None:
            super().__init__(tiny, budget=512, share=True)
            calls.append(f"workers {words} {options}")

        def close(self) -> None:
            """Nothing to let go."""

    class Counted(Engine):
        """An engine that says how it is made."""

        def __init__(self, model: Any, **how: Any) -> None:
            calls.append(f"engine {how.get('budget')}")
            super().__init__(model, **how)

    def data_loaded(source: Any, where: Any, *, strict: bool = False) -> Any:
        calls.append(f"data strict={strict}")
        return real_load(source, where, strict=strict)

    real_load = data.load
    monkeypatch.setattr(checkpoints, "load", loaded)
    monkeypatch.setattr(checkpoints, "tokenizer_and_context", tokenizer)
    monkeypatch.setattr(engines, "Engine", Counted)
    monkeypatch.setattr(ray_workers, "RayWorkers", Workers)
    monkeypatch.setattr(tensor_parallel, "TensorParallel", Workers)
    monkeypatch.setattr(ray_workers, "connect", lambda *words: calls.append(f"connect {words}"))
    monkeypatch.setattr(data, "load", data_loaded)
    published = (world / "data" / "lambada_test.jsonl").read_bytes()
    monkeypatch.setattr(data, "download", lambda hub: (published,))
    one_column = PAPER_TABLES["table3"]._replace(columns=("LAMBADA PPL",))
    monkeypatch.setitem(PAPER_TABLES, "table3", one_column)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setenv("SERVER_KEY", "sesame")
    without_measurements(calls, monkeypatch)
    behind_servers(tiny, calls, monkeypatch)
    return Observed(world, tmp_path, calls, monkeypatch)


def without_measurements(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no time for what is measured, waited for, or computed in other processes."""
    rates = Rates(token=0.01, path=0.0, tree=0.0, head=0.0, step=0.01)
    monkeypatch.setattr(locals_, "rates", lambda forward, key: rates)
    monkeypatch.setattr(jitter, "variants", lambda threads: [jitter.Variant("float32", 64)])
    monkeypatch.setattr(installation, "hardware", lambda *words: calls.append(f"{words}") or ())
    real_exact = scan.exact

    def exact(corpus: scan.Corpus, wanted: Any) -> Any:
        calls.append(f"{corpus.workers} processes")
        return real_exact(replace(corpus, workers=1), wanted)

    monkeypatch.setattr(scan, "exact", exact)
    clock = Clock(calls)
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(completeness, "time", clock)
    monkeypatch.setattr(doctor, "_check_model", lambda checkpoint: iter(()))
    monkeypatch.setattr(bfloat16_checks, "is_measurable", lambda checkpoint, name: False)


def behind_servers(tiny: Checkpoint, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer in this process for every server, and for the checks of one."""

    def connected(settings: EndpointSettings) -> Served:
        calls.append(f"connect {settings}")
        return Served(tiny, settings)

    def findings(settings: EndpointSettings, *weights: Any) -> Any:
        calls.append(f"check {settings} {weights}")
        return iter(())

    serve(monkeypatch, connected)
    monkeypatch.setattr(checkpoints, "load_tokenizer", lambda *words: tiny.tokenizer)
    monkeypatch.setattr(server_checks, "server_findings", findings)


class Clock:
    """A clock that only moves when somebody sleeps."""

    time = staticmethod(time)

    def __init__(self, calls: list[str]) -> None:
        self._now, self._calls = 0.0, calls

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        self._calls.append(f"sleep {seconds:g}")


class Observed:
    """Runs commands, each in a copy of the world, and says what could be seen of it."""

    def __init__(
        self, world: Path, place: Path, calls: list[str], patch: pytest.MonkeyPatch
    ) -> None:
        self._world, self._place, self._calls, self._patch = world, place, calls, patch
        self._count = 0

    def __call__(self, command: str, arguments: list[str], given: Given) -> dict[str, Any]:
        self._count += 1
        place = self._place / f"run{self._count}"
        shutil.copytree(self._world, place)
        self._patch.chdir(place)
        self._patch.setenv("HARNESS_CACHE", str(place / "own"))
        self._patch.setattr(evaluation, "time", SimpleNamespace(perf_counter=count().__next__))
        self._calls.clear()
        flat = [word for pair in given.items() for word in pair if word is not None]
        result = harness(*command.split(), *arguments, *flat)
        texts = (".json", ".jsonl", ".csv", ".md", ".toml", ".xml", ".html")
        files = {
            str(path.relative_to(place)): plain(path.read_text("utf-8"), place)
            if path.suffix in texts
            else ""
            for path in sorted(place.rglob("*"))
            if path.is_file() and not path.name.endswith(("-shm", "-wal"))
        }
        seen = {"code": result.code, "out": plain(result.out, place), "calls": [*self._calls]}
        return {**seen, "err": plain(result.err, place), "files": files}


def plain(text: str, place: Path) -> str:
    """A text without times and places, which differ from run to run."""
    text = text.replace(str(place), "")
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.+]*", "WHEN", text)
    text = re.sub(r'"(seconds|mb_per_second|sha256|state)": ("\w+"|[\d.e+-]+)', "", text)
    text = re.sub(r'sha256 = "\w+"', "", text)
    return re.sub(r"[\d.,]+ (s|MB/s)\b|\([\d,]+/s\)|[\d.]+ seconds", "TIME", text)


@pytest.mark.parametrize(("command", "option"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])
def test_the_option_has_an_effect(
    observed: Observed, without_option: dict[str, Any], command: str, option: str
) -> None:
    arguments, base = BASE[command]
    value, besides, without = TRIED[option]
    if (command, option) in SPECIAL:
        other, value, besides, without = SPECIAL[command, option]
        arguments = other or arguments
    given = {k: v for k, v in {**base, **besides}.items() if k not in without}
    changed = observed(command, arguments, {**given, option: value})
    key = repr((command, arguments, given))
    if key not in without_option:
        without_option[key] = observed(command, arguments, given)
        again = observed(command, arguments, given)
        assert again == without_option[key], (
            "if a run differs from a repetition, the test proves nothing"
        )
    assert changed != without_option[key], f"harness {command} does nothing with {option}"


# --- options that contradict each other ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("lambada", "--grid", "--protocol", "lm-eval"), "--grid runs every protocol"),
        (("lambada", "--grid", "--dump", "x"), "--dump takes the items of one protocol"),
        (("lambada", "--vary", "bos=none", "--dump", "x"), "--dump takes the items of one"),
        (("lambada", "--hub"), "--sample and --hub name different rows"),
        (("lambada", "--data-dir", "x"), "--data-dir and --sample name different rows"),
        (("table3", "--plan", "--leaderboard", "x.csv"), "--plan computes no scores"),
        (("show", "lambada", "--model", "y"), "show takes one --model; 2 were given"),
        (("jitter", "lambada", "--model", "y"), "jitter takes one --model; 2 were given"),
        (("lambada", "--device-map", "auto", "--device", "cpu"), "leave out --device"),
        (("lambada", "--tensor-parallel", "2", "--compile"), "leave out --compile"),
        (("lambada", "--tensor-parallel", "2", "--device-map", "auto"), "give one of them"),
        (("lambada", "--tensor-parallel", "2", "--workers", "2"), "leave out --tensor-parallel"),
        (("lambada", "--device-map", "auto", "--workers", "2"), "leave out --device-map"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_contradictions_of_runs(words: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*words, "--model", "x", "--sample")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("compare", "one", "two", "one", "--flips", "1"), "--flips shows the examples of two"),
        (("compare", "one", "two", "--flips", "1", "--json"), "--flips shows the examples of two"),
        (("power", "one", "two", "--correlation", "0.1"), "--correlation is measured"),
        (("power", "one", "two", "--discordance", "0.1"), "--discordance is measured"),
        (("report", "one", "--no-tokens", "--cache", "x"), "leave out --no-tokens"),
        (("report", "one", "--no-tokens", "--data-dir", "x"), "leave out --no-tokens"),
        (("doctor", "--dtype", "bfloat16"), "--dtype says how a model is loaded"),
        (("doctor", "--revision", "x"), "--revision says how a model is loaded"),
        (("doctor", "--trust-remote-code"), "--trust-remote-code says how a model is loaded"),
        (("doctor", "--model-option", "a=b"), "--model-option says how a model is loaded"),
        (("doctor", "--tokenizer", "x"), "--tokenizer says how a model is loaded"),
        (("overlap", "lambada", "--corpus", "x", "--rate", "0.1"), "--rate is for --backend bloom"),
        (("explain", "x", "0", "--model", "a", "--model", "b"), "explain takes one --model"),
        (
            ("gate", "--baseline", "x", "--self-test", "--tensor-parallel", "2"),
            "noise into weights",
        ),
        (("gate", "--baseline", "x", "--self-test", "--device-map", "auto"), "noise into weights"),
        (("explain", "x", "0", "--cache", "a", "--no-cache"), "--cache and --no-cache"),
        (("cache", "--cache", "a", "prune", "--cache", "b"), "--cache names both 'a' and 'b'"),
        (("cache", "--cache", "a", "check", "--cache", "b"), "--cache names both 'a' and 'b'"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_contradictions(
    words: tuple[str, ...], expected: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    assert expected in refused(*words)
