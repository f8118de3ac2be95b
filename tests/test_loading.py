"""Checkpoints that are not what they seem: each is refused in one line, and no sound one is."""

import json
import logging
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer, save_tiny
from safetensors.torch import load_file, save_file
from test_checkpoint import write_gguf

from harness.engine.checkpoint import digest
from harness.engine.checkpoint import from_pretrained as loader
from harness.engine.checkpoint.digest import file_digest
from harness.engine.checkpoint.load import context_length, load, tokenizer_and_context
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError, short_reason

CPU = Settings(device="cpu")
State = dict[str, torch.Tensor]
Damage = Callable[[Path], object]  # done to a folder or a file
V = len(byte_tokenizer())
SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": None}


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([[1, 2, 3, 40, 41]])).logits


def save(folder: Path, model: tf.PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[State], State]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def refused(folder: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(str(folder), CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message.replace(str(folder), "MODEL")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


# --- tensors missing, left over, or of another shape -----------------------------------------


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def renamed(change: Callable[[str], str]) -> Callable[[State], State]:
    return lambda state: {change(k): v for k, v in state.items()}


LLAMA_NAMES = {"model.embed_tokens.weight": torch.zeros(V, 32), "model.norm.weight": torch.ones(32)}
TENSORS: dict[str, tuple[Callable[[State], State], str]] = {
    "one missing": (
        without("transformer.h.1.mlp.c_fc.weight"),
        r"'transformer\.h\.1\.mlp\.c_fc\.weight' is not in its files; random numbers",
    ),
    "none at all": (lambda state: {}, r"'lm_head\.weight' and 28 more tensors are not in its"),
    "of another architecture": (
        lambda state: LLAMA_NAMES,
        r"'lm_head\.weight' and 28 more .*'model\.embed_tokens\.weight' has no place in it",
    ),
    "one unrelated": (
        lambda state: {"x": torch.zeros(3)},
        r"more tensors are not in its files, and 'x' has no place in it",
    ),
    "a classifier's head": (
        lambda state: {**state, "score.weight": torch.zeros(2, 32)},
        r"'score\.weight' is in its files, but not in the causal language model",
    ),
    "an unmerged adapter": (
        lambda state: {**state, "transformer.h.0.attn.c_attn.lora_A.weight": torch.zeros(4, 32)},
        r"lora_A\.weight' is in its files, but not in",
    ),
    "another shape": (
        lambda state: {**state, "transformer.ln_f.bias": torch.zeros(31)},
        r"'transformer\.ln_f\.bias' has the shape 31 in its file, but config\.json asks for 32$",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_refused(folder: Path, case: str) -> None:
    change, message = TENSORS[case]
    edit_tensors(folder, change)
    assert_match(message, refused(folder))


def assert_match(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def test_a_pickle_that_lacks_a_tensor_is_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    del state["transformer.wpe.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    assert "'transformer.wpe.weight' is not in its files" in refused(folder)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (3, r"'transformer\.h\.2\.attn\.c_attn\.bias' and 11 more tensors are not in its files"),
        (1, r"'transformer\.h\.1\.attn\.c_attn\.weight' and 10 more tensors are in its files, but"),
    ],
)
def test_more_or_fewer_layers_than_the_files_hold(folder: Path, layers: int, message: str) -> None:
    edit_config(folder, n_layer=layers)
    assert_match(message, refused(folder))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tf.LlamaModel, r"'lm_head\.weight' is not in its files"),
        (tf.LlamaForSequenceClassification, r"'lm_head\.weight' is not .*'score\.weight' has no"),
        (tf.LlamaForTokenClassification, r"'lm_head\.weight' is not in its files"),
    ],
)
def test_untied_models_without_a_language_head(tmp_path: Path, kind: Any, message: str) -> None:
    assert_match(message, refused(save(tmp_path / "m", kind(tf.LlamaConfig(**LLAMA)))))


def test_a_classifier_with_tied_embeddings(tmp_path: Path) -> None:
    config = tf.GPT2Config(
        vocab_size=V, n_layer=2, n_head=2, n_embd=32, pad_token_id=0, n_positions=64
    )
    saved = save(tmp_path / "m", tf.GPT2ForSequenceClassification(config))
    assert "'score.weight' is in its files, but not in" in refused(saved)


def test_experts_that_are_not_all_there(tmp_path: Path) -> None:
    config = tf.MixtralConfig(
        **{**LLAMA, "num_key_value_heads": 1, "num_local_experts": 2, "head_dim": 16}
    )
    saved = save(tmp_path / "m", tf.MixtralForCausalLM(config))
    name = next(n for n in load_file(saved / "model.safetensors") if "experts.1.w1" in n)
    edit_tensors(saved, without(name))
    assert_match("'model.layers.0.(mlp|block_sparse_moe).experts", refused(saved))


def test_the_given_folder_whose_positions_do_not_fit(tmp_path: Path, folder: Path) -> None:
    edit_config(folder, n_positions=48)
    assert (
        "tensor 'transformer.wpe.weight' has the shape 64 x 32 in its file, but config.json asks "
        "for 48 x 32"
    ) in refused(folder)


# --- sound checkpoints ---------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_training_loops_are_taken_off(
    folder: Path, tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load(str(folder), CPU)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit_tensors(copy, renamed(lambda name: prefix + name))
    with caplog.at_level(logging.WARNING, "harness"):
        found = load(str(copy), CPU)
    assert "is removed from its tensors' names" in caplog.text
    assert torch.equal(logits(found.model), logits(plain.model))
    assert found.identity.digest == plain.identity.digest


def test_tensors_with_and_without_a_prefix(folder: Path) -> None:
    edit_tensors(
        folder, lambda state: {**state, **{f"module.{k}": v + 1 for k, v in state.items()}}
    )
    assert_match(r"has both 'module\.transformer\.\S+' and 'transformer\.", refused(folder))


def old_masks(state: State) -> State:
    """What else GPT-2's checkpoints of 2019 contain: masks of 1,024 positions (here 64)."""
    masks = {}
    for layer in range(2):
        masks[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        masks[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return {**state, **masks}


def of_base(state: State) -> State:
    return {k.removeprefix("transformer."): v for k, v in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        old_masks,
        of_base,
        lambda state: of_base(old_masks(state)),
        lambda state: {**state, "v_head.summary.weight": torch.zeros(1, 32)},
        lambda state: {**state, "lm_head.weight": state["transformer.wte.weight"].clone()},
    ],
    ids=["masks", "base model", "base model with masks", "value head", "tied head stored"],
)
def test_what_a_language_model_does_without(
    folder: Path, tmp_path: Path, change: Callable[[State], State], caplog: pytest.LogCaptureFixture
) -> None:
    plain = load(str(folder), CPU)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit_tensors(copy, change)
    with caplog.at_level(logging.WARNING, "harness"):
        found = load(str(copy), CPU)
    assert not caplog.records
    assert torch.equal(logits(found.model), logits(plain.model))
    assert found.identity.digest == plain.identity.digest


OLD_BUFFERS: dict[str, tuple[Callable[[], tf.PreTrainedModel], str, tuple[int, ...]]] = {
    "llama's frequencies": (
        lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA)),
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        (8,),
    ),
    "gpt-neox's mask": (
        lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**LLAMA)),
        "gpt_neox.layers.0.attention.masked_bias",
        (),
    ),
    "gpt-neo's mask": (
        lambda: tf.GPTNeoForCausalLM(
            tf.GPTNeoConfig(
                vocab_size=V, hidden_size=32, num_layers=2, num_heads=2,
                attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
            )
        ),
        "transformer.h.0.attn.attention.bias",
        (1, 1, 64, 64),
    ),
    "gpt-j's mask": (
        lambda: tf.GPTJForCausalLM(
            tf.GPTJConfig(
                vocab_size=V, n_embd=32, n_layer=2, n_head=2, rotary_dim=8, n_positions=64
            )
        ),
        "transformer.h.0.attn.masked_bias",
        (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OLD_BUFFERS)
def test_buffers_of_old_checkpoints(tmp_path: Path, case: str) -> None:
    make, name, shape = OLD_BUFFERS[case]
    saved = save(tmp_path / "m", make())
    edit_tensors(saved, lambda state: {**state, name: torch.zeros(shape)})
    load(str(saved), CPU)


def test_the_other_senses_of_a_model_loaded_for_its_text() -> None:
    text = tf.LlamaConfig(**LLAMA)
    seeing = tf.LlavaConfig(text_config=text, vision_config=tf.CLIPVisionConfig())
    report = {
        "missing_keys": set(),
        "mismatched_keys": set(),
        "unexpected_keys": {"model.vision_tower.x.weight", "model.multi_modal_projector.bias"},
    }
    loader.check_report(report, seeing, "m")
    with pytest.raises(CheckpointError, match=r"'model\.multi_modal_projector\.bias' and 1 more"):
        loader.check_report(report, text, "m")


def test_layers_that_guess_ahead() -> None:
    config = tf.LlamaConfig(**LLAMA)
    report = {"missing_keys": set(), "mismatched_keys": set()}
    third = {**report, "unexpected_keys": {"model.layers.2.eh_proj.weight"}}
    with pytest.raises(CheckpointError, match="eh_proj"):
        loader.check_report(third, config, "m")
    config.num_nextn_predict_layers = 1
    loader.check_report(third, config, "m")
    with pytest.raises(CheckpointError, match=r"layers\.3\."):
        loader.check_report({**report, "unexpected_keys": {"model.layers.3.x"}}, config, "m")


# --- folders that are damaged ----------------------------------------------------------------


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def write(file: str, text: str) -> Damage:
    return lambda folder: (folder / file).write_text(text)


def config(**changes: Any) -> Damage:
    return lambda folder: edit_config(folder, **changes)


def ends(value: Any) -> Damage:
    return write("generation_config.json", json.dumps({"eos_token_id": value}))


def weights_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def dangling_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nothing")


def adapter(file: str) -> Damage:
    return write(file, '{"peft_type": "LORA"}')


def shards(entry: str) -> Damage:
    """One shard, at `entry`; outside the folder it is there as well."""

    def change(folder: Path) -> None:
        target = folder / entry
        target.parent.mkdir(parents=True, exist_ok=True)
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(target)
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, entry)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def token_id(number: int) -> Damage:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_text())
        vocabulary = found["model"]["vocab"]
        vocabulary[next(iter(vocabulary))] = number
        path.write_text(json.dumps(found))

    return change


