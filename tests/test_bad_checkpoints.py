"""Damaged, hostile and wrong checkpoints of every format: one line, exit code 2, nothing run.

Small checkpoints are generated; the files of the original programs are tried too where they are.
"""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from conftest import byte_tokenizer
from console import refused
from safetensors.torch import save_file
from test_litgpt_dcp import LLAMA, as_litgpt_llama, llama, meta_llama

from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.random_model import model as random_gpt2
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed")

State = dict[str, torch.Tensor]
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64}
ROWS = len(byte_tokenizer())


class Made(NamedTuple):
    """A checkpoint of one format."""

    model: Path  # for --model
    file: Path  # with the weights
    config: Path | None = None  # for --model-config

    @property
    def words(self) -> list[object]:
        """For the command line."""
        return ["--model", self.model, *(["--model-config", self.config] if self.config else [])]

    def converted(self) -> Path:
        return locate(str(self.model), Settings(device="cpu", config_file=self.config)).folder


class Form(NamedTuple):
    """How checkpoints of one format are generated."""

    state: Callable[[], State]
    write: Callable[[Path, State, Mapping[str, Any]], Made]  # with changed sizes
    layers: str  # the size that says how many layers there are


# --- one small checkpoint of each format ----------------------------------------------------------


def gpt2_state() -> State:
    """A GPT-2 as these programs store it: linear weights (out, in)."""
    state = random_gpt2(byte_tokenizer(), context=64).state_dict()
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {k: v.T.contiguous() if k.endswith(linear) else v.clone() for k, v in state.items()}


