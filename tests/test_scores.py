"""The tidy table of scores: one row per model, task, protocol and metric."""

from pathlib import Path

import pandas as pd
import pytest
from console import made_record

import harness
from harness.analysis.paper import published
from harness.analysis.runs import load
from harness.analysis.scores import COLUMNS
from harness.core import Score
from harness.errors import RecordError, UsageError
from harness.records.folder import write

LM_EVAL = Path(__file__).parent / "lm_eval_results"


def test_one_row_per_score_with_what_describes_it() -> None:
    record = made_record()
    frame = harness.scores([record])
    assert list(frame.columns) == list(COLUMNS)
    assert frame["metric"].tolist() == ["ppl", "acc"]
    ppl, acc = (row for _, row in frame.iterrows())
    assert (ppl["model"], ppl["task"], ppl["protocol"]) == ("gpt2", "lambada", "paper")
    assert (ppl["value"], ppl["low"], ppl["high"], ppl["unit"]) == (35.5, 34.5, 36.5, "per word")
    assert not ppl["higher_is_better"]
    assert acc["higher_is_better"]
    assert pd.isna(acc["low"])
    assert ppl["n"] == ppl["rows"] == 20
    assert ppl["signature"] == str(record.signature)
    assert (ppl["column"], ppl["source"], ppl["origin"]) == ("LAMBADA PPL", "file", "harness")


def test_the_papers_number_is_of_the_nearest_size_or_of_the_size_given() -> None:
    for size, model in ((None, "117M"), ("1542M", "1542M")):
        frame = harness.scores([made_record()], size)
        assert frame["paper_model"].tolist() == [model] * 2
        assert frame["paper"].tolist() == [
            published.published(column, model) for column in ("LAMBADA PPL", "LAMBADA ACC")
        ]
    with pytest.raises(UsageError, match="the paper has no model '1B'"):
        harness.scores([], "1B")


def test_a_score_outside_the_papers_tables_has_no_number_of_it() -> None:
    score = Score("f1", 50.0, "%", True, None, None, None, {})
    [row] = harness.scores([made_record(task="mine", scores=(score,))]).to_dict("records")
    assert row["column"] is None
    assert row["paper_model"] is None
    assert pd.isna(row["paper"])


def test_records_runs_and_paths_give_the_same_table(tmp_path: Path) -> None:
    records = [made_record(), made_record(protocol="lm-eval", limit=5, seed=3)]
    for record in records:
        write(record, tmp_path)
    expected = harness.scores(records)
    assert set(expected["seed"]) == {None, 3}
    runs = load([tmp_path], "no")
    for given in (runs, [tmp_path], [str(tmp_path)], [Path(run.file) for run in runs]):
        frame = harness.scores(given)
        by = ["protocol", "metric"]
        pd.testing.assert_frame_equal(
            frame.sort_values(by, ignore_index=True), expected.sort_values(by, ignore_index=True)
        )


def test_nothing_gives_an_empty_table_with_the_columns_and_their_types() -> None:
    empty, full = harness.scores([]), harness.scores([made_record()])
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    assert dict(empty.dtypes.astype(str)) == COLUMNS


def test_results_of_lm_eval_are_read_without_samples() -> None:
    frame = harness.scores([LM_EVAL])
    assert set(frame["origin"]) == {"lm-eval"}
    assert set(frame["model"]) == {"demo", "tiny"}


def test_a_path_that_is_not_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no record in"):
        harness.scores([tmp_path / "gone"])
    path = tmp_path / "jitter.json"
    path.write_text('{"kind": "jitter", "schema": 2, "scores": []}')
    with pytest.raises(RecordError, match=r"kind 'record' .* got kind 'jitter'"):
        harness.scores([path])


def test_the_table_pivots() -> None:
    """As a notebook does it: one column per model."""
    other = made_record(model={**made_record().model, "name": "b", "digest": "b2" * 32})
    frame = harness.scores([made_record(), other])
    wide = frame.pivot_table(index=["task", "metric"], columns="model", values="value")
    assert wide.loc[("lambada", "ppl")].tolist() == [35.5, 35.5]
