"""Several checkpoints in one command: the same numbers as one by one, text encoded once."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import save_tiny
from console import harness, refused
from transformers import AutoTokenizer

from harness.engine.checkpoint import load as checkpoint
from harness.engine.queries.encode import Encoder

pytestmark = pytest.mark.usefixtures("self_tests_once")

RUN = ("--sample", "--limit", 3, "--no-cache")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [save_tiny(folder / f"m{seed}", context=128, seed=seed) for seed in range(3)]


def scores(*words: object) -> list[list[float]]:
    result = harness(*words, *RUN, "--json")
    assert result.code == 0, result.err
    records = json.loads(result.out)["records"]
    return [[score["value"] for score in record["scores"]] for record in records]


def test_a_pattern_that_the_shell_spells_out_names_all_models(
    models: list[Path], tmp_path: Path
) -> None:
    out = ("--out", tmp_path)
    alone = [scores("lambada", "--model", model, *out)[0] for model in models]
    assert scores("lambada", "--model", *models, *out) == alone
    repeated = [word for model in models for word in ("--model", model)]
    assert scores("lambada", *repeated, *out) == alone


def test_text_is_encoded_once_for_checkpoints_with_one_tokenizer(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = Encoder._encode

    def counted(self: Encoder, *words: object) -> object:
        calls.append(1)
        return real(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "_encode", counted)
    scores("lambada", "--model", *models, "--out", tmp_path)
    assert len(calls) == 1
    other = save_tiny(tmp_path / "other", context=64)
    scores("lambada", "--model", models[0], other, "--out", tmp_path)
    assert len(calls) == 3  # another context cuts elsewhere


def test_a_tokenizer_is_loaded_once(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_tokenizers", {})
    loaded: list[Path] = []
    real = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda f, **k: loaded.append(f) or real(f, **k)
    )
    first, second, _ = (checkpoint.load(str(m), checkpoint.Settings(device="cpu")) for m in models)
    assert loaded == [models[0]]
    assert first.tokenizer.digest == second.tokenizer.digest


def test_another_tokenizer_is_not_mistaken_for_it(models: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(models[0], tmp_path / "other"))
    text = (other / "tokenizer.json").read_text("utf-8")
    merges = json.loads(text)["model"]["merges"]
    changed = json.loads(text)
    changed["model"]["merges"] = merges[:-1]
    (other / "tokenizer.json").write_text(json.dumps(changed), "utf-8")
    settings = checkpoint.Settings(device="cpu")
    found = [checkpoint.load(str(m), settings).identity.tokenizer for m in (models[0], other)]
    assert found[0] != found[1]


def test_the_leaderboard_has_a_row_a_model(models: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    result = harness("table3", "--model", *models, *RUN, "--out", tmp_path, "--leaderboard", path)
    assert result.code == 0, result.err
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [str(model) for model in models]
    assert all(float(row["LAMBADA PPL"]) > 1 for row in rows)
    assert path.with_suffix(".md").is_file()


def test_a_model_that_cannot_be_loaded_leaves_the_rows_before_it(
    models: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "board.csv"
    words = ("table3", "--model", models[0], tmp_path / "none", *RUN, "--out", tmp_path)
    result = harness(*words, "--leaderboard", path)
    assert result.code == 2
    assert "none" in result.err
    assert len(path.read_text().splitlines()) == 2


def test_models_without_the_option_are_refused() -> None:
    assert "--model" in refused("lambada", "gpt2", "--sample")
