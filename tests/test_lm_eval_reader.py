"""Results of lm-eval: its samples give its own numbers, and odd files are refused in one line.

`tests/lm_eval_results/` was written by lm-eval 0.4.13 on six made-up rows, with the demo checkpoint
and with `conftest.save_tiny`; what only describes the machine, and texts that are there twice,
were cut out. The slow tests at the end run lm-eval itself.
"""

import csv
import importlib.util
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_tiny
from console import harness, made_record, refused

from harness.analysis import runs
from harness.analysis.compare import Comparison, compare
from harness.analysis.leaderboard import rows
from harness.errors import RecordError, UsageError
from harness.metrics import Metric
from harness.records.folder import write as write_record
from harness.records.outcomes import Outcomes, from_json, to_json
from harness.records.readers import find, lm_eval, reported
from harness.records.record import Record

GOLDEN = Path(__file__).parent / "lm_eval_results"
Edit = Callable[[dict[str, Any]], object]


def results_file(folder: Path) -> Path:
    [path] = folder.rglob("results_*.json")
    return path


def copied(tmp_path: Path, name: str = "demo") -> Path:
    """The result file of a copy of a golden run."""
    return results_file(shutil.copytree(GOLDEN / name, tmp_path / name))


def edited(path: Path, edit: Edit) -> Path:
    """The same result file, changed."""
    value = json.loads(path.read_text("utf-8"))
    edit(value)
    path.write_text(json.dumps(value), "utf-8")
    return path


def samples_file(path: Path, task: str) -> Path:
    [found] = path.parent.glob(f"samples_{task}_*.jsonl")
    return found


def edited_samples(path: Path, task: str, edit: Edit) -> None:
    """Every line of a task's samples, changed."""
    beside = samples_file(path, task)
    samples = [json.loads(line) for line in beside.read_text("utf-8").splitlines()]
    for sample in samples:
        edit(sample)
    beside.write_text("".join(json.dumps(sample) + "\n" for sample in samples), "utf-8")


def is_results(path: Path) -> bool:
    return find.find(path)[0].reader is lm_eval


def records_of(path: Path) -> list[Record]:
    return [run.record for run in runs.load([path], "no")]


def with_outcomes(path: Path) -> list[tuple[Record, Outcomes]]:
    return [(run.record, run.outcomes) for run in runs.load([path])]


def task_of(path: Path, task: str) -> tuple[Record, Outcomes]:
    [found] = [pair for pair in with_outcomes(path) if pair[0].task == task]
    return found


def raw(path: Path) -> dict[str, dict[str, float]]:
    """Task -> score -> lm-eval's number, in our unit."""
    value = json.loads(path.read_text("utf-8"))
    return {
        task: {
            name.removesuffix(",none"): number * (100 if name.startswith(("acc", "exact")) else 1)
            for name, number in value["results"][task].items()
            if "," in name and "_stderr" not in name
        }
        for task in value["configs"]
    }


def value_of(metric: Metric, values: Sequence[Sequence[float]]) -> float:
    return float(metric.compute(np.array(values).sum(axis=0)))


def assert_items_give_the_numbers(path: Path) -> None:
    expected = raw(path)
    found = with_outcomes(path)
    assert {record.task for record, _ in found} == set(expected)
    for record, items in found:
        known = reported.measures(record)
        assert {m.name for m in known} == set(items.metrics) == set(expected[record.task])
        values = {score.metric: score.value for score in record.scores}
        for measure in known:
            outcomes = items.metrics[measure.name].values
            assert len(outcomes) == record.examples
            number = expected[record.task][measure.name]
            assert values[measure.name] == pytest.approx(number, rel=1e-12)
            assert value_of(measure.metric, outcomes) == pytest.approx(number, rel=1e-9, abs=1e-12)


