"""The checks that plugins run: every built-in benchmark passes them, and each fault is found."""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core import Example, Response, Row
from harness.metrics import ACCURACY
from harness.plugins.guard import guarded
from harness.plugins.registry import load_task, task_names
from harness.task import Measure, Option, Options, Task
from harness.testing import conformance, golden
from harness.testing import static_checks as static
from harness.testing.conformance import Check, ConformanceError, checks

WINOGRAD = load_task("winograd")  # short rows, few options
QUICK = ("lambada", "ptb", "nq", "winograd")  # each kind of request


@pytest.mark.parametrize("name", task_names())
def test_declarations_and_rows_of_the_built_in_benchmarks(name: str) -> None:
    assert static.declaration(load_task(name)) == []
    assert static.rows(load_task(name)) == []


@pytest.fixture(scope="module")
def golden_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden requests of today, so that the check has something to agree with."""
    folder = tmp_path_factory.mktemp("golden")
    for name in QUICK:
        golden.main([name, str(folder / f"{name}.json")])
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_built_in_benchmarks_pass(name: str, golden_files: Path) -> None:
    for check in checks(name, golden_files / f"{name}.json"):
        check()


def test_nothing_is_computed_before_a_check_is_called(tmp_path: Path) -> None:
    found = checks("no such benchmark", tmp_path / "golden.json")
    assert [str(check) for check in found] == [
        "declaration", "options", "rows", "golden requests", "scores", "order and batches",
    ]  # fmt: skip
    with pytest.raises(Exception, match="there is no task 'no such benchmark'"):
        found[0]()


def test_a_check_names_all_its_faults() -> None:
    with pytest.raises(ConformanceError, match=r"^riddles, rows: one; two$"):
        Check("riddles", "rows", lambda: ["one", "two"])()


def changed(**fields: object) -> Task:
    return dataclasses.replace(WINOGRAD, **fields)  # type: ignore[arg-type]


def runs(task: Task, *, backwards: bool = False) -> conformance.Runs:
    subject = conformance._Subject("")
    subject.__dict__["task"] = task
    return subject.backward_runs if backwards else subject.runs


# --- each fault -------------------------------------------------------------------------


def test_declaration() -> None:
    assert static.declaration(changed(version=0)) == ["version is 0, expected 1 or more"]
    assert static.declaration(changed(title="")) == ["title is empty"]
    same = changed(protocols={"paper": {}, "other": {"norm": "none"}})
    assert static.declaration(same) == ["protocols 'paper' and 'other' are the same options"]
    one = WINOGRAD.measures(WINOGRAD.protocol().options)[0]
    assert static.declaration(changed(measures=lambda options: (one, one))) == [
        f"two measures are named {one.name!r}"
    ]
    assert static.declaration(changed(protocols={})) == [
        "there is no protocol 'paper', the default"
    ]


def test_options_that_are_not_declared_and_not_read() -> None:
    def ask(example: Example, prompt: object, options: Options) -> object:
        options.get("frame")
        return WINOGRAD.ask(example, prompt, options)  # type: ignore[arg-type]

    idle = (*WINOGRAD.options, Option("idle", "on", ("on", "off"), ""))
    read = {"norm"}
    assert static.options(changed(options=idle), read) == [
        "option 'idle' is declared but never read"
    ]
    assert static.options(changed(ask=ask), read) == ["option 'frame' is read but not declared"]

    def misspelt(example: Example, prompt: object, options: Options) -> object:
        raise AssertionError(options["nrom"])

    assert "option 'nrom' is read but not declared" in static.options(changed(ask=misspelt), read)


def test_rows_that_are_read_differently_alone_or_again() -> None:
    def counted(rows: Sequence[Row], options: Options) -> list[Example]:
        found = WINOGRAD.read(rows, options)
        return [dataclasses.replace(example, id=str(i)) for i, example in enumerate(found)]

    alone = static.rows(changed(read=counted))
    assert alone == ["paper: a row alone gives other examples or requests than with the other rows"]

    def nameless(rows: Sequence[Row], options: Options) -> list[Example]:
        return [dataclasses.replace(e, id="x") for e in WINOGRAD.read(rows, options)]

    assert static.rows(changed(read=nameless)) == ["paper: two examples have the id 'x'"]

    turn = itertools.count()

    def moody(example: Example, prompt: object, options: Options) -> object:
        requests = WINOGRAD.ask(example, prompt, options)  # type: ignore[arg-type]
        return [dataclasses.replace(r, context=f"{next(turn)}") for r in requests]  # type: ignore[call-arg]

    assert "paper: the same rows give other requests a second time" in static.rows(
        changed(ask=moody)
    )


def test_a_file_that_is_read_otherwise_than_the_sample() -> None:
    source = WINOGRAD.source(WINOGRAD.protocol().options)
    calls = itertools.count()

    def parse(data: bytes) -> object:
        return [{**row, "call": next(calls)} for row in source.parse(data)]

    odd = dataclasses.replace(source, parse=parse)  # type: ignore[arg-type]
    assert static._through_a_file(source) == []
    assert static._through_a_file(odd) == [
        "WSCollection.xml in a data folder gives other rows than the sample"
    ]


def test_golden_requests(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    assert static.requests(WINOGRAD, path)[0].startswith(f"there is no file {path}; write them")
    golden.main(["winograd", str(path)])
    assert static.requests(WINOGRAD, path) == []
    held = json.loads(path.read_text("utf-8"))
    first = held["requests"]["paper"][0]
    first["context"] = first["context"][:-1] + "!"
    path.write_text(json.dumps(held), "utf-8")
    [fault] = static.requests(WINOGRAD, path)
    assert fault.startswith("protocol 'paper' asks ...")
    assert "!" in fault.partition("golden is")[2].partition("; if this is intended")[0]
    assert fault.endswith("write them with `python -m harness.testing.golden winograd golden.json`")
    [fault] = static.requests(changed(version=2), path)
    assert fault.startswith("version is 2, in golden.json 1; write them")


def measuring(*outcomes: tuple[float, ...]) -> Task:
    """Always these outcomes, of which two numbers are declared."""
    measure = Measure("m", ACCURACY, lambda example, responses: outcomes, ("right", "all"), "")
    return guarded(changed(measures=lambda options: (measure,)))


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([(1.0,)], ", expected a list of tuples of 2 finite numbers: right, all"),
        ([(math.nan, 1.0)], "extract() of measure 'm' gave [(nan, 1.0)] on example "),
        ([(math.inf, 1.0)], "extract() of measure 'm' gave [(inf, 1.0)] on example "),
        ([], "m"),  # `stats.score` refuses these two
        ([(1.0, 0.0)], "m"),
    ],
)
def test_scores_that_are_no_numbers(outcomes: list[tuple[float, ...]], words: str) -> None:
    [fault] = conformance.scoring_errors(lambda: runs(measuring(*outcomes)))
    assert words in fault


def test_scores_that_are_numbers() -> None:
    assert conformance.scoring_errors(lambda: runs(measuring((1.0, 1.0)))) == []


def test_outcomes_that_depend_on_the_order() -> None:
    calls = itertools.count()

    def extract(example: Example, responses: Sequence[Response]) -> list[tuple[float, ...]]:
        return [(float(next(calls) % 2), 1.0)]

    measure = Measure("m", ACCURACY, extract, ("right", "all"), "")
    task = changed(measures=lambda options: (measure,))
    [fault] = conformance.differences(runs(task), runs(task, backwards=True))
    assert fault.startswith("paper: m of example ")
    assert fault.endswith(" is (0.0, 1.0), in another order (1.0, 1.0)")
    assert conformance.differences(runs(WINOGRAD), runs(WINOGRAD, backwards=True)) == []
