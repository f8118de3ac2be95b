"""Noise in the weights of a loaded checkpoint, against weights that are changed one by one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from torch import nn
from transformers import AutoModelForCausalLM

from harness.engine.checkpoint import onednn
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.own import noise as own_noise
from harness.engine.checkpoint.own.noise import add_noise, noisy_name
from harness.engine.checkpoint.random_model import byte_tokenizer
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError

SHARE = 0.03
SETTINGS = Settings(device="cpu", noise=SHARE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("noise") / "tiny", context=64)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    named = AutoModelForCausalLM.from_pretrained(folder).named_parameters()
    return {name: parameter.detach() for name, parameter in named}


def test_in_memory_is_what_would_be_loaded_if_it_was_saved(folder: Path, tmp_path: Path) -> None:
    """The logits are those of a folder into which the same noise was written."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(own_noise._SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                spread = float(parameter.double().std(correction=0))
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter += torch.tensor(SHARE * spread) * drawn
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    saved, noisy = load(str(tmp_path), Settings(device="cpu")), load(str(folder), SETTINGS)
    ids = torch.arange(32)[None]
    with torch.no_grad():
        torch.testing.assert_close(noisy.model(ids).logits, saved.model(ids).logits)
        plain = load(str(folder), replace(SETTINGS, noise=0.0)).model(ids).logits
    assert not torch.allclose(plain, noisy.model(ids).logits, atol=1e-2)


def test_identity_is_of_its_own_and_the_same_every_time(folder: Path) -> None:
    """Otherwise answers of the checkpoint itself would be recalled from the response cache."""
    shares = (0.0, 0.01, SHARE)
    found = [load(str(folder), replace(SETTINGS, noise=share)).identity for share in shares]
    assert len({identity.digest for identity in found}) == len(shares)
    assert [identity.name for identity in found] == [
        str(folder), f"{folder} with 1 % noise", f"{folder} with 3 % noise",
    ]  # fmt: skip
    assert load(str(folder), SETTINGS).identity == found[-1]


def test_files_and_random_state_are_left_alone(folder: Path) -> None:
    files = {path: path.read_bytes() for path in folder.iterdir()}
    state = torch.get_rng_state()
    load(str(folder), SETTINGS)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
    assert torch.equal(torch.get_rng_state(), state)


def test_size_of_the_noise_and_what_has_none(folder: Path) -> None:
    """The noise has the stated spread, is no copy of the weights, and vectors have none."""
    before = weights(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_noise(model, SHARE, "tiny")
    assert model.lm_head.weight is model.transformer.wte.weight, "tied weights stay tied"
    for name, parameter in model.named_parameters():
        change = (parameter - before[name]).detach()
        if parameter.ndim == 1:
            assert not change.any(), name
            continue
        spread = float(change.std() / before[name].std())
        assert spread == pytest.approx(SHARE, rel=4 / (2 * change.numel()) ** 0.5), name
        both = torch.stack([change.flatten(), before[name].flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / change.numel() ** 0.5, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_number_format_of_the_weights_is_kept(
    folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)
    checkpoint = load(str(folder), replace(SETTINGS, dtype=dtype))
    assert {str(p.dtype) for p in checkpoint.model.parameters()} == {f"torch.{dtype}"}


def test_model_of_a_function_is_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A function may return the same object again, and its owner may go on with it."""
    (tmp_path / "kept_model.py").write_text(
        "import torch\n"
        "from harness.engine.checkpoint import random_model\n"
        "TOKENIZER = random_model.byte_tokenizer()\n"
        "MODEL = random_model.model(TOKENIZER, context=64)\n"
        "def make():\n    return MODEL, TOKENIZER\n"
        "def plain():\n    return (lambda ids: MODEL(ids).logits), TOKENIZER\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import kept_model

    before = {name: p.clone() for name, p in kept_model.MODEL.named_parameters()}
    plain, noisy = (load("kept_model:make", replace(SETTINGS, noise=n)) for n in (0.0, SHARE))
    again = load("kept_model:make", SETTINGS)
    assert noisy.identity.name == noisy_name("kept_model:make", SHARE)
    assert noisy.identity.digest == again.identity.digest != plain.identity.digest
    after: Any = kept_model.MODEL.named_parameters()
    assert all(torch.equal(p, before[name]) for name, p in after)
    with pytest.raises(CheckpointError, match=r"is a plain function.*expected an nn\.Module"):
        load("kept_model:plain", SETTINGS)


def test_model_without_matrices_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'norm' has no matrix"):
        add_noise(nn.LayerNorm(4), SHARE, "norm")
