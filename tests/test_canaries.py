"""Canaries: every kind of defect is named by its own, and healthy runs have no warning."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import save_tiny
from console import harness, made_record, record_files, refused
from hypothesis import given
from hypothesis import strategies as st
from mixed import answers, skip_self_tests
from safetensors.torch import load_file, save_file

from harness.canaries.canaries import Canaries
from harness.canaries.chance import uniform_loss
from harness.core import (
    Example,
    Generate,
    Generated,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Score,
    Scored,
    Tokens,
    Word,
)
from harness.data.load import Where
from harness.data.load import load as load_data
from harness.engine.backends.ray_workers import Worker
from harness.engine.cache.store import Store
from harness.engine.checkpoint import onednn
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.random_model import byte_tokenizer, checkpoint
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.model.forward import Forward
from harness.engine.queries.prefix_tree import arrange
from harness.engine.queries.query import GenerationQuery, Span, WordQuery
from harness.engine.scoring.logprobs import score
from harness.engine.scoring.next_word import NextTokens
from harness.engine.scoring.ties import checked, tied
from harness.errors import CanaryError, NumericsError, RecordError
from harness.plugins.registry import load_task
from harness.records.dump import Exchange
from harness.records.folder import read, write
from harness.records.record import Record
from harness.runner import Job, evaluate

VOCABULARY = 263  # of the byte tokenizer
CPU = Settings(device="cpu")


# --- models by construction -----------------------------------------------------------------


def unigram() -> torch.Tensor:
    """Log-frequencies of the byte tokens in the samples of LAMBADA and WikiText."""
    folder = Path(__file__).parents[1] / "tasks" / "samples"
    text = "".join((folder / f).read_text() for f in ("lambada_test.jsonl", "wiki.test.raw"))
    ids = torch.tensor(byte_tokenizer()(text)["input_ids"])
    return (torch.bincount(ids, minlength=VOCABULARY) + 0.5).log().log_softmax(-1)


def save_made(
    folder: Path, favourites: torch.Tensor, *, context_weight: float, offset: float = 0.0
) -> Path:
    """A GPT-2 whose logits are `favourites` + `offset`, plus noise that depends on the context."""
    save_tiny(folder, context=256)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("c_proj.weight", "c_proj.bias")):
            tensor.zero_()  # the blocks add nothing
    wte, ones = tensors["transformer.wte.weight"], torch.ones(len(favourites))
    wte.mul_(0.6)[:, :2] = torch.stack([favourites, ones], dim=1)
    tensors["transformer.ln_f.weight"].fill_(context_weight)[:2] = 0
    tensors["transformer.ln_f.bias"].zero_()[:2] = torch.tensor([1.0, offset])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def peaked(text: str) -> torch.Tensor:
    """Logits that make one token certain."""
    [token] = byte_tokenizer()(text)["input_ids"]
    return 30.0 * torch.nn.functional.one_hot(torch.tensor(token), VOCABULARY)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    shuffled = unigram()[torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(1))]
    return {
        "healthy": save_made(root / "healthy", unigram(), context_weight=1.0),
        "blind": save_made(root / "blind", unigram(), context_weight=0.0),
        "constant": save_made(root / "constant", torch.zeros(VOCABULARY), context_weight=0.0),
        "another tokenizer": save_made(root / "other", shuffled, context_weight=1.0),
        "silent": save_made(root / "silent", peaked("\n"), context_weight=0.0),
        "parrot": save_made(root / "parrot", peaked("e"), context_weight=0.0),
        "random": save_tiny(root / "random", context=256),
        "far from zero": save_made(root / "far", unigram(), context_weight=0.3, offset=300.0),
    }


def run(
    folder: Path, task: str, dtype: Any = "float32", limit: int | None = None, **changes: Any
) -> Record:
    """The record of a task on its built-in sample."""
    benchmark = load_task(task)
    protocol = benchmark.protocol()
    rows = load_data(benchmark.source(protocol.options), Where(sample=True))
    pool = None
    if benchmark.few_shot:
        pool = load_data(benchmark.few_shot.source(protocol.options), Where(sample=True))
    engine = Engine(load(str(folder), replace(CPU, dtype=dtype)), store=changes.pop("store", None))
    return evaluate(Job(benchmark, protocol, rows, limit, pool=pool, **changes), engine)


def names(record: Record) -> list[str]:
    """The names of a record's warnings, which all say what to expect and what to do."""
    for warning in record.warnings:
        assert warning.count("; ") >= 1, warning
        assert "expected" in warning, warning
        assert any(c.isdigit() for c in warning), warning
    return [warning.partition(":")[0] for warning in record.warnings]


