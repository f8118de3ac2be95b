"""A benchmark that raises or returns the wrong thing: one line with function, example and error."""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from console import harness, record_files, refused

from harness.commands.evaluate.session import job_for
from harness.commands.options import DataOptions
from harness.core import (
    Example,
    Fields,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    RollingLoglikelihood,
    Row,
    Source,
)
from harness.data.parsers import json_lines
from harness.errors import DataError, HarnessError, PromptError, TaskError
from harness.metrics import ACCURACY, MEAN, Metric
from harness.metrics.extract import all_greedy
from harness.metrics.hf_evaluate import ModuleMetric
from harness.plugins.guard import guarded, is_request
from harness.plugins.registry import GROUP, load_task
from harness.prompt import Prompt
from harness.records.record import Record
from harness.runner import evaluate
from harness.task import FewShot, Measure, Options, Task, per_row
from harness.testing import conformance, golden

SOURCE = Source(
    title="questions",
    files=("questions.jsonl",),
    parse=lambda data: json_lines(data, required=("question",)),
    sample="samples/NQ-open.dev.sample.jsonl",
    origin="the package tasks",
)


def read_row(row: Row, options: Options) -> Example:
    return Example(str(row.number), {"text": row.fields["question"]}, ("yes",))


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    return [Loglikelihood(example.fields["text"], " yes")]


ACC = Measure("acc", ACCURACY, all_greedy, ("acc", "questions"), "whether it says yes")
TASK = Task(
    name="riddles",
    version=1,
    title="Riddles",
    description="Whether yes is the answer.",
    source=lambda options: SOURCE,
    read=per_row(read_row),
    ask=ask,
    measures=lambda options: (ACC,),
)


def run(task: Task) -> Record:
    """The task on its sample with the tiny model, as a command would run it."""
    task = guarded(task)
    job = job_for(task, task.protocol(), DataOptions(sample=True, limit=3))
    return evaluate(job, engine())


@cache
def engine() -> Any:
    return conformance._engine()


def test_a_benchmark_without_faults_is_left_alone() -> None:
    record = run(TASK)
    assert (record.rows, record.examples, len(record.scores)) == (3, 3, 1)


def boom(*given: object) -> Any:
    raise ValueError("boom")


def gives(value: object) -> Callable[..., Any]:
    return lambda *given: value


def divides(*given: object) -> Any:
    return 1 / 0


def stops(*given: object) -> Any:
    sys.exit(0)


def on_row_with(word: str) -> Callable[..., list[Example]]:
    def read(rows: Sequence[Row], options: Options) -> list[Example]:
        return [r if word not in str(r) else boom() for r in per_row(read_row)(rows, options)]

    return read


def source(**changes: object) -> dict[str, object]:
    return {"source": gives(replace(SOURCE, **changes))}  # type: ignore[arg-type]


def extract(function: Callable[..., Any]) -> dict[str, object]:
    return {"measures": gives((replace(ACC, extract=function),))}


def compute(function: Callable[..., Any]) -> dict[str, object]:
    return {"measures": gives((replace(ACC, metric=Metric("%", True, function)),))}


def again(*given: object) -> list[Request]:
    return [Loglikelihood("again", " yes")]