def pickled(write_to: Damage) -> Damage:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_to(folder / "pytorch_model.bin")

    return change


class Shell:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("true",))


PLAIN = "its pickled weights hold other things than plain tensors"
DAMAGED: dict[str, tuple[Damage, str]] = {
    "n_head -1": (config(n_head=-1), "num_attention_heads is -1 in config.json; expected at least"),
    "n_head 3": (config(n_head=3), "cannot be loaded as a causal language model"),
    "n_layer 0": (config(n_layer=0), "num_hidden_layers is 0 in config.json"),
    "n_layer -1": (config(n_layer=-1), "num_hidden_layers is -1 in config.json"),
    "n_layer 300,000": (
        config(n_layer=300_000),
        "n_layer is 300000 in config.json, but there are only 28 tensors in its files",
    ),
    "n_layer 300,000, pickled": (
        lambda folder: (
            config(n_layer=300_000)(folder),
            pickled(lambda path: torch.save({"x": torch.zeros(1)}, path))(folder),
        ),
        "n_layer is 300000 in config.json, but there are only 1 tensors",
    ),
    "architectures of numbers": (
        config(architectures=[5]),
        "architectures in config.json is [5]; expected a list of class names",
    ),
    "unknown quantisation": (
        config(quantization_config={"quant_method": "nosuch"}),
        "does not know the quantization_config in config.json ('nosuch'); its weights would be",
    ),
    "use_return_dict": (config(use_return_dict=False), "property 'use_return_dict'"),
    "transformers_weights a number": (
        config(transformers_weights=5),
        "cannot be loaded as a causal language model: TypeError",
    ),
    "a shard's name with a null": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            write("model.safetensors.index.json", '{"weight_map": {"a": "x\\u0000"}}')(folder),
        ),
        "cannot be loaded as a causal language model: ValueError: embedded null byte",
    ),
    "lone surrogate": (config(**{"\ud800": 1}), "config.json cannot be read ("),
    "config a list": (write("config.json", "[]"), "config.json holds a list; expected a JSON obj"),
    "config nested deep": (
        write("config.json", nested(100_000)),
        "config.json cannot be read (nested too deeply)",
    ),
    "config cut short": (write("config.json", '{"model'), "config.json cannot be read ("),
    "generation_config cut short": (
        write("generation_config.json", '{"eos'),
        "generation_config.json cannot be read (",
    ),
    "ends nested": (ends([[1]]), "eos_token_id in generation_config.json is [[1]]; expected a tok"),
    "ends 1.5": (ends(1.5), "generation_config.json is 1.5; expected a token id or a list"),
    "ends true": (ends(True), "generation_config.json is True; expected a token id or a list"),
    "ends words": (ends(["</s>"]), "generation_config.json is ['</s>']; expected a token id"),
    "weights a folder": (weights_folder, "model.safetensors is a folder; expected a weights file"),
    "weights a dangling link": (
        dangling_link,
        "its weights file model.safetensors is a link to a file that is not there",
    ),
    "shard not there": (
        lambda folder: (shards("a.safetensors")(folder), (folder / "a.safetensors").unlink()),
        "its weights file a.safetensors is not there",
    ),
    "shard outside": (
        shards("../elsewhere/x.safetensors"),
        "takes weights from outside its folder (../elsewhere/x.safetensors); copy or link that",
    ),
    "transformers_weights outside": (
        config(transformers_weights="../model/model.safetensors"),
        "takes weights from outside its folder (../model/model.safetensors)",
    ),
    "index without a map": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            write("model.safetensors.index.json", '{"weight_map": {"a": 5}}')(folder),
        ),
        "model.safetensors.index.json has no weight_map from tensors to files",
    ),
    "an adapter": (
        adapter("adapter_config.json"),
        "has an adapter next to its weights (adapter_config.json), which would not be applied; "
        "merge it into them (peft: merge_and_unload()",
    ),
    "an adapter's weights": (adapter("adapter_model.safetensors"), "has an adapter next to its we"),
    "token id 2^31": (token_id(2**31), "and the token id 2147483648; expected ids near"),
    "token id 2^32 - 1": (token_id(2**32 - 1), "and the token id 4294967295; expected ids near"),
    "pickled command": (
        pickled(lambda path: torch.save({"x": Shell()}, path)),
        PLAIN + " (it calls posix.system)",
    ),
    "raw pickle": (pickled(lambda path: path.write_bytes(pickle.dumps(Shell()))), PLAIN),
    "pickled command, old format": (
        pickled(lambda p: torch.save({"x": Shell()}, p, _use_new_zipfile_serialization=False)),
        PLAIN,
    ),
    "an encoder": (
        config(model_type="deberta-v2", architectures=None),
        "is of type 'deberta-v2', for which transformers has no causal language model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_folders_are_refused_in_one_line(folder: Path, case: str) -> None:
    damage, message = DAMAGED[case]
    damage(folder)
    assert message in refused(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
)
def test_files_that_cannot_be_read(
    folder: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tests run as root no file is closed to them, so that the refusal is played."""
    real = Path.open

    def closed(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == file:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", closed)
    message = refused(folder)
    assert "Permission denied" in message
    assert file in message or "tokenizer" in message


def test_a_folder_that_cannot_be_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", closed)
    assert refused(folder) == "model 'MODEL' cannot be read (Permission denied)"


def test_a_model_name_longer_than_any_file_name() -> None:
    message = refused("x" * 10_000)
    assert message.endswith("x... cannot be read (File name too long)")


def test_an_adapter_alone(tmp_path: Path) -> None:
    adapter("adapter_config.json")(tmp_path)
    assert "is an adapter without its base model; merge it into that one" in refused(tmp_path)


def test_outputs_are_by_name_whatever_the_config_says(folder: Path) -> None:
    edit_config(folder, return_dict=False)
    assert logits(load(str(folder), CPU).model).shape == (1, 5, V)


def test_links_into_a_store_of_files_are_not_outside(folder: Path, tmp_path: Path) -> None:
    """A snapshot of the hub's cache is a folder of links."""
    plain = load(str(folder), CPU)
    shards("model-00001-of-00001.safetensors")(folder)
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    found = load(str(snapshot), CPU)
    assert found.identity.digest == plain.identity.digest


def test_transformers_weights_inside_the_folder(folder: Path) -> None:
    plain = load(str(folder), CPU)
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / "sub" / "other.safetensors")
    edit_config(folder, transformers_weights="sub/other.safetensors")
    assert load(str(folder), CPU).identity.digest == plain.identity.digest


# --- the tokenizer and the vocabulary --------------------------------------------------------


def grown(folder: Path, entries: int) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<extra{i}>" for i in range(entries)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("entries", [1, 60])
def test_a_few_entries_beyond_the_embeddings(folder: Path, entries: int) -> None:
    grown(folder, entries)
    assert len(load(str(folder), CPU).tokenizer) == V + entries


def test_the_tokenizer_of_another_model(folder: Path) -> None:
    grown(folder, 200)
    assert f"has {V + 200} entries, its vocabulary only {V}; they do not" in refused(folder)


# --- how much a model sees ---------------------------------------------------------------------


def roberta(positions: int) -> tf.PreTrainedModel:
    config = tf.RobertaConfig(
        **SMALL, intermediate_size=48, max_position_embeddings=positions, pad_token_id=1,
        is_decoder=True,
    )  # fmt: skip
    return tf.RobertaForCausalLM(config)


CONTEXTS: dict[str, tuple[Callable[[], tf.PreTrainedModel], int]] = {
    "mpt": (
        lambda: tf.MptForCausalLM(
            tf.MptConfig(vocab_size=V, d_model=32, n_heads=2, n_layers=2, max_seq_len=40)
        ),
        40,
    ),
    "whisper": (
        lambda: tf.WhisperForCausalLM(
            tf.WhisperConfig(
                vocab_size=V, d_model=32, decoder_layers=1, encoder_layers=1,
                decoder_attention_heads=2, encoder_attention_heads=2, decoder_ffn_dim=48,
                encoder_ffn_dim=48, max_target_positions=40, pad_token_id=0, bos_token_id=0,
                eos_token_id=0, decoder_start_token_id=0, is_encoder_decoder=False,
                is_decoder=True,
            )
        ),
        40,
    ),
    "roberta": (lambda: roberta(42), 40),
    "xlm-roberta": (
        lambda: tf.XLMRobertaForCausalLM(
            tf.XLMRobertaConfig(
                **SMALL, intermediate_size=48, max_position_embeddings=42, pad_token_id=1,
                is_decoder=True,
            )
        ),
        40,
    ),
    "bert": (
        lambda: tf.BertLMHeadModel(
            tf.BertConfig(
                **SMALL, intermediate_size=48, max_position_embeddings=40, pad_token_id=1,
                is_decoder=True,
            )
        ),
        40,
    ),
    "opt": (
        lambda: tf.OPTForCausalLM(
            tf.OPTConfig(
                **SMALL, ffn_dim=48, max_position_embeddings=40, word_embed_proj_dim=32,
                pad_token_id=1,
            )
        ),
        40,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTEXTS)
def test_the_context_is_what_the_model_can_be_fed(tmp_path: Path, case: str) -> None:
    make, longest = CONTEXTS[case]
    saved = save(tmp_path / "m", make())
    found = load(str(saved), CPU)
    assert found.identity.context == longest
    assert tokenizer_and_context(str(saved), CPU)[1] == longest
    ids = torch.full((1, longest), 40)
    with torch.inference_mode():
        assert found.model(input_ids=ids).logits.shape[1] == longest
        with pytest.raises((IndexError, RuntimeError)):
            found.model(input_ids=torch.full((1, longest + 1), 40))
    with pytest.raises(CheckpointError, match=f"--context 41 is longer than the model's {longest}"):
        context_length(found.model.config, longest + 1)


# --- GGUF -----------------------------------------------------------------------------------


def llama() -> tf.LlamaForCausalLM:
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA, num_key_value_heads=2, rms_norm_eps=1e-5))


