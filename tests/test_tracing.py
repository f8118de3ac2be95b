"""Examples of a record repeated: the run's responses, without weights; ranks from the model."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import save_tiny
from console import harness, record_files
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.commands.inspect.rerun import Again, run_again
from harness.commands.model_options import ModelOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.core import RollingLoglikelihood
from harness.display.preview import MAX_WINDOWS
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.model.forward import Forward
from harness.engine.queries.encode import Encoded
from harness.engine.queries.query import Span
from harness.engine.scoring.ranks import ranks
from harness.errors import CheckpointError, DataError, RecordError, UsageError
from harness.records.folder import read, read_outcomes
from harness.records.record import Record
from harness.records.trace import ItemTrace, trace
from harness.tasks.lambada import stop_words

Run = Callable[..., tuple[Record, Path]]


@pytest.fixture
def run(tiny_folder: Path, tmp_path: Path) -> Run:
    def run(name: str, *words: object) -> tuple[Record, Path]:
        out = tmp_path / name
        result = harness(
            name, "--model", tiny_folder, "--sample", "--cache", tmp_path / "cache", "--out", out,
            "--dump", tmp_path / f"{name}.jsonl", *words,
        )  # fmt: skip
        assert result.code == 0, result.err
        [path] = record_files(out)
        return read(path), path

    return run


def dumped(path: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    return {line["id"]: line for line in map(json.loads, path.read_text("utf-8").splitlines())}


Sources = tuple[ModelOptions, DataOptions, CacheOptions]


def sources(model: Path, cache: Path | None = None) -> Sources:
    """Where a record's checkpoint, rows and response cache are; None uses no cache."""
    return ModelOptions((str(model),)), DataOptions(), CacheOptions(cache, off=cache is None)


def blind(tiny_folder: Path, tmp_path: Path) -> Sources:
    """Options that find the tokenizer and the response cache, but no weights."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "blind"))
    (folder / "model.safetensors").unlink()
    return sources(folder, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lambada", ("--limit", 3)),
        ("wikitext2", ("--limit", 20, "--set", "stride=200")),
        ("wikitext2", ("--limit", 20, "--protocol", "hf")),
        ("cbt-cn", ("--limit", 2, "--context", 128)),
        ("coqa", ("--limit", 1, "--set", "max_new=4")),
        ("coqa", ("--limit", 1, "--set", "max_new=4", "--protocol", "model-history")),
        (
            "nq",
            (
                "--limit",
                3,
            ),
        ),
        (
            "winograd",
            (
                "--limit",
                3,
            ),
        ),
        (
            "enwik8",
            (
                "--limit",
                1,
            ),
        ),
    ],
)
def test_traces_are_the_answers_of_the_run_without_its_weights(
    run: Run, tiny_folder: Path, tmp_path: Path, name: str, words: tuple[object, ...]
) -> None:
    record, path = run(name, *words)
    again = run_again(record, *blind(tiny_folder, tmp_path))
    items = dumped(tmp_path / f"{name}.jsonl")
    assert list(again.places) == list(read_outcomes(path, record).ids)
    for item in traces(again, list(items)):
        said = items[item.id]
        assert [r.kind for r in item.requests] == [r["kind"] for r in said["requests"]]
        for request, line in zip(item.requests, said["requests"], strict=True):
            assert request.output == line.get("text") or line["kind"] == "rolling"
            if "logprob" not in line:
                continue
            assert request.logprob == line["logprob"]
            scored = [t.logprob for t in request.tokens if t.scored]
            assert len(scored) == line["num_tokens"]
            assert sum(scored) == pytest.approx(line["logprob"], rel=1e-6)
        sums = {k: v for o in item.outcomes for k, v in zip(o.statistics, o.sums, strict=True)}
        assert sums == pytest.approx(said["outcomes"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lambada", ("--limit", 2)),  # scoring, and the next word
        ("wikitext2", ("--limit", 8, "--set", "stride=200")),  # rolling
        (
            "text8",
            (
                "--limit",
                1,
            ),
        ),
        ("winograd", ("--limit", 2)),  # choices
        ("nq", ("--limit", 2)),  # generation
    ],
)
def test_token_ids_of_the_dump_give_its_numbers_in_a_plain_loop(
    run: Run, tiny: Checkpoint, tmp_path: Path, name: str, words: tuple[object, ...]
) -> None:
    """What was fed, start token included, is all that somebody else's loop needs."""
    run(name, *words)
    [start] = tiny.tokenizer.start_tokens("auto")
    for item in dumped(tmp_path / f"{name}.jsonl").values():
        for request in item["requests"]:
            assert request["windows"][0]["context"][0] == start
            if request["kind"] == "next_word":
                [window] = request["windows"]
                assert window["targets"] == []
                assert request["text"] == plain_word(tiny, window["context"])
                continue
            total = sum(plain_sum(tiny, w["context"], w["targets"]) for w in request["windows"])
            assert total == pytest.approx(request["logprob"], abs=1e-4, rel=1e-5)
            count = sum(len(w["targets"]) for w in request["windows"])
            assert count == request["num_tokens"]