HERE = r"\(test_plugin_faults.py:\d+\)"
TASK_RIDDLES = "task 'riddles': "


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"measures": boom}, rf"measures\(\) failed: ValueError: boom {HERE}"),
        ({"measures": gives(None)}, r"measures\(\) gave None, expected a tuple of Measures"),
        ({"measures": gives(())}, r"measures\(\) gave \[\], expected a tuple of Measures"),
        ({"measures": gives((ACC, ACC))}, r"gave \['acc', 'acc'\], expected names that differ"),
        ({"source": boom}, rf"source\(\) failed: ValueError: boom {HERE}"),
        ({"source": gives("file")}, r"source\(\) gave 'file', expected a Source"),
        (source(files="questions.jsonl"), "expected a tuple of texts as the files of the Source"),
        (source(companion=boom), rf"companion\(\) failed: ValueError: boom {HERE}"),
        ({"prompt": boom}, rf"prompt\(\) failed: ValueError: boom {HERE}"),
        ({"prompt": gives("Q: {q}")}, r"prompt\(\) gave 'Q: {q}', expected a Prompt"),
        ({"read": boom}, rf"read\(\) failed on row \d+: ValueError: boom {HERE}"),
        ({"read": stops}, r"read\(\) failed on row \d+: SystemExit: 0"),
        ({"read": gives("text")}, r"read\(\) gave 'text' on row \d+, expected examples"),
        ({"read": gives(["text"])}, r"read\(\) gave 'text' on row \d+, expected examples"),
        ({"read": gives([Example("1", {}, "yes")])}, r"references='yes'\) on row \d+, expected"),  # type: ignore[arg-type]
        ({"ask": divides}, rf"ask\(\) failed on example \d+: ZeroDivisionError: .* {HERE}"),
        ({"ask": gives(None)}, r"ask\(\) gave None on example \d+, expected a list of requests"),
        ({"ask": gives("text")}, r"ask\(\) gave 'text' on example \d+, expected a list of req"),
        ({"ask": gives([])}, r"ask\(\) gave \[\] on example \d+, expected at least one request"),
        ({"ask": gives(["text"])}, r"ask\(\) gave 'text' on example \d+, expected a request"),
        ({"follow": divides}, rf"follow\(\) failed on example \d+: ZeroDivisionError: .* {HERE}"),
        ({"follow": gives(None)}, r"follow\(\) gave None on example \d+, expected a list of req"),
        (extract(boom), rf"extract\(\) of measure 'acc' failed on example \d+: .*boom {HERE}"),
        (extract(gives("x")), r"extract\(\) of measure 'acc' gave 'x' on example \d+, expected"),
        (
            extract(gives([(1.0, 1.0, 1.0)])),
            r"gave \[\(1.0, 1.0, 1.0\)\] on example \d+, expected a list of tuples of 2 finite "
            "numbers: acc, questions",
        ),
        (extract(gives([("x", 1.0)])), r"gave \[\('x', 1.0\)\] .* expected a list of tuples of 2"),
        (extract(gives((1.0, 1.0))), r"gave \[1.0, 1.0\] on example \d+, expected a list of"),
        (compute(divides), f"the metric of measure 'acc' failed: ZeroDivisionError: .* {HERE}"),
        (compute(gives("high")), "the metric of measure 'acc' failed: ValueError: could not conv"),
        ({"notes": divides}, rf"notes\(\) failed: ZeroDivisionError: .* {HERE}"),
        ({"notes": gives({"x": object()})}, r"notes\(\) gave {'x': <object .*expected texts or"),
        ({"notes": gives({"x": float("nan")})}, r"notes\(\) gave {'x': nan}, expected texts or"),
        ({"notes": gives("text")}, r"notes\(\) gave 'text', expected a mapping"),
        (
            {"few_shot": FewShot(boom, gives({}))},
            rf"few_shot.source\(\) failed: ValueError: boom {HERE}",
        ),
        (
            {"few_shot": FewShot(gives(SOURCE), boom)},
            rf"few_shot.draw\(\) failed: ValueError: boom {HERE}",
        ),
        (
            {"few_shot": FewShot(gives(SOURCE), gives(["x"]))},
            r"few_shot.draw\(\) gave \['x'\], expected a mapping of fields",
        ),
    ],
)
def test_each_fault_is_named_with_its_function(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=f"^{TASK_RIDDLES}.*{words}") as caught:
        run(replace(TASK, **changes))
    assert "\n" not in str(caught.value)
    if " failed" in words:
        assert caught.value.__cause__ is not None, "its author can see the traceback"


def test_a_row_that_cannot_be_read_is_told_from_the_others() -> None:
    rows = tuple(Row(n, {"question": text}) for n, text in enumerate(("who", "why", "when")))
    task = guarded(replace(TASK, read=on_row_with("why")))
    with pytest.raises(TaskError, match=r"read\(\) failed on row 1: ValueError: boom"):
        task.read(rows, {})
    # of running text rows belong together
    task = guarded(replace(TASK, read=on_row_with("why"), stream=True))
    with pytest.raises(TaskError, match=r"read\(\) failed: ValueError: boom"):
        task.read(rows, {})