def assert_differences_are_those_of_the_numbers(found: Comparison, a: Path, b: Path) -> None:
    before, after = raw(a), raw(b)
    for line in found.scores:
        one, two = (side[line.task.split()[0]][line.metric] for side in (before, after))
        close = {"rel": 1e-9, "abs": 1e-9 * max(abs(one), abs(two))}
        assert line.difference.a == pytest.approx(one, rel=1e-9)
        assert line.difference.b == pytest.approx(two, rel=1e-9)
        assert line.difference.value == pytest.approx(two - one, **close)


# --- real files -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_items_give_lm_evals_numbers(name: str) -> None:
    assert_items_give_the_numbers(results_file(GOLDEN / name))


def test_a_record_a_task_and_none_a_group() -> None:
    found = records_of(results_file(GOLDEN / "demo"))
    assert [record.task for record in found] == ["toy_choice", "toy_word", "toy_page", "toy_write"]


def test_a_record_says_what_the_file_says() -> None:
    path = results_file(GOLDEN / "demo")
    file = json.loads(path.read_text("utf-8"))
    record, _ = task_of(path, "toy_page")
    assert (record.origin, record.protocol, record.version) == ("lm-eval", "lm-eval", 2)
    assert record.model["name"] == file["model_name"]
    assert record.model["parameters"] == file["config"]["model_num_parameters"]
    assert record.model["dtype"] == "float32"
    assert record.model["context"] == file["max_length"]
    assert record.data["name"] == "json:test"
    assert (record.examples, record.limit, record.seed) == (6, None, 0)
    assert record.requests == 6
    assert record.prompt is None
    assert record.options["shots"] == 0
    versions = record.environment["versions"]
    assert versions["lm_eval"] == file["lm_eval_version"]
    assert versions["transformers"] == file["transformers_version"]
    assert record.created == "2026-11-24T18:54:34+00:00"
    assert str(record.signature).startswith("toy_page|origin:lm-eval|v:2|p:lm-eval|")


def test_scores_have_units_directions_and_intervals() -> None:
    path = results_file(GOLDEN / "demo")
    file = json.loads(path.read_text("utf-8"))["results"]
    found = {(r.task, s.metric): s for r in records_of(path) for s in r.scores}
    units = {metric: (s.unit, s.higher_is_better) for (_, metric), s in found.items()}
    assert units == {
        "acc": ("%", True),
        "acc_norm": ("%", True),
        "perplexity": ("per target", False),
        "word_perplexity": ("per word", False),
        "byte_perplexity": ("per byte", False),
        "bits_per_byte": ("bits per byte", False),
        "exact_match": ("%", True),
        "exact_match,word": ("%", True),
    }
    score = found["toy_choice", "acc"]
    assert score.stderr == pytest.approx(100 * file["toy_choice"]["acc_stderr,none"])
    assert score.low == pytest.approx(score.value - 1.959964 * score.stderr, rel=1e-6)
    assert score.high == pytest.approx(score.value + 1.959964 * score.stderr, rel=1e-6)
    assert found["toy_word", "perplexity"].stderr == file["toy_word"]["perplexity_stderr,none"]
    score = found["toy_page", "bits_per_byte"]
    assert (score.stderr, score.low, score.high) == (None, None, None), "lm-eval says N/A"


def test_right_or_wrong_is_a_proportion_and_the_rest_is_not() -> None:
    record, _ = task_of(results_file(GOLDEN / "demo"), "toy_word")
    kinds = {m.name: m.metric.proportion for m in reported.measures(record)}
    assert kinds == {"perplexity": False, "acc": True}


def test_shares_that_are_not_right_or_wrong_are_means(tmp_path: Path) -> None:
    path = copied(tmp_path)
    edited_samples(path, "toy_choice", lambda sample: sample.update(acc=0.25))
    edited(path, lambda file: file["results"]["toy_choice"].update({"acc,none": 0.25}))
    record, _ = task_of(path, "toy_choice")
    kinds = {m.name: m.metric.proportion for m in reported.measures(record)}
    assert kinds == {"acc": False, "acc_norm": True}


