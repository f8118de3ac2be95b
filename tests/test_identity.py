"""What identifies a checkpoint: all that can move a score, and nothing else."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer, save_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_checkpoint import write_gguf

from harness.engine.checkpoint import digest, identity
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.random_model import model
from harness.engine.checkpoint.settings import Settings

CPU = Settings(device="cpu")
V = len(byte_tokenizer())
IDS = torch.tensor([[1, 2, 3, 40, 41, 7]])
one_folder = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # no example sees what another has left


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoint.model(IDS).logits


def found(folder: Path, **changes: Any) -> Checkpoint:
    return load(str(folder), Settings(**{"device": "cpu", **changes}))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The tests' model as it is saved first; nobody changes its folder."""
    return load(str(save_tiny(tmp_path_factory.mktemp("plain") / "model")), CPU)


# --- the tensors ---------------------------------------------------------------------------


@one_folder
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_that_moves_a_logit_is_another_digest(
    tmp_path: Path, plain: Checkpoint, place: float, flip: int
) -> None:
    """In place, and with the times of the file before: nothing but its bytes tells of it."""
    folder = tmp_path / "model"
    if not folder.exists():
        save_tiny(folder)
    path = folder / "model.safetensors"
    whole, times = path.read_bytes(), path.stat()
    header = 8 + int.from_bytes(whole[:8], "little")
    at = header + int(place * (len(whole) - header))
    try:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        changed = found(folder)
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if not torch.equal(logits(changed), logits(plain)):
        assert changed.identity.digest != plain.identity.digest
    assert found(folder).identity.digest == plain.identity.digest


@one_folder
@given(
    container=st.sampled_from(["safetensors", "bin"]),
    shard=st.integers(10, 300),
    prefix=st.sampled_from(["", "module.", "_orig_mod."]),
    name=st.text("abc-_.é ", min_size=1, max_size=8).map(lambda text: f"m{text}"),
)
def test_how_weights_are_stored_plays_no_part(
    tmp_path: Path, plain: Checkpoint, container: str, shard: int, prefix: str, name: str
) -> None:
    folder = tmp_path / name
    shutil.rmtree(folder, ignore_errors=True)
    byte_tokenizer().save_pretrained(folder)
    made = model(byte_tokenizer(), context=64)
    made.save_pretrained(folder, max_shard_size=f"{shard}KB")
    for path in folder.glob("*.safetensors"):
        state = {prefix + k: v for k, v in load_file(path).items()}
        if container == "safetensors":
            save_file(state, path, {"format": "pt"})
        else:
            torch.save(state, path.with_suffix(".bin").with_stem(f"pytorch_{path.stem}"))
            path.unlink()
    index = folder / "model.safetensors.index.json"
    if container == "bin" and index.exists():
        text = index.read_text().replace(".safetensors", ".bin").replace('"model', '"pytorch_model')
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    again = found(folder)
    assert again.identity.digest == plain.identity.digest
    assert torch.equal(logits(again), logits(plain))