def restate(path: Path, field: bytes, value: int) -> None:
    """Overwrite an unsigned number of 32 bits in a GGUF file's metadata."""
    content = path.read_bytes()
    at = content.index(field) + len(field)
    assert content[at : at + 4] == struct.pack("<I", 4), "the type: unsigned, 32 bits"
    path.write_bytes(content[: at + 4] + struct.pack("<I", value) + content[at + 8 :])


@pytest.mark.parametrize("blocks", [0, 1, 3, 2**31])
def test_gguf_with_another_number_of_blocks_than_it_says(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, llama())
    restate(path, b"llama.block_count", blocks)
    message = f"its block_count is {blocks}, but it has the tensors of 2 blocks"
    assert message in refused(path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_gguf_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, llama())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "it is cut short or damaged (" in refused(path)


def test_gguf_without_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    real = gguf.GGUFWriter.add_tensor

    def skip(self: Any, name: str, *args: Any, **options: Any) -> None:
        if name != "blk.1.ffn_up.weight":
            real(self, name, *args, **options)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", skip)
    write_gguf(tmp_path / "x.gguf", llama())
    assert "'model.layers.1.mlp.up_proj.weight' is not in its files" in refused(tmp_path / "x.gguf")


def test_gguf_metadata_are_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    parsed: list[str] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path: Path) -> None:
            parsed.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    names = gguf.get_tensor_name_map
    write_gguf(tmp_path / "x.gguf", llama())
    load(str(tmp_path / "x.gguf"), CPU)
    assert parsed == ["x.gguf"]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (Counted, names), "as before"