def test_filters_have_names_and_items_of_their_own() -> None:
    record, items = task_of(results_file(GOLDEN / "demo"), "toy_write")
    assert [s.metric for s in record.scores] == ["exact_match", "exact_match,word"]
    whole, word = (items.metrics[m.name] for m in reported.measures(record))
    assert whole.examples == word.examples == (0, 1, 2, 3, 4, 5)
    assert sum(v[0] for v in whole.values) < sum(v[0] for v in word.values)


def test_items_are_shown_with_what_was_asked_wanted_and_said() -> None:
    path = results_file(GOLDEN / "demo")
    shown = {task: task_of(path, task)[1].shown[2] for task in raw(path)}
    assert shown["toy_choice"].prompt == shown["toy_word"].prompt == "At night the sky is full of"
    assert shown["toy_choice"].reference == shown["toy_word"].reference == "stars"
    assert shown["toy_choice"].response.startswith("stars (-1.05 nats")
    assert shown["toy_page"].prompt == "At night the sky is full of stars."
    assert shown["toy_page"].response.endswith(" nats")
    assert (shown["toy_write"].reference, shown["toy_write"].response) == ("stars", "stars.")


def test_two_runs_are_compared_as_their_numbers_differ() -> None:
    a, b = (results_file(GOLDEN / name) for name in ("demo", "tiny"))
    found = compare(runs.load([a]), runs.load([b.parent]))
    assert len(found.scores) == 7
    assert_differences_are_those_of_the_numbers(found, a, b)
    [reason] = found.not_compared
    assert reason.startswith("toy_write")
    assert "the second side has no such run" in reason
    assert any("tokenizer" in mark for mark in found.notes)
    tests = {(line.task.split()[0], line.metric): line.difference.test for line in found.scores}
    assert tests["toy_choice", "acc"] == "mcnemar"
    assert tests["toy_page", "word_perplexity"] == "sign-flip"


def test_the_command_compares_two_runs() -> None:
    a, b = (results_file(GOLDEN / name) for name in ("demo", "tiny"))
    result = harness("compare", a, b)
    assert result.code == 0, result.err
    assert "bits_per_byte" in result.out


def test_records_and_items_outlive_a_baseline() -> None:
    record, items = task_of(results_file(GOLDEN / "demo"), "toy_choice")
    again = Record.from_json(json.loads(json.dumps(record.to_json())), "here")
    assert again == record
    assert [m.metric for m in reported.measures(again)] == [
        m.metric for m in reported.measures(record)
    ]
    assert from_json(json.loads(json.dumps(to_json(items))), "here") == items


def test_measures_never_extract() -> None:
    record, _ = task_of(results_file(GOLDEN / "demo"), "toy_choice")
    measure = reported.measures(record)[0]
    assert measure.column is None
    assert measure.blocks is None
    with pytest.raises(AssertionError, match="never extracted"):
        measure.extract(None, [])  # type: ignore[arg-type]


# --- what is the same and what is not ---------------------------------------------------


def test_the_order_of_lines_does_not_matter(tmp_path: Path) -> None:
    path = copied(tmp_path)
    beside = samples_file(path, "toy_write")
    lines = beside.read_text("utf-8").splitlines(keepends=True)
    beside.write_text("".join(lines[1::2] + lines[::2]), "utf-8")
    record, items = task_of(path, "toy_write")
    expected, whole = task_of(results_file(GOLDEN / "demo"), "toy_write")
    assert record == expected
    assert items.ids == whole.ids
    assert items.metrics == whole.metrics