def test_replaced_in_place_where_the_file_system_tells_nothing(
    folder: Path, plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim of a cached digest is checked against what was loaded."""
    for module in (digest, identity):
        monkeypatch.setattr(module, "file_state", lambda files: "the same")
    assert found(folder).identity.digest == plain.identity.digest
    save_tiny(folder, seed=2)
    assert found(folder).identity.digest != plain.identity.digest
    save_tiny(folder)
    assert found(folder).identity.digest == plain.identity.digest


def test_a_known_digest_is_not_computed_again(
    folder: Path, plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(folder)
    monkeypatch.setattr(identity, "tensors_digest", None)
    assert found(folder).identity.digest == plain.identity.digest


def test_tied_tensors_are_taken_once_and_untied_ones_twice(folder: Path, tmp_path: Path) -> None:
    tied = dict(identity.distinct_tensors(model(byte_tokenizer(), context=64)))
    assert "lm_head.weight" in tied
    assert "transformer.wte.weight" not in tied
    untied = dict(
        identity.distinct_tensors(model(byte_tokenizer(), context=64, tie_word_embeddings=False))
    )
    assert set(untied) - set(tied) == {"transformer.wte.weight"}


def test_tensors_that_exchange_their_bytes(folder: Path, plain: Checkpoint) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    one, two = "transformer.h.0.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc.weight"
    state[one], state[two] = state[two], state[one]
    save_file(state, path, {"format": "pt"})
    assert found(folder).identity.digest != plain.identity.digest


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5)])
def test_every_byte_of_any_tensor_counts(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.zeros(shape).to(kind)
    raw = bytes(identity._bytes(value))
    assert raw == bytes(value.numel() * value.element_size())
    transposed = torch.arange(6, dtype=torch.float32).view(2, 3).t()
    assert bytes(identity._bytes(transposed)) == transposed.contiguous().numpy().tobytes()


# --- which file serves a tensor ---------------------------------------------------------------


def shifted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v + 0.1 for k, v in state.items()}


def stray_safetensors(folder: Path) -> Callable[[], None]:
    """Pickled weights are loaded next to a safetensors file of another name."""
    path = folder / "model.safetensors"
    state = load_file(path)
    path.rename(folder / "stray.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    return lambda: torch.save(shifted(state), folder / "pytorch_model.bin")


def another_shard(folder: Path) -> Callable[[], None]:
    """Two files hold all tensors, and the index alone says which is read."""
    path = folder / "model.safetensors"
    state = load_file(path)
    path.rename(folder / "one.safetensors")
    save_file(shifted(state), folder / "two.safetensors", {"format": "pt"})

    def index(file: str) -> None:
        text = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, file)})
        (folder / "model.safetensors.index.json").write_text(text)

    index("one.safetensors")
    return lambda: index("two.safetensors")


def stated_weights(folder: Path) -> Callable[[], None]:
    """The config names the file."""
    target = folder / "sub" / "other.safetensors"
    target.parent.mkdir()
    state = load_file(folder / "model.safetensors")
    shutil.copy(folder / "model.safetensors", target)
    edit_config(folder, transformers_weights="sub/other.safetensors")
    return lambda: save_file(shifted(state), target, {"format": "pt"})


def linked_weights(folder: Path) -> Callable[[], None]:
    """The file is a link out of the folder."""
    path, target = folder / "model.safetensors", folder.parent / "outside.safetensors"
    state = load_file(path)
    path.rename(target)
    path.symlink_to(target)
    return lambda: save_file(shifted(state), target, {"format": "pt"})


@pytest.mark.parametrize("case", [stray_safetensors, another_shard, stated_weights, linked_weights])
def test_what_is_digested_is_what_is_loaded(
    folder: Path, plain: Checkpoint, case: Callable[[Path], Callable[[], None]]
) -> None:
    change = case(folder)
    before = found(folder)
    assert before.identity.digest == plain.identity.digest
    change()
    after = found(folder)
    assert not torch.equal(logits(after), logits(before))
    assert after.identity.digest != before.identity.digest


def test_gguf_replaced_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    config = tf.LlamaConfig(
        vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.3, rms_norm_eps=1e-5,
    )  # fmt: skip
    path = tmp_path / "x.gguf"
    digests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        write_gguf(tmp_path / "new.gguf", tf.LlamaForCausalLM(config))
        shutil.copyfile(tmp_path / "new.gguf", path)
        os.utime(path, ns=(10**18, 10**18))
        digests.append(found(path).identity.digest)
    assert digests[0] != digests[1]


def test_a_file_replaced_where_the_file_system_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "file_state", lambda files: "the same")
    path = tmp_path / "x.gguf"
    path.write_bytes(b"a" * 10)
    before = digest.file_digest(path)
    path.write_bytes(b"b" * 10)
    assert digest.file_digest(path) != before


# --- the config --------------------------------------------------------------------------------

GPT2_FIELDS = [
    ("layer_norm_epsilon", 0.1),
    ("activation_function", "relu"),
    ("scale_attn_weights", False),
    ("scale_attn_by_inverse_layer_idx", True),
    ("n_head", 4),
]


@pytest.mark.parametrize(("field", "value"), GPT2_FIELDS)
def test_a_field_that_moves_logits(
    folder: Path, plain: Checkpoint, field: str, value: object
) -> None:
    edit_config(folder, **{field: value})
    changed = found(folder)
    assert not torch.equal(logits(changed), logits(plain))
    assert changed.identity.digest != plain.identity.digest


LLAMA_FIELDS = [
    ("rope_parameters", {"rope_type": "default", "rope_theta": 500.0}),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
    ("rms_norm_eps", 0.1),
    ("hidden_act", "relu"),
]


@pytest.mark.parametrize(("field", "value"), LLAMA_FIELDS)
def test_a_field_of_llama_that_moves_logits(tmp_path: Path, field: str, value: object) -> None:
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    before = found(tmp_path)
    edit_config(tmp_path, **{field: value})
    after = found(tmp_path)
    assert not torch.equal(logits(after), logits(before))
    assert after.identity.digest != before.identity.digest


def chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def generation(folder: Path) -> None:
    said = {"temperature": 0.5, "do_sample": True, "repetition_penalty": 2.0, "max_length": 9}
    (folder / "generation_config.json").write_text(json.dumps(said))


def minimal_config(folder: Path) -> None:
    """As old files are: what equals a default is not stated."""
    stated = json.loads((folder / "config.json").read_text())
    default = tf.GPT2Config().to_dict()
    kept = {k: v for k, v in stated.items() if k == "model_type" or v != default.get(k)}
    assert len(kept) < len(stated) / 2
    (folder / "config.json").write_text(json.dumps(kept))


def names_only(folder: Path) -> None:
    edit_config(
        folder, architectures=["Other"], dtype="bfloat16", transformers_version="4.0.0",
        _name_or_path="elsewhere", id2label={"0": "A"}, label2id={"A": 0}, use_cache=False,
    )  # fmt: skip


@pytest.mark.parametrize("change", [chat_template, generation, minimal_config, names_only])
def test_what_moves_no_logit(
    folder: Path, plain: Checkpoint, change: Callable[[Path], None]
) -> None:
    change(folder)
    again = found(folder)
    assert torch.equal(logits(again), logits(plain))
    assert again.identity.digest == plain.identity.digest
    assert again.identity.tokenizer == plain.identity.tokenizer


def test_a_default_that_a_release_adds(
    folder: Path, plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tf.GPT2Config.to_dict
    monkeypatch.setattr(tf.GPT2Config, "to_dict", lambda self: {**real(self), "new_field": True})
    assert found(folder).identity.digest == plain.identity.digest


def test_fields_of_parts_are_those_that_differ_too() -> None:
    config = tf.Gemma3Config(text_config=tf.Gemma3TextConfig(hidden_size=32))
    fields = identity.changed_fields(config)
    assert fields["model_type"] == "gemma3"
    assert fields["text_config"] == {"hidden_size": 32, "model_type": "gemma3_text"}


def test_ends_are_the_tokenizers_and_those_that_are_stated(folder: Path) -> None:
    own = byte_tokenizer().eos_token_id
    assert found(folder).end_tokens == {own}
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert found(folder).end_tokens == {own, 5, 7}
    (folder / "generation_config.json").unlink()
    edit_config(folder, eos_token_id=9)
    assert found(folder).end_tokens == {own, 9}


# --- code that comes with a checkpoint ----------------------------------------------------------

MODEL_CODE = """
from transformers import GPT2LMHeadModel
from .scaling_of_this_test import scaled

class Scaled(GPT2LMHeadModel):
    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        output.logits = scaled(output.logits)
        return output
"""
HELPER_CODE = "def scaled(logits):\n    return logits * {}\n"


@pytest.fixture
def with_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import sys

    from transformers import dynamic_module_utils

    modules = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "modeling_scaled.py").write_text(MODEL_CODE)
    (folder / "scaling_of_this_test.py").write_text(HELPER_CODE.format(2))
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_scaled.Scaled"})
    yield folder
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def test_code_that_runs_is_part_of_the_identity(with_code: Path, plain: Checkpoint) -> None:
    off = found(with_code)
    assert off.identity.digest == plain.identity.digest
    on = found(with_code, trust_remote_code=True)
    assert torch.equal(logits(on), 2 * logits(plain))
    assert on.identity.digest != off.identity.digest
    assert found(with_code, trust_remote_code=True).identity.digest == on.identity.digest
    (with_code / "scaling_of_this_test.py").write_text(HELPER_CODE.format(3))
    changed = found(with_code, trust_remote_code=True)
    assert torch.equal(logits(changed), 3 * logits(plain))
    assert len({m.identity.digest for m in (off, on, changed)}) == 3


def test_trust_alone_changes_nothing(folder: Path, plain: Checkpoint) -> None:
    assert found(folder, trust_remote_code=True).identity.digest == plain.identity.digest