def plain_sum(model: Checkpoint, context: list[int], targets: list[int]) -> float:
    if not targets:
        return 0.0
    with torch.inference_mode():
        logits = model.model(torch.tensor([[*context, *targets[:-1]]])).logits[0].float()
    logprobs = logits[-len(targets) :].log_softmax(-1)
    return float(logprobs.gather(1, torch.tensor(targets)[:, None]).double().sum())


def plain_word(model: Checkpoint, context: list[int]) -> str:
    """The most probable first token that begins no stop word, and what follows."""
    stop, strings = stop_words("nltk127"), model.tokenizer.token_texts

    def ranked(path: list[int]) -> list[int]:
        with torch.inference_mode():
            logits = model.model(torch.tensor([[*context, *path]])).logits[0, -1]
        return logits.argsort(descending=True).tolist()  # type: ignore[no-any-return]

    for first in ranked([])[:50]:
        path = [first]
        if any(c.isalnum() for c in strings(path)[0]) and "\n" not in strings(path)[0]:
            while len(path) < 6 and strings([best := ranked(path)[0]])[0][:1].isalnum():
                path.append(best)
            word = "".join(strings(path)).strip()
            if word.lower() not in stop:
                return word
    return ""


def test_texts_of_the_tokens_are_the_text(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    record, _ = run("wikitext2", "--limit", 20, "--set", "stride=200")
    again = run_again(record, *blind(tiny_folder, tmp_path))
    [item] = traces(again, list(again.places)[:1])
    [request] = item.requests
    [asked] = again.asked.groups[0]
    start, *tokens = request.tokens
    assert start.text == "<|endoftext|>"
    assert not start.scored
    # Characters of several bytes are several tokens, none of them text on its own.
    written = "".join(t.text for t in tokens)
    assert written.replace("�", "") == "".join(c for c in "".join(asked.pieces) if c.isascii())
    assert max(t.window for t in tokens) > 1
    assert all(t.scored for t in tokens)


def naive_ranks(model: Checkpoint, inputs: list[int], target: int) -> tuple[int, int]:
    """First and last rank that rounding allows, after a plain pass of the library's own model."""
    with torch.inference_mode():
        logits = model.model(torch.tensor([inputs])).logits[0, -1].tolist()
    own = logits[target]
    return (
        1 + sum(x > own + 1e-4 for x in logits),
        sum(x >= own - 1e-4 for x in logits),
    )


@settings(max_examples=15, deadline=None)
@given(tokens=st.lists(st.integers(0, 255), min_size=2, max_size=12), data=st.data())
def test_ranks_are_those_of_plain_passes(
    tiny: Checkpoint, tokens: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(tokens) - 1))
    found = ranks(Forward(tiny), Span(tuple(tokens[:-1]), tuple(tokens[-count:])))
    assert len(found) == count
    for i, rank in zip(range(len(tokens) - count, len(tokens)), found, strict=True):
        first, last = naive_ranks(tiny, tokens[:i], tokens[i])
        assert first <= rank <= last


def test_equal_logits_are_ranked_as_an_argmax_would(tiny: Checkpoint) -> None:
    class Flat(Forward):
        def head(self, states: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(states), self.vocabulary)

    assert ranks(Flat(tiny), Span((1, 2, 3), (0, 7, 3))) == (1, 8, 4)


