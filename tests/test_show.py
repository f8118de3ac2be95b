"""`harness show`: tokens, the scored span, what is cut; no weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, save_tiny
from console import harness, record_files

from harness.plugins.registry import task_names


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path) -> list[Any]:
    """A checkpoint without its weights, and one row to look at."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    data = tmp_path / "lambada_test.jsonl"
    data.write_text('{"text": "the sand and the “sea"}\n{"text": "and then an end"}\n', "utf-8")
    return ["--model", folder, "--data-dir", tmp_path]


def test_the_scored_span_stands_after_a_double_bar(words: list[Any]) -> None:
    result = harness("show", "lambada", *words, "--protocol", "lm-eval")
    assert result.code == 0
    lines = result.out.rstrip("\n").split("\n")
    assert lines[0] == "lambada item 0  references: ['“sea']"
    fed, scored = lines[2].strip().split(" ‖ ")
    assert fed == "the| s|an|d| |an|d| the"
    # Three bytes of a curly quote are three tokens, none a character on its own.
    assert scored == " |�|�|�|s|e|a"
    assert lines[1] == "  loglikelihood: 14 tokens fed, 7 scored"
    assert len(lines) == 3, "one example by default"


def test_tokens_are_those_of_the_tokenizer(words: list[Any]) -> None:
    result = harness("show", "lambada", *words, "--protocol", "lm-eval", "-n", 2)
    text = "and then an end"
    ids = byte_tokenizer().encode(text, add_special_tokens=False)
    expected = byte_tokenizer().convert_ids_to_tokens(ids)
    shown = result.out.rstrip("\n").split("\n")[-1].strip().replace(" ‖ ", "|")
    assert [token.replace("Ġ", " ") for token in expected] == shown.split("|")


def test_start_token_newline_and_next_word_of_the_paper_protocol(words: list[Any]) -> None:
    result = harness("show", "lambada", *words)
    assert "<|endoftext|>|\\n|the| s|an|d|" in result.out
    assert "next word (127 stop words, filter word): " in result.out
    assert "‖ <best words follow>" in result.out


def test_what_is_cut_is_said(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "small", context=64)
    result = harness("show", "lambada", "--model", folder, "--sample")
    assert "64 tokens fed" in result.out
    assert "cut to fit the context" in result.out
    longer = harness("show", "ptb", "--model", folder, "--sample", "--context", 32)
    assert " windows\n" in longer.out
    assert "more windows" in longer.out


@pytest.mark.parametrize("name", task_names())
def test_every_benchmark_can_be_shown_without_weights(
    words: list[Any], name: str, tmp_path: Path
) -> None:
    before = record_files(tmp_path)
    result = harness("show", name, *words[:2], "--sample", "-n", 2)
    assert result.code == 0, result.err
    assert f"{name} item " in result.out
    assert " ‖ " in result.out
    assert record_files(tmp_path) == before, "nothing is written"