def test_arguments_as_older_versions_wrote_them(tmp_path: Path) -> None:
    path = copied(tmp_path)

    def older(sample: dict[str, Any]) -> None:
        sample["arguments"] = [[*asked.values()] for asked in sample["arguments"].values()]
        sample["resps"] = [[[float(r[0][0]), r[0][1] == "True"]] for r in sample["resps"]]

    edited_samples(path, "toy_choice", older)
    again, golden = (task_of(each, "toy_choice") for each in (path, results_file(GOLDEN / "demo")))
    assert again == golden


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file["config"].update(model_sha="0123abc"),
        lambda file: file["config"].update(model_revision="step1000"),
        lambda file: file["config"]["model_args"].update(pretrained="other"),
        lambda file: file["config"].update(peft_sha="0123abc"),
        lambda file: file.update(model_name="other"),
    ],
)
def test_other_checkpoints_have_other_digests(tmp_path: Path, edit: Edit) -> None:
    [before, *_] = records_of(path := copied(tmp_path))
    [after, *_] = records_of(edited(path, edit))
    assert before.model["digest"] != after.model["digest"]
    assert before.filename() != after.filename()


def refusals(tmp_path: Path, edit: Edit) -> str:
    """Why the golden run and a changed copy are not comparable; empty if they are."""
    before, after = (runs.load([p]) for p in (
        results_file(GOLDEN / "demo"), edited(copied(tmp_path), edit)
    ))  # fmt: skip
    return "; ".join(compare(before, after).not_compared)


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file["configs"]["toy_page"].update(description="Read this."),
        lambda file: file["configs"]["toy_page"].update(doc_to_target="{{q}}"),
        lambda file: file["n-shot"].update(toy_page=5),
        lambda file: file["versions"].update(toy_page=3.0),
        lambda file: file["versions"].update(toy_page=2.5),
        lambda file: file.update(chat_template_sha="0123abc"),
        lambda file: file.update(system_instruction_sha="0123abc"),
    ],
)
def test_other_questions_are_not_compared(tmp_path: Path, edit: Edit) -> None:
    assert "toy_page (lm-eval): they measure different things" in refusals(tmp_path, edit)


def test_other_rows_are_not_compared(tmp_path: Path) -> None:
    path = copied(tmp_path)
    edited_samples(path, "toy_page", lambda s: s.update(doc_hash=s["doc_hash"][::-1]))
    before, after = (runs.load([p]) for p in (results_file(GOLDEN / "demo"), path))
    [reason] = compare(before, after).not_compared
    assert reason.startswith("toy_page (lm-eval): they measure different things")
    assert "data" in reason


@pytest.mark.parametrize(
    "edit",
    [
        lambda file: file["configs"]["toy_page"]["metadata"].update(pretrained="other"),
        lambda file: file["config"].update(batch_size="64", device="cuda:0"),
        lambda file: file["config"].update(model_dtype="torch.bfloat16"),
        lambda file: file.update(lm_eval_version="0.4.9", date=1.7e9),
    ],
)
def test_other_circumstances_are_compared(tmp_path: Path, edit: Edit) -> None:
    assert refusals(tmp_path, edit) == ""


def test_addresses_of_python_objects_do_not_count(tmp_path: Path) -> None:
    found = []
    for n in (1, 2):
        path = copied(tmp_path / str(n))
        function = f"<function choose at 0x7f{n}>"
        edited(path, lambda f, to=function: f["configs"]["toy_page"].update(process_docs=to))
        found.append(task_of(path, "toy_page")[0].signature)
    assert found[0] == found[1]


# --- without samples, and odd files -----------------------------------------------------


def small(**changes: Any) -> dict[str, Any]:
    """A result file in its shortest form."""
    file: dict[str, Any] = {
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A"}},
        "configs": {"t": {"dataset_path": "p", "metric_list": [{"metric": "acc"}]}},
        "versions": {"t": "Yaml"},
        "n-samples": {"t": {"original": 10, "effective": 10}},
    }
    return {**file, **changes}


def written(tmp_path: Path, file: Any) -> Path:
    path = tmp_path / "results_2026-01-02T03-04-05.json"
    path.write_text(json.dumps(file), "utf-8")
    return path