def test_gguf_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")

    def closed(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    assert refused(path) == "model 'MODEL' cannot be read (Permission denied)"


# --- the cache of digests ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["", "[]", nested(100_000), '{"a": 5, "b": [1], "c": "not a digest"}', "\udcff"]
)
def test_a_damaged_cache_of_digests_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    right = file_digest(file)
    memory = tmp_path / "cache" / "digests.json"
    keys = json.loads(memory.read_text())
    for broken in (content, json.dumps(dict.fromkeys(keys, 7))):
        memory.write_bytes(broken.encode(errors="surrogateescape"))
        assert file_digest(file) == right
        assert list(json.loads(memory.read_text()).values()) == [right]


def test_the_cache_of_digests_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_MAX_CACHED", 3)
    for number in range(5):
        digest.cached_digest(str(number), lambda: "0" * 64)
    memory = digest.cache_root() / "digests.json"
    assert list(json.loads(memory.read_text())) == ["2", "3", "4"]


# --- what others' errors look like -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\n  words", "two words"),
        ("A whole sentence of forty and more characters. " + "x" * 200, None),
        ("", "no reason given"),
        ("word " * 100, "word " * 30 + "word ..."),
    ],
)
def test_errors_are_cut_after_a_sentence(text: str, expected: str | None) -> None:
    whole = "A whole sentence of forty and more characters."
    assert short_reason(ValueError(text)) == (whole if expected is None else expected)


def test_the_hub_gives_pickles_beside_a_stray_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").rename(folder / "stray.safetensors")
    asked: list[list[str]] = []

    def download(name: str, **options: Any) -> str:
        asked.append(options["allow_patterns"])
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    locate("some/model", CPU)
    assert asked[1:] == [["*.bin"]]
