"""Modules of `evaluate` as measures, and our metrics as modules, without a network."""

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import evaluate
import huggingface_hub.constants
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import Example, Generated, Score
from harness.errors import NumericsError, UsageError
from harness.metrics.bleu import bleu, bleu_counts
from harness.metrics.exact_match import exact_match, f1, leave_one_out, max_over_references
from harness.metrics.extract import texts
from harness.metrics.hf_evaluate import METRICS, ModuleMetric, Texts, as_module
from harness.metrics.rouge import rouge
from harness.stats.intervals import score
from harness.task import Measure

LENGTHS = '''
"""How long predictions are, beside their references."""

import datasets
import evaluate


class Lengths(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="",
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": text, "references": REFERENCES}),
        )

    def _compute(self, predictions, references, per=1.0):
        wanted = [len(r) if isinstance(r, str) else max(map(len, r)) for r in references]
        ratio = per * sum(map(len, predictions)) / sum(wanted)
        return {"ratio": ratio, "each": wanted, "none": float("nan")}
'''
PAIRS: list[Texts] = [("four", ("eightest", "no")), ("seconds", ("longer", "the longest"))]
ANSWERS: list[Texts] = [
    ("A cat sat.", ("the cat", "dog")),
    ("yes", ("Yes!", "no")),
    ("the sand\nin a storm the red sea", ("the red sea in a squall\na sand", "the sand")),
]