def test_a_file_that_says_little_has_scores(tmp_path: Path) -> None:
    [record] = records_of(written(tmp_path, small()))
    [score] = record.scores
    assert (score.metric, score.value, score.unit, score.stderr) == ("acc", 50.0, "%", None)
    assert (record.version, record.options["version"]) == (0, "Yaml")
    assert record.model["name"] == record.model["dtype"] == record.model["context"] == "unknown"
    assert record.created == ""
    assert reported.measures(record) == ()


def test_a_limited_run_says_so(tmp_path: Path) -> None:
    file = small(**{"n-samples": {"t": {"original": 10, "effective": 4}}})
    [record] = records_of(written(tmp_path, file))
    assert (record.limit, record.examples) == (4, 4)
    assert "|n:4~seed0|" in str(record.signature)


def test_numbers_of_a_corpus_or_of_unknown_scale_stay_as_they_are(tmp_path: Path) -> None:
    numbers = {"bleu,none": 31.5, "f1,none": 0.7, "score,none": 3.5, "em,none": 0.25,
               "inst_acc,none": 0.125}  # fmt: skip
    listed = [{"metric": name, "aggregation": how} for name, how in
              [("bleu", "bleu"), ("f1", "f1"), ("score", "mean"), ("em", "mean"),
               ("inst_acc", "def aggregate(items): ...")]]  # fmt: skip
    path = written(tmp_path, small(results={"t": numbers}, configs={"t": {"metric_list": listed}}))
    [record] = records_of(path)
    found = {score.metric: (score.value, score.unit) for score in record.scores}
    assert found == {"bleu": (31.5, ""), "f1": (0.7, ""), "score": (3.5, ""), "em": (25.0, "%"),
                     "inst_acc": (12.5, "%")}  # fmt: skip


def test_only_means_and_totals_have_items(tmp_path: Path) -> None:
    numbers = {"bleu,none": 31.5, "score,none": 3.5, "rate,none": 2.5}
    listed = [{"metric": "bleu", "aggregation": "bleu"}, {"metric": "score", "aggregation": "mean"},
              {"metric": "rate", "aggregation": "nanmean"}]  # fmt: skip
    file = small(
        results={"t": numbers},
        configs={"t": {"metric_list": listed}},
        higher_is_better={"t": {"bleu": True, "score": None, "rate": False}},
        **{"n-samples": {"t": {"original": 3, "effective": 3}}},
    )
    path = written(tmp_path, file)
    line = {"target": "x", "arguments": {}, "resps": [], "filtered_resps": [], "filter": "none",
            "doc": {}, "bleu": ["x", "y"], "score": 3.5}  # fmt: skip
    lines = [{**line, "doc_id": n, "rate": rate} for n, rate in enumerate([2.0, math.nan, 3.0])]
    beside = tmp_path / "samples_t_2026-01-02T03-04-05.jsonl"
    beside.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    record, items = task_of(path, "t")
    [measure] = reported.measures(record)
    assert (measure.name, measure.metric.unit) == ("rate", "")
    assert not measure.metric.higher_is_better
    assert items.metrics["rate"].examples == (0, 2), "an example without a value has no outcome"
    assert value_of(measure.metric, items.metrics["rate"].values) == 2.5


def test_what_is_no_number_is_left_out_and_named(tmp_path: Path) -> None:
    numbers = {"acc,none": math.nan, "acc_norm,strict": "N/A", "exact_match,none": 1.0}
    [record] = records_of(written(tmp_path, small(results={"t": numbers})))
    assert [score.metric for score in record.scores] == ["exact_match"]
    assert record.notes == {"left out": "acc (nan), acc_norm,strict (N/A)"}


def test_groups_are_no_tasks(tmp_path: Path) -> None:
    file = small(groups={"g": {"acc,none": 0.5}})
    file["results"]["g"] = {"acc,none": 0.5}
    [record] = records_of(written(tmp_path, file))
    assert record.task == "t"
    with pytest.raises(RecordError, match="has no results of a task"):
        records_of(written(tmp_path, {**file, "results": {"g": {"acc,none": 0.5}}}))