# --- each defect is named ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "task", "wanted"),
    [
        ("constant", "wikitext2", ["constant log-probabilities"]),
        ("constant", "cbt-cn", ["constant log-probabilities"]),
        ("blind", "wikitext2", ["ignored input"]),
        ("blind", "winograd", ["tied choices"]),
        ("parrot", "nq", ["equal answers"]),
        ("another tokenizer", "wikitext2", ["loss above uniform"]),
        ("another tokenizer", "cbt-cn", ["accuracy at chance"]),
        ("silent", "nq", ["empty answers"]),
    ],
)
def test_a_defect_is_named(
    model: str, task: str, wanted: list[str], folders: dict[str, Path]
) -> None:
    found = names(run(folders[model], task))
    assert [name for name in found if name in wanted] == wanted
    assert set(found) - set(wanted) <= {"ignored input", "loss above uniform", "equal answers"}


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("healthy", "lambada"),
        ("healthy", "cbt-cn"),
        ("healthy", "winograd"),
        ("healthy", "wikitext2"),
        ("random", "nq"),  # answers are noise, but differ
    ],
)
def test_a_healthy_model_has_no_warning(model: str, task: str, folders: dict[str, Path]) -> None:
    assert run(folders[model], task).warnings == ()


@pytest.mark.parametrize("task", ["lambada", "cbt-cn", "winograd", "nq"])
def test_two_examples_say_nothing(task: str, folders: dict[str, Path]) -> None:
    found = names(run(folders["blind"], task, limit=2))
    assert set(found) <= {"ignored input"}, "two examples have many tokens"


def test_ties_of_a_bfloat16_head_are_counted(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folders["far from zero"], "wikitext2").warnings == ()
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)  # all is in bfloat16
    record = run(folders["far from zero"], "wikitext2", dtype="bfloat16")
    assert "greedy ties" in names(record)
    assert record.tokens.tied / record.tokens.checked > 0.5
    assert "of the tokens computed" in record.warnings[-1]


def test_a_tokenizer_that_loses_text_is_a_warning(folders: dict[str, Path]) -> None:
    counts = {"lossy": 3, "unknown": 1, "lost_characters": 21, "characters": 2100}
    [warning] = Canaries(VOCABULARY).warnings((), Tokens(), counts, requests=12)
    assert warning.startswith("lossy tokenizer: it loses text of 3 of 12 requests (1.00% of all")


# --- NaN --------------------------------------------------------------------------------------

CONTEXT = "The cat sat on the mat and looked around for"
KINDS: list[Request] = [
    Loglikelihood(CONTEXT, " food"),
    RollingLoglikelihood((f"{CONTEXT} food",)),
    NextWord(CONTEXT, frozenset()),
    Generate((CONTEXT,), 8),
]


def layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] = math.nan


def head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["transformer.h.0.attn.c_attn.weight"][:, 16:32] = math.nan  # queries of the second


def positions(tensors: dict[str, torch.Tensor]) -> None:
    length = len(byte_tokenizer()(CONTEXT)["input_ids"])
    tensors["transformer.wpe.weight"][length + 1 :] = math.nan  # the tokens after the context