def test_rank_one_is_what_the_run_calls_greedy(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    record, _ = run("coqa", "--limit", 1, "--set", "max_new=4")
    again = run_again(record, *sources(tiny_folder, cache=tmp_path / "cache"))
    [item] = traces(again, ranks=True)
    written = [t for r in item.requests for t in r.tokens if t.logprob is not None]
    assert written
    assert {t.rank for t in written} == {1}, "greedy answers"
    record, _ = run("lambada", "--limit", 5)
    again = run_again(record, *sources(tiny_folder, cache=tmp_path / "cache"))
    stored, ranked = traces(again), traces(again, ranks=True)
    firsts = [[t.rank == 1 for t in scored(item)] for item in ranked]
    assert [[t.rank == 1 for t in scored(item)] for item in stored] == firsts
    assert all(t.rank for item in ranked for t in scored(item))


def test_of_a_long_text_the_first_windows_are_ranked(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    record, _ = run("wikitext2", "--limit", 20, "--set", "stride=200")
    again = run_again(record, *sources(tiny_folder, cache=tmp_path / "cache"))
    [item] = traces(again, [*again.places][:1], ranks=True)
    assert max(t.window for t in scored(item)) >= MAX_WINDOWS, "there are more"
    unranked = [t for t in scored(item) if t.rank is None]
    assert {t.window for t in unranked} <= set(range(MAX_WINDOWS, 99))
    assert unranked


def scored(item: ItemTrace) -> list:  # type: ignore[type-arg]
    return [t for request in item.requests for t in request.tokens if t.scored]


def test_without_stored_answers_the_model_computes(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    record, _ = run("lambada", "--limit", 2)
    options = sources(tiny_folder)
    [item, _] = traces(run_again(record, *options))
    line = dumped(tmp_path / "lambada.jsonl")[item.id]["requests"][0]
    assert item.requests[0].logprob == pytest.approx(line["logprob"], abs=1e-4)
    no_weights = (*blind(tiny_folder, tmp_path)[:2], CacheOptions(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="has no weights"):
        traces(run_again(record, *no_weights), [item.id])


@pytest.mark.parametrize("engine", [{"numerics": "engine:0|dtype:float32"}, {}])
def test_answers_of_other_numerics_are_not_taken(
    run: Run, tiny_folder: Path, tmp_path: Path, engine: dict[str, str]
) -> None:
    record, _ = run("lambada", "--limit", 2)
    other = replace(record, engine=engine)
    again = run_again(other, *blind(tiny_folder, tmp_path))
    with pytest.raises(CheckpointError, match="has no weights"):
        traces(again)


# --- what is not the record's -----------------------------------------------------------------


def test_a_model_that_is_described_otherwise_is_refused(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    record, _ = run("lambada", "--limit", 1)
    other = replace(record, model={**record.model, "colour": "red"})
    with pytest.raises(RecordError, match="does not describe its model"):
        traces(run_again(other, *blind(tiny_folder, tmp_path)))


@pytest.fixture
def lambada(run: Run, tiny_folder: Path, tmp_path: Path) -> tuple[Record, Sources]:
    record, _ = run("lambada", "--limit", 2)
    return record, blind(tiny_folder, tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"version": 7}, RecordError, "lambada version 7 by harness cannot be repeated"),
        ({"origin": "lm-eval"}, RecordError, "by lm-eval cannot be repeated"),
        ({"data": {"sha256": "0" * 64}}, DataError, "the record's rows came from samples/"),
        ({"prompt": {"sha256": "0" * 64}}, RecordError, "'lambada.txt' has changed"),
        ({"options": {"colour": "red"}}, UsageError, "lambada has no option 'colour'"),
        ({"task": "lambda"}, UsageError, "did you mean lambada"),
    ],
)
def test_another_run_is_refused(
    lambada: tuple[Record, Sources], changes: dict[str, object], error: type, words: str
) -> None:
    record, options = lambada
    merged = {
        k: {**getattr(record, k), **v} if isinstance(v, dict) else v for k, v in changes.items()
    }
    with pytest.raises(error, match=words) as found:
        run_again(replace(record, **merged), *options)
    assert "\n" not in str(found.value)


def test_another_pool_is_refused(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    record, _ = run("nq", "--limit", 1)
    assert record.pool
    other = replace(record, pool={**record.pool, "sha256": "0" * 64})
    with pytest.raises(DataError, match="the record's rows came from"):
        run_again(other, *blind(tiny_folder, tmp_path))


def test_another_tokenizer_or_other_weights_are_refused(
    lambada: tuple[Record, Sources], tmp_path: Path
) -> None:
    record, options = lambada
    other = replace(record, model={**record.model, "tokenizer": "0" * 64})
    with pytest.raises(CheckpointError, match="other tokenizer"):
        traces(run_again(other, *options))
    twin = save_tiny(tmp_path / "twin", context=256, seed=1)
    changed = sources(twin)
    with pytest.raises(CheckpointError, match="other weights"):
        traces(run_again(record, *changed))


def traces(
    again: Again, ids: Iterable[str] | None = None, *, ranks: bool = False
) -> list[ItemTrace]:
    """Traces of the examples with these ids, or of all."""
    chosen = again.places if ids is None else ids
    return [again.trace(again.answered(item), ranks=ranks) for item in chosen]


def test_an_unknown_item_is_refused_with_near_ones(lambada: tuple[Record, Sources]) -> None:
    again = run_again(lambada[0], *lambada[1])
    first = next(iter(again.places))
    with pytest.raises(UsageError, match=f"no item '{first}9' among its 2; near ones are: {first}"):
        traces(again, [f"{first}9"])


# --- windows ----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 30), size=st.integers(1, 8), back=st.integers(0, 7))
def test_no_token_of_a_long_text_is_shown_twice(length: int, size: int, back: int) -> None:
    """Overlapping windows over a text of distinct tokens give that text again."""
    text = list(range(length + 1))
    step = max(1, size - back)
    spans = []
    for begin in range(1, length + 1, step):
        targets = tuple(text[begin : begin + step])
        start = max(0, begin - 1 - back)
        spans.append(Span(tuple(text[start : begin + len(targets) - 1]), targets))
    found = trace(
        RollingLoglikelihood(("",)), Encoded(tuple(spans)), lambda ids: [str(i) for i in ids]
    )
    assert [int(t.text) for t in found.tokens] == text
    assert [t.scored for t in found.tokens] == [False, *[True] * length]
