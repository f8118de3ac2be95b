"""A dozen model families against naive transformers loops, as `python -m benchmarks.families` has
them all: each stands for one way in which a pass, a mask or a cache can be wrong.
"""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.families import itself
from benchmarks.families.builders import build, families
from benchmarks.families.compare import TOLERANCE, Cell, Row, compare
from benchmarks.families.questions import KINDS
from benchmarks.families.referee import Referee
from benchmarks.families.variants import Family

DOZEN = {
    "gpt2": "shares prefixes",
    "llama-padded": "a vocabulary larger than the tokenizer's",
    "falcon-alibi": "raises under a mask of its own making",
    "gpt_oss": "an MLP that returns more than states",
    "llama4_text": "a model whose base is itself",
    "gemma2": "capped logits, a narrow window",
    "gemma3n-wide": "layers that share keys and values",
    "gpt_neo-short": "local layers that count columns",
    "mistral-equal": "a window as long as the context",
    "phi3-longrope": "positions scaled by the length of the row",
    "bamba": "a state beside keys and values",
    "whisper-64": "fewer positions than the config's usual names say",
}


def explained(row: Row) -> str:
    cells = {kind: cell.failed or f"{cell.worst:.1e} nats" for kind, cell in row.cells.items()}
    return f"{cells}, plan: {row.plan}"


@pytest.mark.parametrize("name", DOZEN)
def test_family_scores_as_a_naive_loop(name: str, tmp_path: Path) -> None:
    row = compare(families()[name], tmp_path)
    assert set(row.cells) == set(KINDS)
    assert row.acceptable, explained(row)
    assert not row.notes


def test_every_family_has_a_name_of_its_own_and_a_type_of_transformers() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found = families()
    assert len({family.type for family in found.values()}) >= 100
    assert all(name == family.name for name, family in found.items())
    assert {family.type for family in found.values()} <= set(CONFIG_MAPPING)


def test_a_model_that_is_not_causal_is_said_to_disagree_with_itself(tmp_path: Path) -> None:
    build(families()["deepseek_v32-top16"], tmp_path)
    referee = Referee(tmp_path, 256)
    referee.logprobs([7 * i % 200 for i in range(60)])
    assert itself.unsteady(referee).startswith("not causal")
    build(families()["deepseek_v32"], tmp_path)
    referee = Referee(tmp_path, 256)
    referee.logprobs([7 * i % 200 for i in range(60)])
    assert itself.unsteady(referee) == ""


def test_a_wrong_answer_is_neither_right_nor_acceptable() -> None:
    right, wrong = Cell(worst=TOLERANCE / 2, items=3), Cell(worst=math.inf, wrong=1, items=3)
    row = Row(Family("a", "gpt2"), {"score": right, "text": right}, plan="ok")
    assert row.right
    assert row.acceptable
    row.cells["text"] = wrong
    assert not row.acceptable
    row.cells["text"] = Cell(failed="died: KeyError: 'x'")
    assert not row.acceptable
    row.cells["text"] = Cell(failed="refused: too long")
    assert row.acceptable
    assert not row.right


def test_greedy_texts_of_the_referee_are_those_of_generate(tmp_path: Path) -> None:
    build(families()["llama"], tmp_path)
    referee = Referee(tmp_path, 64)
    mine = referee.generate("the sand and the sea", 6)
    theirs = itself.generated(referee, referee.prompt("the sand and the sea", 6), 6)
    assert mine.tokens == theirs.tokens
    torch.testing.assert_close(mine.logprobs, theirs.logprobs, atol=1e-5, rtol=0)