def nanogpt(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    sizes = {**SIZES, "vocab_size": ROWS, "bias": True, **changes}
    torch.save({"model": state, "model_args": sizes, "iter_num": 5}, folder / "ckpt.pt")
    return Made(folder / "ckpt.pt", folder / "ckpt.pt")


class GPTConfig:
    """Pickled as the class of a training script."""


GPTConfig.__module__, GPTConfig.__qualname__ = "__main__", "GPTConfig"


def build_nanogpt(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    config = GPTConfig()
    vars(config).update({**SIZES, "vocab_size": ROWS, **changes})
    path = folder / "model_00005.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "GPTConfig", GPTConfig, raising=False)
        torch.save({"model": state, "config": config, "step": 5}, path)
    return Made(path, path)


def llmc(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    sizes = {"magic": 20240326, "version": 3, "positions": 64, "rows": ROWS}
    sizes |= {"n_layer": 2, "n_head": 2, "n_embd": 32, "padded": ROWS, **changes}
    header = torch.zeros(256, dtype=torch.int32)
    header[: len(sizes)] = torch.tensor(list(sizes.values()))
    block = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    names = [["transformer.wte.weight"], ["transformer.wpe.weight"]]
    names += [
        [f"transformer.h.{layer}.{part}.{kind}" for layer in range(2)]
        for part in block
        for kind in ("weight", "bias")
    ]
    names += [["transformer.ln_f.weight"], ["transformer.ln_f.bias"]]
    arrays = b"".join(state[name].numpy().tobytes() for group in names for name in group)
    path = folder / "model_00000005.bin"
    path.write_bytes(header.numpy().tobytes() + arrays)
    return Made(path, path)


def nanochat_state() -> State:
    """The first layout of nanochat."""
    torch.manual_seed(0)
    shapes = {"c_q": (32, 32), "c_k": (32, 32), "c_v": (32, 32), "c_proj": (32, 32)}
    state = {"transformer.wte.weight": (ROWS, 32), "lm_head.weight": (ROWS, 32)}
    for layer in range(2):
        state |= {f"transformer.h.{layer}.attn.{n}.weight": s for n, s in shapes.items()}
        state[f"transformer.h.{layer}.mlp.c_fc.weight"] = (128, 32)
        state[f"transformer.h.{layer}.mlp.c_proj.weight"] = (32, 128)
    return {name: torch.randn(shape) for name, shape in state.items()}


def nanochat(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    sizes = {"sequence_len": 64, "vocab_size": ROWS, "n_layer": 2, "n_head": 2, "n_kv_head": 2}
    meta = {"step": 5, "model_config": {**sizes, "n_embd": 32, **changes}}
    (folder / "meta_000005.json").write_text(json.dumps(meta))
    path = folder / "model_000005.pt"
    torch.save(state, path)
    return Made(path, path)


def litgpt(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    (folder / "model_config.yaml").write_text(yaml.dump({**LLAMA, **changes}))
    torch.save(state, folder / "lit_model.pth")
    return Made(folder, folder / "lit_model.pth")


def llama_config(folder: Path, changes: Mapping[str, Any]) -> Path:
    path = folder / "config" / "config.json"
    llama().config.save_pretrained(path.parent)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def write_dcp(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    dcp.save({"model": state}, checkpoint_id=folder / "step-5", no_dist=True)
    shard = folder / "step-5" / "__0_0.distcp"
    return Made(folder / "step-5", shard, llama_config(folder, changes))


def metadata(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    made = write_dcp(folder, state, changes)
    return made._replace(file=made.model / ".metadata")


def safetensors(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    save_file({k: v.clone() for k, v in state.items()}, folder / "weights.safetensors")
    path = folder / "weights.safetensors"
    return Made(path, path, llama_config(folder, changes))


def bare(folder: Path, state: State, changes: Mapping[str, Any]) -> Made:
    torch.save(state, folder / "weights.pt")
    return Made(folder / "weights.pt", folder / "weights.pt", llama_config(folder, changes))


FORMS = {
    "nanoGPT": Form(gpt2_state, nanogpt, "n_layer"),
    "build-nanogpt": Form(gpt2_state, build_nanogpt, "n_layer"),
    "llm.c": Form(gpt2_state, llmc, "n_layer"),
    "nanochat": Form(nanochat_state, nanochat, "n_layer"),
    "litgpt": Form(lambda: as_litgpt_llama(llama().state_dict()), litgpt, "n_layer"),
    "DCP": Form(lambda: meta_llama(llama().config), write_dcp, "num_hidden_layers"),
    "DCP's metadata": Form(lambda: meta_llama(llama().config), metadata, "num_hidden_layers"),
    "safetensors": Form(lambda: llama().state_dict(), safetensors, "num_hidden_layers"),
    "state dict": Form(lambda: llama().state_dict(), bare, "num_hidden_layers"),
}
WITH_NAMES = [name for name in FORMS if name not in ("llm.c", "DCP's metadata")]


def write(form: str, folder: Path, state: State | None = None, **changes: Any) -> Made:
    folder.mkdir(exist_ok=True)
    byte_tokenizer().save_pretrained(folder)
    made = FORMS[form].write(folder, FORMS[form].state() if state is None else state, changes)
    if made.config:
        shutil.copy(folder / "tokenizer.json", made.config.parent)
    return made


def refusal(made: Made) -> str:
    with pytest.raises(CheckpointError) as error:
        made.converted()
    assert "\n" not in str(error.value)
    return str(error.value)


def leftovers() -> list[Path]:
    """What is in the cache of converted checkpoints."""
    return list(Path(os.environ["HARNESS_CACHE"]).glob("converted/*"))


@pytest.mark.parametrize("form", FORMS)
def test_a_good_checkpoint_is_converted(form: str, tmp_path: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    folder = write(form, tmp_path / "good").converted()
    assert (folder / "model.safetensors").is_file()
    assert (folder / "tokenizer.json").is_file()


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_cut_short_at_50_places(form: str, tmp_path: Path) -> None:
    made = write(form, tmp_path / "cut")
    whole = made.file.read_bytes()
    for part in range(50):
        made.file.write_bytes(whole[: len(whole) * part // 50])
        line = refusal(made)
        assert made.file.name in line or made.model.name in line, line
    made.file.write_bytes(whole[:-1])
    refusal(made)
    assert leftovers() == []


REAL = {
    "nanogpt-char": "ckpt.pt",
    "nanogpt-bpe": "ckpt.pt",
    "build-nanogpt": "model_00050.pt",
    "llmc": "model_00000120_bf16.bin",
    "nanochat/base_checkpoints/d4": "model_000150.pt",
}


@pytest.mark.parametrize("folder", REAL)
def test_real_files_cut_short(folder: str, data_dir: Path, tmp_path: Path) -> None:
    real = data_dir / "checkpoints" / folder
    if not real.is_dir():
        pytest.skip("no files of the original programs in HARNESS_DATA")
    whole = (real / REAL[folder]).read_bytes()
    copy = tmp_path / REAL[folder]
    for file in real.glob("meta*"):
        shutil.copy(file, tmp_path)
    for part in range(10):
        copy.write_bytes(whole[: len(whole) * part // 10])
        with pytest.raises(CheckpointError, match=REAL[folder]) as error:
            locate(str(copy), Settings(device="cpu", data_dir=data_dir))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", ["nanoGPT", "llm.c", "litgpt", "DCP's metadata"])
def test_cut_short_on_the_command_line(form: str, tmp_path: Path) -> None:
    made = write(form, tmp_path / "cut")
    made.file.write_bytes(made.file.read_bytes()[:700])
    words = ["--sample", "--limit", 1, "--device", "cpu", "--out", tmp_path / "out"]
    assert made.file.name in refused("lambada", *made.words, *words)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_changed_at_random(form: str, tmp_path: Path) -> None:
    """Damage within the numbers cannot be seen; what is seen is said in one line."""
    made = write(form, tmp_path / "changed")
    whole = made.file.read_bytes()
    places = torch.randint(0, min(len(whole), 3000), (12,), generator=torch.manual_seed(0))
    lines = []
    for place in places.tolist():
        made.file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            made.converted()
        except CheckpointError as error:
            lines.append(str(error))
    assert not [line for line in lines if "\n" in line]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("instead", ["folder", "empty", "text", "unreadable", "gone link"])
def test_something_else_instead_of_the_file(form: str, instead: str, tmp_path: Path) -> None:
    made = write(form, tmp_path / "else")
    if instead == "unreadable" and os.geteuid() == 0:
        pytest.skip("root may read every file")
    if instead == "unreadable":
        made.file.chmod(0)
    else:
        made.file.unlink()
    if instead == "folder":
        made.file.mkdir()
    elif instead == "gone link":
        made.file.symlink_to(tmp_path / "gone")
    elif instead in ("empty", "text"):
        made.file.write_text("" if instead == "empty" else "no weights, but a text\n" * 100)
    refusal(made)


# --- pickles that would run code ------------------------------------------------------------------


class Evil:
    """Unpickling this would leave a file."""

    def __init__(self, function: Callable[..., Any], argument: str) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (self.argument,)


@pytest.fixture(params=["os.system", "eval"])
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An object that runs code when it is unpickled; none has been run at the end."""
    marker = tmp_path / "ran"
    system = Evil(os.system, f"touch {marker}")
    yield system if request.param == "os.system" else Evil(eval, f"open({str(marker)!r}, 'w')")
    assert not marker.exists(), "code in a pickle was run"
    pickle.loads(pickle.dumps(system))
    assert marker.exists(), "the object is harmless, so the test proves nothing"


PLACES = [(form, "whole") for form in ("build-nanogpt", "nanochat", "litgpt", "state dict")]
PLACES += [("litgpt", "as a tensor"), ("nanoGPT", "plain"), ("nanoGPT", "old torch")]
PLACES += [("nanoGPT", place) for place in ("whole", "beside", "inside", "as a tensor")]


@pytest.mark.parametrize(("form", "place"), PLACES)
def test_pickles_run_nothing(form: str, place: str, evil: Evil, tmp_path: Path) -> None:
    made = write(form, tmp_path / "evil")
    content: Any = {"model": FORMS[form].state(), "model_args": SIZES, "optimizer": {}}
    if place == "whole":
        content = evil
    elif place == "inside":
        content["model"]["x"] = evil
    elif place == "as a tensor":
        content["model"] = {**content["model"], "lm_head.weight": evil}
    else:
        content["optimizer"] = {"state": [evil]}
    if place == "plain":
        made.file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, made.file, _use_new_zipfile_serialization=place != "old torch")
    line = refusal(made)
    if place != "plain":
        assert "which was not run" in line


def test_dcp_metadata_run_nothing(evil: Evil, tmp_path: Path) -> None:
    made = write("DCP's metadata", tmp_path / "evil")
    stored = pickle.loads(made.file.read_bytes())
    for content in (evil, {"a": evil}):
        made.file.write_bytes(pickle.dumps(content))
        assert "which was not run" in refusal(made)
    stored.planner_data = {"x": evil}
    made.file.write_bytes(pickle.dumps(stored))
    assert "which was not run" in refusal(made)


def test_dcp_shards_run_nothing(evil: Evil, tmp_path: Path) -> None:
    made = write("DCP", tmp_path / "evil")
    whole = made.file.read_bytes()
    stored = pickle.loads((made.model / ".metadata").read_bytes())
    torch.save(evil, made.file)
    size = made.file.stat().st_size
    for info in stored.storage_data.values():
        info.offset, info.length = 0, size
    (made.model / ".metadata").write_bytes(pickle.dumps(stored))
    assert "holds something else than a tensor" in refusal(made)
    made.file.write_bytes(whole)


@pytest.mark.parametrize(("form", "file"), [("nanoGPT", "meta.pkl"), ("nanochat", "tokenizer.pkl")])
def test_tokenizers_run_nothing(form: str, file: str, evil: Evil, tmp_path: Path) -> None:
    made = write(form, tmp_path / "evil")
    for tokenizer in made.model.parent.glob("tokenizer*"):
        tokenizer.unlink()
    for content in (evil, {"stoi": {"a": 0}, "itos": {0: evil}}):
        (made.model.parent / file).write_bytes(pickle.dumps(content))
        assert "which was not run" in refusal(made)


# --- tensors that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize("form", WITH_NAMES)
def test_tensors_missing_left_over_or_of_another_shape(form: str, tmp_path: Path) -> None:
    state = FORMS[form].state()
    ends = (
        ".ffn_norm.weight",
        ".post_attention_layernorm.weight",
        ".norm_2.weight",
        ".ln_2.weight",
    )
    name = [n for n in state if n.endswith(ends) or n.endswith("1.mlp.c_fc.weight")][-1]
    lacking = {k: v for k, v in state.items() if k != name}
    line = refusal(write(form, tmp_path / "lacking", lacking))
    assert ".1." in line, "the tensor is named"
    line = refusal(
        write(form, tmp_path / "more", {**state, "transformer.h.0.surprise": state[name]})
    )
    assert "surprise" in line
    longer = torch.cat([state[name], state[name]])
    line = refusal(write(form, tmp_path / "wrong", {**state, name: longer}))
    assert ".1." in line
    assert str(len(longer)) in line
    twice = {**state, f"_orig_mod.{name}": state[name]}
    line = refusal(write(form, tmp_path / "twice", twice))
    assert "twice" in line
    line = refusal(write(form, tmp_path / "integers", {**state, name: state[name].to(torch.int8)}))
    assert "torch.int8" in line
    assert leftovers() == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [2**31 - 1, 0, -3, 1, 3])
def test_layers_that_are_not_there(form: str, layers: int, tmp_path: Path) -> None:
    """A number of two billion neither takes memory nor time."""
    made = write(form, tmp_path / "layers", **{FORMS[form].layers: layers})
    refusal(made)
    assert leftovers() == []


@pytest.mark.parametrize("form", FORMS)
def test_a_width_that_is_not_there(form: str, tmp_path: Path) -> None:
    field = "hidden_size" if FORMS[form].layers == "num_hidden_layers" else "n_embd"
    refusal(write(form, tmp_path / "wide", **{field: 6 * 2**28}))
    assert leftovers() == []


def test_dcp_metadata_that_lie(tmp_path: Path) -> None:
    made = write("DCP", tmp_path / "lies")
    path = made.model / ".metadata"
    whole = path.read_bytes()

    def changed(change: Callable[[Any], None]) -> str:
        stored = pickle.loads(whole)
        change(stored)
        path.write_bytes(pickle.dumps(stored))
        return refusal(made)

    key = "model.norm.weight"

    def first(stored: Any) -> Any:
        return stored.state_dict_metadata[key]

    def place(stored: Any) -> Any:
        return next(v for k, v in stored.storage_data.items() if k.fqn == key)

    def huge(stored: Any) -> None:
        first(stored).size = torch.Size([2**50])

    def huge_chunk(stored: Any) -> None:
        first(stored).size = first(stored).chunks[0].sizes = torch.Size([2**50])

    assert "do not add up" in changed(huge)
    assert "a shard of 'model.norm.weight' is torch.float32 (48,)" in changed(huge_chunk)
    assert "does not say where" in changed(lambda stored: stored.storage_data.clear())

    def overlapping(stored: Any) -> None:
        rows = stored.state_dict_metadata["model.norm.weight"]
        rows.size = torch.Size([96])
        rows.chunks.append(rows.chunks[0])

    assert "overlap and leave gaps" in changed(overlapping)
    assert "is damaged" in changed(lambda stored: setattr(stored, "storage_data", None))
    assert "outside the folder" in changed(
        lambda stored: setattr(place(stored), "relative_path", "../config/config.json")
    )
    assert "cut short or damaged" in changed(lambda stored: setattr(place(stored), "length", 2**60))
    assert "cut short or damaged" in changed(lambda stored: setattr(place(stored), "offset", -9))
    assert "is stored compressed (zstd)" in changed(
        lambda stored: setattr(place(stored), "transform_descriptors", ["zstd"])
    )
    assert "cannot be read (No such file" in changed(
        lambda stored: setattr(place(stored), "relative_path", "__7_0.distcp")
    )


# --- other files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"magic": 20240327}, "is not a checkpoint of a known format"),
        ({"version": 1}, "is of version 1 of llm.c's format"),
        ({"magic": 20240803}, "is a Llama 3 of llm.c"),
    ],
)
def test_wrong_magic_numbers(changes: dict[str, int], words: str, tmp_path: Path) -> None:
    assert words in refusal(write("llm.c", tmp_path / "magic", **changes))


def test_an_optimizer_only(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict()
    for name, content in (("a", optimizer), ("b", {"optimizer": optimizer, "iter_num": 5})):
        torch.save(content, tmp_path / f"{name}.pt")
        words = ["--sample", "--device", "cpu", "--out", tmp_path / "out"]
        line = refused("lambada", "--model", tmp_path / f"{name}.pt", *words)
        assert "is the state of an optimizer without a model" in line


@pytest.mark.parametrize("form", ["nanoGPT", "DCP"])
def test_weights_that_are_not_numbers(form: str, tmp_path: Path) -> None:
    state = {name: torch.full_like(value, torch.nan) for name, value in FORMS[form].state().items()}
    made = write(form, tmp_path / "nan", state)
    words = ["--sample", "--limit", 1, "--device", "cpu", "--out", tmp_path / "out"]
    line = refused("lambada", *made.words, *words)
    assert "nan" in line.lower()