def reading_fails(path: Path) -> str:
    """The one line that says why there are no outcomes."""
    with pytest.raises(RecordError) as caught:
        runs.load([path])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_samples_the_line_says_what_to_do(tmp_path: Path) -> None:
    path = copied(tmp_path)
    whole = records_of(path)
    samples_file(path, "toy_page").rename(tmp_path / "elsewhere")
    assert records_of(path) == whole
    line = reading_fails(path)
    assert "samples_toy_page_" in line
    assert "--log_samples" in line
    line = refused("compare", path, path)
    assert "--log_samples" in line


def test_a_file_without_its_time_cannot_find_its_samples(tmp_path: Path) -> None:
    path = copied(tmp_path)
    assert "under the name" in reading_fails(path.rename(path.with_name("results.json")))


def without_counts(value: dict[str, Any]) -> None:
    """As 0.4.0 to 0.4.2 wrote: no number of rows, no versions, no direction of scores."""
    for key in ("n-samples", "lm_eval_version", "higher_is_better", "max_length", "model_name"):
        value.pop(key)
    for result in value["results"].values():
        result.pop("sample_len", None)


def test_results_of_older_versions_are_refused_as_what_they_are(tmp_path: Path) -> None:
    path = edited(copied(tmp_path, "tiny"), without_counts)
    line = refused("leaderboard", "--records", tmp_path, "--out", tmp_path / "x.csv")
    assert "lm-eval before 0.4.3" in line
    assert path.name in line
    assert "lm-eval before 0.4.3" in refused("compare", path, path)


def test_older_results_that_say_how_many_rows_are_read(tmp_path: Path) -> None:
    path = copied(tmp_path, "tiny")
    whole = {record.task: record for record in records_of(path)}
    found = records_of(edited(path, lambda value: value.pop("n-samples")))
    assert len(found) == 3
    for record in found:
        assert record.examples == whole[record.task].examples == 6
        assert record.scores == whole[record.task].scores


def test_a_task_that_no_file_can_be_named_after_has_no_items(tmp_path: Path) -> None:
    def renamed(value: dict[str, Any]) -> None:
        for part in ("results", "configs", "versions", "n-samples"):
            value[part]["a/b"] = value[part].pop("toy_choice")

    assert "cannot be part of a file's name" in reading_fails(edited(copied(tmp_path), renamed))


def test_a_model_of_unknown_size_is_drawn(tmp_path: Path) -> None:
    """As behind a server: lm-eval writes no number of parameters."""
    path = edited(copied(tmp_path), lambda value: value["config"].pop("model_num_parameters"))
    result = harness("report", path.parent, "-o", tmp_path / "page.html")
    assert result.code == 0, result.err
    assert "unknown" in (tmp_path / "page.html").read_text("utf-8")


def test_an_unknown_origin_is_refused() -> None:
    with pytest.raises(RecordError, match="expected harness, lm-eval, inspect_ai, nemo-evaluator"):
        runs.measures(made_record(origin="<script>"))


def test_an_unknown_unit_is_refused() -> None:
    [(record, _), *_] = with_outcomes(results_file(GOLDEN / "tiny"))
    odd = tuple(replace(score, unit="furlongs") for score in record.scores)
    with pytest.raises(RecordError, match="unknown unit 'furlongs'"):
        runs.measures(replace(record, scores=odd))


