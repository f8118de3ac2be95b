"""Tokens on the report page: against the dump of the run, shortened, and done without."""

import json
from pathlib import Path
from typing import Any

import pytest
from console import harness
from hypothesis import given
from hypothesis import strategies as st
from pages import questions, read_page, report

from harness.records.trace import RequestTrace, TokenTrace
from harness.report.page import render, tokens
from harness.report.page.tokens import as_json


@pytest.fixture(scope="module")
def ran(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two benchmarks on built-in rows, their dumps and cached responses."""
    folder = tmp_path_factory.mktemp("tokens")
    model = ("--model", tiny_folder, "--device", "cpu", "--sample", "--limit", 3)
    for task in ("lambada", "text8"):
        where = ("--out", folder / "runs", "--cache", folder / "cache")
        result = harness(task, *model, *where, "--dump", folder / f"{task}.jsonl")
        assert result.code == 0, result.err
    return folder


def groups(page: Path) -> dict[str, Any]:
    return {group["task"]: group for group in read_page(page).data["groups"]}


@pytest.mark.parametrize("task", ["lambada", "text8"])
def test_probabilities_are_those_of_the_dump(ran: Path, task: str) -> None:
    page = report(ran / "r.html", ran / "runs", "--cache", ran / "cache")
    dumped = [json.loads(line) for line in (ran / f"{task}.jsonl").read_text("utf-8").splitlines()]
    items = {item["id"]: item for item in groups(page)[task]["examples"]}
    assert set(items) == {line["id"] for line in dumped}
    assert groups(page)[task]["traced"]
    for line in dumped:
        trace = items[line["id"]]["runs"][0]["trace"]
        for found, asked in zip(trace, line["requests"], strict=True):
            assert found["kind"] == asked["kind"]
            if asked["kind"] == "next_word":
                assert found["output"] == asked["text"]
                continue
            assert found["logprob"] == pytest.approx(asked["logprob"])
            scored = [token for token in found["tokens"] if token[1]]
            assert len(scored) == min(asked["num_tokens"], tokens.SCORED_TOKENS)
            if len(scored) == asked["num_tokens"]:
                total = sum(token[2] for token in scored)
                assert total == pytest.approx(asked["logprob"], abs=0.001 * len(scored))


def test_without_stored_answers_the_page_says_so(ran: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    result = harness("report", ran / "runs", "-o", out, "--cache", tmp_path / "empty")
    assert result.code == 0
    assert "no tokens for the examples of 2 records" in result.err
    found = read_page(out)
    assert not any(group["traced"] for group in found.data["groups"])
    assert (
        "lambada of tiny-gpt2, text8 of tiny-gpt2: its responses are not in the cache" in found.text
    )


def test_tokens_are_not_looked_for_where_none_are_wanted(ran: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    result = harness("report", ran / "runs", "-o", out, "--no-tokens")
    assert (result.code, result.err) == (0, "")
    assert not any(group["traced"] for group in read_page(out).data["groups"])


def test_records_alone_are_enough(tmp_path: Path) -> None:
    questions(tmp_path / "a", "no-such-model", [1, 0])
    page = report(tmp_path / "r.html", tmp_path / "a", "--data-dir", tmp_path)
    [group] = read_page(page).data["groups"]
    assert [item["runs"][0]["state"] for item in group["examples"]] == ["right", "wrong"]
    assert "Examples without tokens" in read_page(page).text


# --- shortened ----------------------------------------------------------------------------


def request(context: int, scored: int, kind: str = "loglikelihood") -> RequestTrace:
    before = tuple(TokenTrace(f" c{i}", False) for i in range(context))
    after = tuple(TokenTrace(f" s{i}", True, -0.5, 2) for i in range(scored))
    return RequestTrace(kind, before + after, logprob=-0.5 * scored)


@given(st.integers(0, 600), st.integers(0, 400))
def test_the_text_around_the_first_scored_token_is_kept(context: int, scored: int) -> None:
    made = request(context, scored)
    [found] = as_json([made])
    shown = "".join(token[0] for token in found["tokens"])
    end = min(scored, tokens.SCORED_TOKENS)
    begin = max(0, context - tokens.CONTEXT_TOKENS)
    wanted = [f"c{i}" for i in range(begin, context)] + [f"s{i}" for i in range(end)]
    assert shown.split() == wanted
    assert [token[2:] for token in found["tokens"] if token[1]] == [(-0.5, 2)] * end
    assert found["begins"] == (context <= tokens.CONTEXT_TOKENS)
    assert bool(found["left"]) == (scored > tokens.SCORED_TOKENS)


@given(st.integers(0, 600), st.integers(1, 4))
def test_the_prompt_is_that_of_the_first_request(context: int, scored: int) -> None:
    found = tokens.prompt([request(context, scored), request(3, 3)])
    assert found is not None
    begin = max(0, context - tokens.PROMPT_TOKENS)
    assert found["text"].split() == [f"c{i}" for i in range(begin, context)]
    assert found["marked"].split() == [f"s{i}" for i in range(scored)]
    assert bool(found["left"]) == (begin > 0)
    assert tokens.prompt([request(context, scored, "rolling")]) is None


def test_requests_are_counted_where_there_are_too_many() -> None:
    found = as_json([request(1, 1)] * (tokens.MAX_REQUESTS + 3))
    assert len(found) == tokens.MAX_REQUESTS
    assert found[-1]["note"] == "3 more requests are left out"


def test_tokens_take_a_limited_part_of_the_page(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sizes(page: Path) -> list[list[int]]:
        """The size of each example's traces, group by group."""
        runs = [[e["runs"] for e in group["examples"]] for group in groups(page).values()]
        return [
            [len(json.dumps([r["trace"] for r in of])) for of in g if "trace" in of[0]]
            for g in runs
        ]

    where = (ran / "runs", "--cache", ran / "cache")
    every = sizes(report(tmp_path / "all.html", *where))
    limit = max(map(sum, every)) - 1
    monkeypatch.setattr(render, "PAGE_BYTES", limit * len(every))
    some = sizes(report(tmp_path / "some.html", *where))
    assert all(sum(group) <= limit for group in some)
    assert 0 < sum(map(len, some)) < sum(map(len, every))