def test_rows_that_a_parser_cannot_make() -> None:
    def missing(data: bytes) -> list[Fields]:
        return [{"x": row["x"]} for row in json_lines(data, required=())]

    where = r"questions \(package harness.tasks\): parse\(\) failed on samples/.*"
    words = rf"{where}: KeyError: 'x' {HERE}"
    with pytest.raises(TaskError, match=words):
        run(replace(TASK, **source(parse=missing)))  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="expected a list of mappings, got"):
        run(replace(TASK, **source(parse=lambda data: data.decode())))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"sample": "samples/nosuch"}, {"package": "nosuchpkg"}, {"sample": "samples"}]
)
def test_a_sample_that_is_not_there(changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"the built-in sample '.*' of questions is not in package"):
        run(replace(TASK, **source(**changes)))  # type: ignore[arg-type]


def test_a_prompt_of_a_package_that_is_not_there() -> None:
    with pytest.raises(
        PromptError, match=r"package 'nosuchpkg' of prompt 'x.txt': No module named"
    ):
        run(replace(TASK, prompt=lambda options: Prompt.load("x.txt", package="nosuchpkg")))


def test_an_error_of_the_harness_stays_what_it_is() -> None:
    def refuse(*given: object) -> Any:
        raise DataError("row 3: expected a rhyme")

    with pytest.raises(DataError, match=r"^row 3: expected a rhyme$"):
        run(replace(TASK, read=refuse))


def test_follow_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runner.job.MAX_ROUNDS", 4)
    words = r"follow\(\) still returns requests on example \d+ after 4 rounds; it must end"
    with pytest.raises(TaskError, match=words):
        run(replace(TASK, follow=again))

    def three_times(example: Example, responses: Sequence[Response], *_: object) -> list[Request]:
        return again() if len(responses) < 4 else []

    assert run(replace(TASK, follow=three_times)).requests == 4 * 3


def test_rows_without_examples() -> None:
    with pytest.raises(
        DataError, match=r"riddles: none of the 3 rows taken from .* gives an examp"
    ):
        run(replace(TASK, read=gives([])))


def test_notes_are_asked_for_before_anything_is_computed() -> None:
    seen: list[str] = []
    task = replace(
        TASK,
        notes=lambda examples, options: seen.append("notes") or {},
        **extract(lambda e, r: seen.append("extract") or [(1.0, 1.0)]),  # type: ignore[arg-type]
    )
    run(task)
    assert seen == ["notes", "extract", "extract", "extract"]


@pytest.mark.parametrize(
    ("request_", "well_formed"),
    [
        (Loglikelihood("a", " b"), True),
        (Loglikelihood("a", None), False),  # type: ignore[arg-type]
        (RollingLoglikelihood(("a", "b")), True),
        (RollingLoglikelihood((b"a",)), True),
        (RollingLoglikelihood(("a", b"b")), False),  # type: ignore[arg-type]
        (RollingLoglikelihood("ab"), False),  # type: ignore[arg-type]
        (NextWord("a", frozenset()), True),
        (NextWord("a", ("the",)), False),  # type: ignore[arg-type]
        (NextWord("a", frozenset(), None, "some"), False),  # type: ignore[arg-type]
        (Generate(("a",), 3), True),
        (Generate("a", 3), False),  # type: ignore[arg-type]
        (Generate(("a",), 0), False),
        (Generate(("a",), 3, stop="\n"), False),  # type: ignore[arg-type]
        (Generate(("a",), 3, overflow="middle"), False),  # type: ignore[arg-type]
        (("a", " b"), False),
    ],
)
def test_which_requests_are_well_formed(request_: object, well_formed: bool) -> None:
    assert is_request(request_) is well_formed


def test_outcomes_for_a_module_are_texts() -> None:
    metric = ModuleMetric("nothing", "score", "%", higher_is_better=True)
    measure = replace(ACC, metric=metric, extract=gives([("said", "wanted")]))
    words = r"gave \[\('said', 'wanted'\)\] .* expected a list of pairs of a text and a tuple"
    with pytest.raises(TaskError, match=words):
        run(replace(TASK, measures=gives((measure,))))