def cut(text: str) -> str:
    return text[: len(text) * 2 // 3]


def one_less(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "is not JSON"),
        (lambda text: "[" * 100_000 + "\n" + text, "is not JSON: nested too deeply"),
        (one_less, "has 5 of the 6 examples"),
        (lambda text: "", "has 0 of the 6 examples"),
        (lambda text: text.replace('"acc": 1', '"acc": 0', 1), "its acc is 33.3333 and not 50"),
        (lambda text: text.replace('"perplexity": -4', '"perplexity": -5', 1), "its perplexity is"),
        (
            lambda text: text.replace('"acc": 1', '"acc": [1]', 1),
            "valid lm-eval 0.4 samples file",
        ),
        (lambda text: text.replace('"target"', '"wanted"', 1), "KeyError: 'target'"),
        (lambda text: text.replace('"doc_id"', '"id"', 1), "doc_id"),
    ],
)
def test_damaged_samples_are_refused(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    path = copied(tmp_path)
    beside = samples_file(path, "toy_word")
    beside.write_text(change(beside.read_text("utf-8")), "utf-8")
    line = reading_fails(path)
    assert beside.name in line
    assert words in line


def test_a_truncated_result_file_is_refused(tmp_path: Path) -> None:
    path = copied(tmp_path)
    path.write_text(cut(path.read_text("utf-8")), "utf-8")
    assert not is_results(path)
    assert f"{path.name}' is not a JSON file: " in reading_fails(path)
    with pytest.raises(RecordError, match=r"^[^\n]*is not a JSON file[^\n]*$"):
        records_of(path)
    with pytest.raises(UsageError, match=r"^no record in [^\n]*missing\.json"):
        records_of(tmp_path / "missing.json")


@pytest.mark.parametrize(
    "change",
    [{"n-samples": {"t": 5}}, {"n-samples": {}}, {"configs": {"t": []}}, {"n-shot": []}],
    ids=str,
)
def test_odd_result_files_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(tmp_path, small(**change))
    assert is_results(path)
    with pytest.raises(RecordError, match=r"^[^\n]*is not a valid lm-eval 0.4 result file[^\n]*$"):
        records_of(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "odd.json' is not a JSON file: Expecting value"),
        (b"\xff\xfe", "odd.json' is not a JSON file: 'utf-8' codec can't decode"),
        (b'["results"]', "odd.json: expected a file of kind 'record' and schema 2 or 1, got some"),
        (b'{"results": {}}', "odd.json: expected a file of kind 'record' and schema 2 or 1, got s"),
        (b'{"results": ' * 9999, "odd.json' is not a JSON file: nested too deeply"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_other_files_are_no_results(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    assert not is_results(path)
    with pytest.raises(RecordError, match=rf"^[^\n]*{re.escape(expected)}[^\n]*$"):
        records_of(path)


def test_a_record_of_ours_and_an_empty_folder_are_no_results(tmp_path: Path) -> None:
    ours = write_record(made_record(), tmp_path)
    assert not is_results(ours)
    assert [record.origin for record in records_of(ours)] == ["harness"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"^no record in [^\n]*empty"):
        records_of(tmp_path / "empty")


# --- the leaderboard --------------------------------------------------------------------


def test_rows_of_both_origins_stand_side_by_side(tmp_path: Path) -> None:
    path = copied(tmp_path)
    [record, *_] = records_of(path)
    mine = made_record(protocol="lm-eval", model=record.model)
    write_record(mine, tmp_path)
    samples_file(path, "toy_page").rename(tmp_path / "elsewhere")  # no outcomes are needed
    out = tmp_path / "out" / "board.csv"
    result = harness("leaderboard", "--records", tmp_path, "--out", out)
    assert result.code == 0, result.err
    table = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    by = {row["origin"]: row for row in table}
    assert len(table) == 2
    assert set(by) == {"", "lm-eval"}
    theirs, ours = by["lm-eval"], by[""]
    assert (theirs["protocol"], theirs["model"]) == ("lm-eval", "demo")
    for task, scores in raw(path).items():
        for name, value in scores.items():
            assert float(theirs[f"{task} {name}"]) == pytest.approx(value, rel=1e-12)
            assert ours[f"{task} {name}"] == ""
    assert theirs["LAMBADA ACC"] == ""
    assert float(ours["LAMBADA ACC"]) == 45.0
    assert theirs["signatures"].count("|origin:lm-eval|") == 4
    assert "origin" not in ours["signatures"]


def test_two_models_of_lm_eval_have_a_row_each_and_ours_has_no_new_column() -> None:
    table = rows([run.record for run in runs.load([GOLDEN], "no")])
    assert [row["model"] for row in table] == ["demo", "tiny"]
    assert "origin" not in rows([made_record()])[0]


# --- lm-eval itself ---------------------------------------------------------------------

ROWS = [
    {"q": "the cat sat on the", "w": "mat", "c": ["mat", "moon", "man"], "a": 0},
    {"q": "a man had a", "w": "hat", "c": ["sand", "hat", "hand"], "a": 1},
    {"q": "the sun is", "w": "hot", "c": ["hot", "cold", "an ant"], "a": 0},
    {"q": "sand and the", "w": "sea", "c": ["tea", "then", "sea"], "a": 2},
    {"q": "she sang a", "w": "song", "c": ["song", "sad and the", "ant"], "a": 0},
    {"q": "then the ant ate", "w": "it", "c": ["us", "it", "the tea"], "a": 1},
    {"q": "thanks — the “end”", "w": "is", "c": ["near", "is", "\u2028"], "a": 0},
]
MEANS = {"aggregation": "mean", "higher_is_better": True}
TASKS = {
    "toy_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "a",
        "doc_to_choice": "c",
        "metric_list": [{"metric": "acc", **MEANS}, {"metric": "acc_norm", **MEANS}],
    },
    "toy_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{q}}",
        "doc_to_target": " {{w}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **MEANS},
        ],
    },
    "toy_page": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}} {{w}}.",
        "metric_list": [
            {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
    },
    "toy_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{w}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "filter_list": [
            {"name": "none", "filter": [{"function": "take_first"}]},
            {"name": "low", "filter": [{"function": "lowercase"}, {"function": "take_first"}]},
        ],
        "metric_list": [{"metric": "exact_match", **MEANS}],
    },
}