TEXT = st.lists(st.sampled_from(["the", "red", "sea", "sand.", "\n"]), max_size=7).map(" ".join)
SOME_TEXTS = st.lists(TEXT, min_size=1, max_size=3).map(tuple)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """`evaluate` keeps scripts and texts where the test ends with them."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget_scripts()
    yield
    forget_scripts()


def forget_scripts() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    asked: list[object] = []

    def refuse(*address: object, **options: object) -> None:
        asked.append(address)
        raise OSError("there is no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not asked


@pytest.fixture
def lengths(tmp_path: Path) -> str:
    return script(tmp_path, 'datasets.Value("string")')


@pytest.fixture
def lengths_of_several(tmp_path: Path) -> str:
    return script(tmp_path, 'datasets.Sequence(datasets.Value("string"))')


def script(folder: Path, references: str) -> str:
    path = folder / "lengths" / "lengths.py"
    path.parent.mkdir()
    path.write_text(LENGTHS.replace("REFERENCES", references), encoding="utf-8")
    return str(path)


def scored(metric: ModuleMetric, pairs: Sequence[Texts], **fields: Any) -> Score:
    return score(Measure("lengths", metric, texts, (), "", **fields), pairs, seed=0)  # type: ignore[arg-type] # texts, not sums


def message(metric: ModuleMetric, pairs: Sequence[Texts] = PAIRS) -> str:
    """The one line that refuses."""
    with pytest.raises(UsageError) as caught:
        metric.compute(pairs)
    found = str(caught.value)
    assert "\n" not in found
    return found


# --- their modules as measures --------------------------------------------------------------


def test_a_local_module_is_a_measure(lengths: str) -> None:
    """4 + 7 letters against 8 + 6, those of the first references."""
    found = scored(ModuleMetric(lengths, "ratio", "times", True), PAIRS)
    assert found.value == pytest.approx(11 / 14)
    assert (found.metric, found.unit, found.higher_is_better) == ("lengths", "times", True)
    assert (found.stderr, found.low, found.high) == (None, None, None)
    assert found.totals == {"items": 2}


def test_a_folder_is_a_module(lengths: str) -> None:
    metric = ModuleMetric(str(Path(lengths).parent), "ratio", "times", False)
    assert scored(metric, PAIRS).value == pytest.approx(11 / 14)


def test_a_module_of_several_references(lengths_of_several: str) -> None:
    metric = ModuleMetric(lengths_of_several, "ratio", "times", True, several=True)
    assert scored(metric, PAIRS).value == pytest.approx(11 / (8 + 11))


def test_settings_reach_the_module(lengths: str) -> None:
    metric = ModuleMetric(lengths, "ratio", "%", True, settings={"per": 100})
    assert scored(metric, PAIRS).value == pytest.approx(1100 / 14)


def test_answers_of_a_model_reach_the_module(lengths: str) -> None:
    example = Example("0", {}, ("eightest", "no"))
    answers = [Generated(f" {text}\n", (1,), (-0.5,), 1, "end") for text in ("four", "ten ten")]
    outcomes = texts(example, answers)
    assert outcomes == [("four", example.references), ("ten ten", example.references)]
    metric = ModuleMetric(lengths, "ratio", "times", True)
    assert scored(metric, outcomes).value == pytest.approx(11 / 16)


def test_column_and_baseline_are_kept(lengths: str) -> None:
    metric = ModuleMetric(lengths, "ratio", "times", True)
    found = scored(metric, PAIRS, column="RATIO", baseline="parrot")
    assert (found.column, found.baseline) == ("RATIO", "parrot")


@pytest.mark.parametrize(
    ("key", "settings", "reason"),
    [
        ("recall", {}, "KeyError"),
        ("each", {}, "TypeError"),
        ("ratio", {"unheard": 1}, "TypeError"),
    ],
)
def test_a_module_that_gives_no_such_number_is_one_line(
    lengths: str, key: str, settings: dict[str, Any], reason: str
) -> None:
    found = message(ModuleMetric(lengths, key, "%", True, settings=settings))
    assert found.startswith(f"evaluate module {lengths!r} gave no {key!r} ({reason}: ")


def test_a_module_that_cannot_divide_is_one_line(lengths: str) -> None:
    found = message(ModuleMetric(lengths, "ratio", "%", True), [("four", ("",))])
    assert "(ZeroDivisionError: " in found


def test_a_module_that_takes_one_reference_refuses_several(lengths: str) -> None:
    found = message(ModuleMetric(lengths, "ratio", "%", True, several=True))
    assert "(ValueError: " in found


def test_a_module_without_a_reference_is_one_line(lengths: str) -> None:
    assert lengths in message(ModuleMetric(lengths, "ratio", "%", True), [("four", ())])


def test_a_path_that_leads_nowhere_is_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.py")
    found = message(ModuleMetric(path, "ratio", "%", True))
    assert found.startswith(f"evaluate module {path!r} gave no 'ratio' (FileNotFoundError: ")
    assert found.endswith("expected a name or a local path that evaluate.load takes")


@pytest.mark.parametrize(
    "text", ["def broken(:\n", "1 / 0\n", "import no_such_library_at_all\n", ""]
)
def test_a_script_that_cannot_run_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text, encoding="utf-8")
    assert str(path) in message(ModuleMetric(str(path), "ratio", "%", True))


def test_a_name_on_the_hub_is_one_line_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = message(ModuleMetric("no_such_metric", "ratio", "%", True))
    assert found.startswith("evaluate module 'no_such_metric' gave no 'ratio' (FileNotFoundError: ")


def test_what_has_no_score(lengths: str) -> None:
    with pytest.raises(NumericsError, match="lengths: nothing to score"):
        scored(ModuleMetric(lengths, "ratio", "%", True), [])
    with pytest.raises(NumericsError, match="lengths is nan, expected a finite number"):
        scored(ModuleMetric(lengths, "none", "%", True), PAIRS)


# --- our metrics as modules -----------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def corpus_bleu(pairs: Sequence[Texts]) -> float:
    counts = [(*bleu_counts(p, r[0], "13a"), 1.0) for p, r in pairs]
    return float(bleu(1).compute([sum(column) for column in zip(*counts, strict=True)]))


def mean_rouge(place: int) -> Callable[[Sequence[Texts]], float]:
    return lambda pairs: mean([rouge(p.split("\n"), r[0])[place] for p, r in pairs])


REFEREES: dict[str, Callable[[Sequence[Texts]], float]] = {
    "exact_match": lambda pairs: mean([max_over_references(exact_match, p, r) for p, r in pairs]),
    "f1": lambda pairs: mean([max_over_references(f1, p, r) for p, r in pairs]),
    "coqa_f1": lambda pairs: mean([leave_one_out(f1, p, r) for p, r in pairs]),
    "bleu": corpus_bleu,
    "rouge1": mean_rouge(0),
    "rouge2": mean_rouge(1),
    "rougeLsum": mean_rouge(2),
}
BY_HAND = {  # of the three answers in turn
    "exact_match": 100 * (0 + 1 + 0) / 3,
    "f1": 100 * (2 / 3 + 1 + 8 / 10) / 3,
    "coqa_f1": 100 * ((2 / 3 + 0) / 2 + (1 + 0) / 2 + (8 / 10 + 2 / 6) / 2) / 3,
    "bleu": 100 * (7 / 13 * 3 / 10 * 1 / 8 * 0.5 / 6) ** 0.25,  # half a match of four words
    "rouge1": 100 * (2 / 5 + 1 + 12 / 16) / 3,
    "rouge2": 100 * (0 + 0 + 6 / 14) / 3,
    "rougeLsum": 100 * (2 / 5 + 1 + 10 / 16) / 3,
}


def columns(pairs: Sequence[Texts]) -> dict[str, list[Any]]:
    return {"predictions": [p for p, _ in pairs], "references": [[*r] for _, r in pairs]}


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=10)
@given(pairs=st.lists(st.tuples(TEXT, SOME_TEXTS), min_size=1, max_size=4))
def test_as_module_computes_what_our_functions_do(name: str, pairs: list[Texts]) -> None:
    found = as_module(name).compute(**columns(pairs))
    assert found == {name: pytest.approx(REFEREES[name](pairs), rel=1e-12)}


@pytest.mark.parametrize("name", METRICS)
def test_as_module_by_hand(name: str) -> None:
    found = as_module(name).compute(**columns(ANSWERS))
    assert found == {name: pytest.approx(BY_HAND[name], rel=1e-12)}


@pytest.mark.parametrize("name", ["bleu", "rouge1", "rouge2", "rougeLsum"])
def test_texts_are_compared_with_the_first_reference(name: str) -> None:
    pairs = [("the red sea is calm", ("the red sea is calm", "sand"))]
    assert as_module(name).compute(**columns(pairs)) == {name: pytest.approx(100)}
    turned = [(p, r[::-1]) for p, r in pairs]
    assert as_module(name).compute(**columns(turned)) == {name: 0}


def test_as_module_is_a_metric_of_its_name() -> None:
    module = as_module("f1")
    assert isinstance(module, evaluate.Metric)
    assert module.name == "f1"


def test_answers_may_come_one_by_one() -> None:
    module = as_module("f1")
    for prediction, references in ANSWERS[:2]:
        module.add(prediction=prediction, reference=[*references])
    module.add_batch(**columns(ANSWERS[2:]))
    assert module.compute() == {"f1": pytest.approx(BY_HAND["f1"])}
    again = module.compute(**columns(ANSWERS[:1]))
    assert again == {"f1": pytest.approx(200 / 3)}, "earlier answers are forgotten"


def test_our_metrics_combine_with_each_other_and_with_theirs(lengths_of_several: str) -> None:
    names = ("f1", "exact_match", "coqa_f1")
    combined = evaluate.combine([*map(as_module, names), evaluate.load(lengths_of_several)])
    found = combined.compute(**columns(ANSWERS))
    assert {name: found[name] for name in names} == pytest.approx(
        {name: BY_HAND[name] for name in names}
    )
    assert found["ratio"] == pytest.approx((10 + 3 + 31) / (7 + 4 + 30))


def test_combined_metrics_keep_their_answers_apart() -> None:
    combined = evaluate.combine([as_module("f1"), as_module("exact_match")])
    for pair in ANSWERS:
        combined.add_batch(**columns([pair]))
    expected = {name: pytest.approx(BY_HAND[name]) for name in ("f1", "exact_match")}
    assert combined.compute() == expected


def test_an_unknown_metric_is_one_line() -> None:
    with pytest.raises(UsageError, match="there is no metric 'wer'; choose from: ") as caught:
        as_module("wer")
    assert str(caught.value).endswith(": " + ", ".join(METRICS))