def test_examples_without_an_outcome_are_not_scored() -> None:
    """Three rows are read; one of them has no outcome of the model, only the baseline's."""

    def some(example: Example, responses: Sequence[Response]) -> list[Any]:
        return [] if example.id == first else [(1.0, 1.0)]

    first = ""
    first = next(iter(run(TASK).outcomes.ids))  # type: ignore[union-attr]
    everywhere = replace(ACC, name="base", extract=gives([(1.0, 1.0)]), baseline="always yes")
    record = run(replace(TASK, measures=gives((replace(ACC, extract=some), everywhere))))
    assert (record.rows, record.examples) == (3, 2)
    assert "|n:2/3~seed0|" in str(record.signature)
    two = run(replace(TASK, measures=gives((replace(ACC, metric=MEAN),))))
    assert (two.rows, two.examples) == (3, 3)
    assert "|n:3~seed0|" in str(two.signature)


# --- the commands that call the same functions -------------------------------------------------


PLUGIN = """
from dataclasses import replace
from test_plugin_faults import ACC, TASK, again
import test_plugin_faults as good

FAULT = ""

def ask(*given):
    return 1 // 0 if FAULT == "ask" else good.ask(*given)

def extract(*given):
    return {}["gone"] if FAULT == "extract" else good.all_greedy(*given)

def follow(*given):
    return again() if FAULT == "follow" else []

TASK = replace(
    TASK, ask=ask, follow=follow, measures=lambda options: (replace(ACC, extract=extract),)
)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of an installed benchmark, with a switch for its fault."""
    info = tmp_path / "faulty_riddles-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-riddles\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nriddles = faulty_riddles:TASK\n")
    (tmp_path / "faulty_riddles.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("faulty_riddles", None)
    return importlib.import_module("faulty_riddles")


def test_commands_end_with_one_line(
    plugin: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runner.job.MAX_ROUNDS", 3)
    model = ["--model", tiny_folder, "--device", "cpu"]
    words = [*model, "--sample", "--limit", 2, "--out", tmp_path / "records"]
    division = "ZeroDivisionError: integer division or modulo by zero (faulty_riddles.py:9)"
    key = "extract() of measure 'acc' failed on example"

    plugin.FAULT = "ask"
    assert division in refused("riddles", *words)
    assert division in refused("show", "riddles", "--model", tiny_folder, "--sample")
    plugin.FAULT = "extract"
    assert key in refused("riddles", *words)
    plugin.FAULT = "follow"
    assert "follow() still returns requests on example" in refused("riddles", *words)
    assert not record_files(tmp_path / "records")

    plugin.FAULT = ""
    assert harness("riddles", *words).code == 0
    [path] = record_files(tmp_path / "records")
    item = run_ids(path)[0]
    shown = harness("explain", path, item, *model)
    assert (shown.code, "guard" in shown.out) == (0, False), "the guard is not a step"
    for fault, said in (
        ("ask", division),
        ("extract", key),
        ("follow", "follow() still returns requests"),
    ):
        plugin.FAULT = fault
        assert said in refused("explain", path, item, *model)


def run_ids(path: Path) -> tuple[str, ...]:
    from harness.records.folder import read, read_outcomes

    return read_outcomes(path, read(path)).ids


def test_golden_requests_and_conformance_name_it_too(plugin: Any, tmp_path: Path) -> None:
    plugin.FAULT = "ask"
    with pytest.raises(TaskError, match=r"ask\(\) failed on example 0: ZeroDivisionError"):
        golden.golden(load_task("riddles"))
    found = {str(check): check for check in conformance.checks("riddles", tmp_path / "golden.json")}
    for name in ("rows", "scores"):
        with pytest.raises(HarnessError, match=r"ask\(\) failed on example 0: ZeroDivisionError"):
            found[name]()


def test_a_module_that_exits_is_named(plugin: Any, tmp_path: Path) -> None:
    (tmp_path / "faulty_riddles.py").write_text("import sys\nsys.exit(0)\n")
    sys.modules.pop("faulty_riddles")
    assert "cannot be imported: SystemExit: 0 (faulty_riddles.py:2)" in refused("tasks", "riddles")


def test_options_of_the_wrong_type_are_refused(plugin: Any, tmp_path: Path) -> None:
    (tmp_path / "faulty_riddles.py").write_text(PLUGIN + "\nTASK = replace(TASK, options=3)\n")
    sys.modules.pop("faulty_riddles")
    assert "its options and protocols cannot be read: TypeError" in refused("tasks", "riddles")