def run_lm_eval(folder: Path, model: Path) -> Path:
    """lm-eval's own result file, with its samples."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(folder / model.name))
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=2,
        bootstrap_iters=100,
        evaluation_tracker=tracker,
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task in TASKS:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return results_file(folder / model.name)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two runs of lm-eval, of two models of random weights."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed: pip install -e '.[bench]'")
    folder = tmp_path_factory.mktemp("lm-eval")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    (folder / "tasks").mkdir()
    for name, config in TASKS.items():
        data = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "d")}
        source = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
        whole = {"task": name, **source, **config, "metadata": {"version": 1.0}}
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(whole), "utf-8")
    models = [save_tiny(folder / f"m{seed}", context=128, seed=seed) for seed in (0, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")  # no processes for so few resamples
        yield run_lm_eval(folder, models[0]), run_lm_eval(folder, models[1])


@pytest.mark.slow
def test_lm_eval_itself(real: tuple[Path, Path]) -> None:
    for path in real:
        assert is_results(path)
        assert_items_give_the_numbers(path)


@pytest.mark.slow
def test_two_runs_of_lm_eval_itself(real: tuple[Path, Path]) -> None:
    a, b = real
    found = compare(runs.load([a]), runs.load([b]))
    assert found.refused == found.notes == ()
    assert len(found.scores) == 9
    assert all(line.examples == len(ROWS) for line in found.scores)
    assert_differences_are_those_of_the_numbers(found, a, b)
    assert any(line.difference.value for line in found.scores)


@pytest.mark.slow
def test_the_golden_files_have_the_form_of_todays(real: tuple[Path, Path]) -> None:
    today = json.loads(real[0].read_text("utf-8"))
    golden = json.loads(results_file(GOLDEN / "demo").read_text("utf-8"))
    assert set(golden) <= {*today, "groups"}
    assert set(golden["config"]) <= set(today["config"])
    for task in TASKS:
        files = samples_file(real[0], task), samples_file(results_file(GOLDEN / "demo"), task)
        now, then = (json.loads(f.read_text("utf-8").split("\n", 1)[0]) for f in files)
        assert set(then) <= set(now)