@pytest.mark.parametrize("poison", [layer, head, positions])
@pytest.mark.parametrize("request_", KINDS, ids=lambda request: request.kind)
def test_nan_is_named(
    poison: Callable[[dict[str, torch.Tensor]], None], request_: Request, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    poison(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = Engine(load(str(folder), CPU))
    if poison is positions:
        skip_self_tests(engine)  # NaN fails them, and words would be searched in separate rows
    with pytest.raises(NumericsError, match="nan, expected a finite number") as caught:
        answers(engine, [request_])
    assert caught.value.request == 0
    assert "\n" not in str(caught.value)


# --- strict, printed, written -----------------------------------------------------------------


def test_strict_refuses_after_the_answers_are_stored(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    with pytest.raises(CanaryError, match=r"^wikitext2: ignored input: .* refused by --strict$"):
        run(folders["blind"], "wikitext2", strict=True, store=store)
    again = run(folders["blind"], "wikitext2", store=store)
    assert (again.tokens.computed, again.tokens.cached > 0) == (0, True)
    assert names(again) == ["ignored input"], "stored answers are seen as well"


def test_the_commands_print_warnings(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "records"
    base = ["--model", folders["blind"], "--device", "cpu", "--sample"]
    kept = [*base, "--out", out]
    result = harness("wikitext2", *kept)
    assert result.code == 0
    assert "\nwarning: ignored input: " in result.out
    assert "tied" not in result.out, "no line about ties where there are none"
    result = harness("run", "wikitext2", "ptb", *kept, "--json")
    assert [len(r["warnings"]) for r in json.loads(result.out)["records"]] == [1, 1]
    result = harness("run", "wikitext2", "ptb", *kept)
    assert result.out.count("warning: ignored input: ") == 2
    result = harness("ptb", *kept, "--vary", "stride=32,64")
    assert result.out.count("\nwarning: paper+stride=") == 2
    line = refused("wikitext2", *base, "--out", tmp_path / "none", "--strict")
    assert line.startswith("harness: wikitext2: ignored input: ")
    assert record_files(tmp_path / "none") == []
    record = read(next(path for path in record_files(out) if path.name.startswith("wikitext2")))
    assert names(record) == ["ignored input"]
    json_value = record.to_json()
    del json_value["warnings"]
    assert Record.from_json(json_value, "old.json").warnings == (), "older files have none"
    with pytest.raises(RecordError, match="warnings as a list of texts"):
        Record.from_json({**json_value, "warnings": "one"}, "changed.json")


def test_a_paper_table_names_the_task_of_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.analysis.paper import table3
    from harness.display import tables

    records = [made_record(warnings=("greedy ties: many; expected few",))]
    tables.show_paper_table("Table 3", table3.cells(records, "small", {}), records, "small")
    assert "warning: lambada: greedy ties: many; expected few" in capsys.readouterr().out


def test_lost_text_is_said_once() -> None:
    from harness.analysis.paper.table3 import remarks

    counts = {"lossy": 3, "unknown": 0, "lost_characters": 21, "characters": 2100}
    old = made_record(preflight=counts)
    warnings = Canaries(VOCABULARY).warnings((), Tokens(), counts, old.requests)
    assert [line for line in remarks([old]) if "loses" in line]
    assert not [line for line in remarks([replace(old, warnings=warnings)]) if "loses" in line]


def test_comparing_and_checking_repeat_the_warnings(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    records = {
        name: write(run(folders[name], "winograd"), tmp_path / name)
        for name in ("healthy", "blind")
    }
    result = harness("compare", records["healthy"], records["blind"])
    assert "\nwarning: winograd, " in result.out
    assert "/blind: tied choices: " in result.out
    baseline, xml = tmp_path / "main.toml", tmp_path / "junit.xml"
    result = harness("baseline", records["blind"], "--out", baseline)
    assert "warning: winograd in this baseline: tied choices: " in result.err
    assert "warnings = [" in baseline.read_text("utf-8")
    result = harness("check", records["healthy"], "--baseline", baseline, "--junit", xml)
    assert "\nwarning: winograd, in the baseline: tied choices: " in result.out
    assert "in the baseline: tied choices" in xml.read_text("utf-8")


def test_a_leaderboard_names_the_tasks_with_warnings() -> None:
    from harness.analysis import leaderboard

    record = made_record()
    [row] = leaderboard.rows([replace(record, warnings=("greedy ties: many",))])
    assert row["warnings"] == "lambada"
    [row] = leaderboard.rows([record])
    assert "warnings" not in row


# --- counters ---------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 6), st.integers(0, 2**32))
def test_ties_are_those_of_a_loop(count: int, vocabulary: int, seed: int) -> None:
    logits = torch.randint(3, (count, vocabulary), generator=torch.Generator().manual_seed(seed))
    wanted = sum(row.count(max(row)) > 1 for row in logits.tolist()[checked(count)])
    assert int(tied(logits.float())) == wanted
    assert len(range(count)[checked(count)]) >= min(count, max(8, count // 16))


def test_ties_come_back_from_workers_and_every_kind_of_query(folders: dict[str, Path]) -> None:
    worker = Worker(str(folders["constant"]), CPU, None)
    span = Span((1, 2, 3), (4, 5))
    for query, count in (
        (span, 2),
        (GenerationQuery((1, 2), 3, (), 1, ()), 3),
        (GenerationQuery((1, 2), 3, (), 5, (0,)), 0),  # sampled: nothing is greedy
    ):
        _, cost = worker.answer([query])
        assert (cost.checked, cost.tied) == (count, count)
    _, cost = worker.answer([WordQuery((1, 2), frozenset(), None, "word")])
    assert cost.checked == cost.tied > 1
    _, cost = Worker(str(folders["healthy"]), CPU, None).answer([span])
    assert (cost.checked, cost.tied) == (2, 0)


def test_a_chunk_of_logits_does_not_overwrite_another(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Forward(checkpoint(64))  # with a plain head, whose logits lie in one buffer
    spans = [Span(tuple(range(10, 30)), (), top=True)]
    paths = [(0, (token,)) for token in range(40)]

    def following() -> list[Sequence[int]]:
        with torch.inference_mode():
            kept = score(forward, arrange(spans, None), spans, keep=True)[1]
            return NextTokens(forward, spans, kept, 512)(paths)

    wanted = following()
    monkeypatch.setattr(Forward, "chunk", 2)
    assert following() == wanted


# --- hand-made responses ----------------------------------------------------------------------


def fed(examples: Iterable[tuple[Example, Sequence[tuple[Request, Response]]]]) -> Canaries:
    canaries = Canaries(VOCABULARY)
    for example, pairs in examples:
        exchanges = []
        for request, response in pairs:
            pieces = response.pieces if isinstance(response, Rolled) else (response,)
            targets = [i for p in pieces for i, _ in enumerate(getattr(p, "logprobs", ()))]
            encoded: Any = SimpleNamespace(spans=(SimpleNamespace(targets=targets),))
            exchanges.append(Exchange(request, encoded, response))
        canaries.add(example, exchanges)
    return canaries


def warned(canaries: Canaries, scores: tuple[Score, ...] = ()) -> list[str]:
    found = canaries.warnings(scores, Tokens(), {}, 0)
    return [warning.partition(":")[0] for warning in found]


def scored(*logprobs: float) -> Scored:
    return Scored(logprobs, tuple(False for _ in logprobs))


def written(text: str) -> Generated:
    return Generated(text, (1,), (-0.1,), 1, "stop")


Texts = list[tuple[Example, list[tuple[Request, Response]]]]


def texts(logprobs: Sequence[Sequence[float]]) -> Texts:
    """One text with one piece per sequence."""
    rolled = Rolled(tuple(scored(*piece) for piece in logprobs))
    return [(Example("0", {}), [(RollingLoglikelihood(("x",)), rolled)])]


def chosen(values: Sequence[Sequence[float]]) -> Texts:
    """One choice per sequence, between as many options."""
    return [
        (
            Example(str(e), {}),
            [(Loglikelihood(f"{e}", f" {k}"), scored(x)) for k, x in enumerate(options)],
        )
        for e, options in enumerate(values)
    ]


def answered(found: Sequence[str], references: Sequence[tuple[str, ...]]) -> Texts:
    return [
        (Example(str(e), {}, right), [(NextWord(f"{e}", frozenset()), Word(text, ()))])
        for e, (text, right) in enumerate(zip(found, references, strict=True))
    ]


def test_zero_is_named_zero() -> None:
    assert warned(fed(texts([[0.0] * 30]))) == ["zero log-probabilities"]
    assert warned(fed(texts([[-2.5] * 30]))) == ["constant log-probabilities"]
    assert warned(fed(texts([[-2.5] * 19]))) == [], "too few"
    assert warned(fed(texts([[-2.5] * 30, [-2.6]]))) == []


def test_equal_requests_are_no_sign_of_a_constant() -> None:
    same = [(Example(str(e), {}), [(Loglikelihood("a", " b"), scored(-2.5))]) for e in range(30)]
    assert warned(fed(same)) == []


def test_one_token_is_always_certain() -> None:
    canaries = Canaries(1)
    encoded: Any = SimpleNamespace(spans=(SimpleNamespace(targets=[0] * 200),))
    rolled = Rolled((scored(*[0.0] * 200),))
    exchange = Exchange(RollingLoglikelihood(("x",)), encoded, rolled)
    canaries.add(Example("0", {}), [exchange])
    assert warned(canaries) == []


@pytest.mark.parametrize(("above", "found"), [(0.1, ["loss above uniform"]), (-0.1, [])])
def test_the_bound_is_ln_v(above: float, found: list[str]) -> None:
    loss = uniform_loss(VOCABULARY) + above
    assert warned(fed(texts([[1 - loss, -1 - loss] * 50]))) == found
    assert warned(fed(texts([[1 - loss, -1 - loss] * 49]))) == [], "98 tokens are too few"


def test_wrong_options_may_be_improbable() -> None:
    options = [[-1.0 - e / 50, *[-30.0 - e] * 9] for e in range(20)]
    accuracy = Score("acc", 100.0, "%", True, 0.0, 84.0, 100.0, {})
    assert warned(fed(chosen(options)), (accuracy,)) == []
    at_chance = replace(accuracy, value=10.0, low=3.0, high=30.0)
    assert warned(fed(chosen(options)), (at_chance,)) == ["accuracy at chance"]
    assert warned(fed(chosen(options)), (at_chance, accuracy)) == [], "one of two is not"
    assert warned(fed(chosen(options)), (replace(at_chance, baseline="guess"),)) == []


@pytest.mark.parametrize(
    ("tied_choices", "found"),
    [(100, ["tied choices"]), (6, ["tied choices"]), (4, []), (0, [])],  # of 100
)
def test_tied_choices(tied_choices: int, found: list[str]) -> None:
    options = [[-3.0 - e, -3.0 - e if e < tied_choices else -4.0] for e in range(100)]
    assert warned(fed(chosen(options))) == found
    assert warned(fed(chosen(options[:9]))) == [], "too few"
    few = ["tied choices"] if tied_choices > 4 else []
    assert warned(fed(chosen(options[:20]))) == few, "4 of 20 would be no sign"


def test_one_continuation_after_several_contexts_is_a_choice() -> None:
    pairs: Texts = [
        (
            Example(str(e), {}),
            [(Loglikelihood(f"{e}{who}", " ran"), scored(-3.0 - e)) for who in "AB"],
        )
        for e in range(12)
    ]
    assert warned(fed(pairs)) == ["tied choices"]


@pytest.mark.parametrize(
    ("references", "found"), [(("A", "B"), []), (("A",), ["tied choices"]), ((), ["tied choices"])]
)
def test_references_are_no_choice(references: tuple[str, ...], found: list[str]) -> None:
    """Two right answers may be as probable as each other; their loss is that of texts."""

    def pairs(logprob: float) -> Texts:
        return [
            (
                Example(str(e), {}, references),
                [(Loglikelihood(f"{e}", f" {k}"), scored(logprob - e / 100)) for k in "AB"],
            )
            for e in range(60)
        ]

    assert warned(fed(pairs(-3.0))) == found
    improbable = [] if found else ["loss above uniform"]
    assert warned(fed(pairs(-90.0))) == found + improbable


@pytest.mark.parametrize(
    ("found", "references", "wanted"),
    [
        (["the"] * 12, [(f"{k}",) for k in range(12)], ["equal answers"]),
        ([" "] * 12, [(f"{k}",) for k in range(12)], ["empty answers"]),
        (["the"] * 12, [()] * 12, ["equal answers"]),
        (["yes"] * 12, [("yes", f"{k}") for k in range(12)], []),  # all right
        (["the"] * 11 + ["a"], [(f"{k}",) for k in range(12)], []),
        (["the"] * 9, [(f"{k}",) for k in range(9)], []),
    ],
)
def test_answers(found: list[str], references: list[tuple[str, ...]], wanted: list[str]) -> None:
    assert warned(fed(answered(found, references))) == wanted


@given(st.lists(st.floats(-8, -0.01), min_size=2, max_size=300), st.integers(0, 2**32))
def test_texts_of_a_model_that_predicts_have_no_warning(values: list[float], seed: int) -> None:
    # A mean below ln V and two values that differ are all that a healthy text needs.
    logprobs = [*values, -0.5, -1.5]
    if -sum(logprobs) / len(logprobs) < uniform_loss(VOCABULARY) - 0.01:
        assert warned(fed(texts([logprobs]))) == []


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30))
def test_answers_that_differ_have_no_warning(found: list[str]) -> None:
    differ = len({text.strip() for text in found}) > 1
    references = [(f"{k}",) for k, _ in enumerate(found)]
    assert (warned(fed(answered(found, references))) == []) or not differ
