"""Checkpoints of nanoGPT, build-nanogpt and llm.c against the programs that wrote them.

Small files are written here in the same formats, from a GPT-2 of transformers.
"""

import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer
from console import refused

from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.formats.format import Candidate, TensorCheckpoint
from harness.engine.checkpoint.formats.gpt2.llmc import LLMC
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.queries.query import Span, SpanScores
from harness.errors import CheckpointError

TOLERANCE = 1e-5  # nats; the programs differ among themselves by 3e-6


class Case(NamedTuple):
    """A file, what is stated about it, and where its reference values are."""

    folder: str
    file: str
    options: tuple[tuple[str, str], ...] = ()
    logprobs: str = "logprobs"
    inside: str | None = None  # key of the values of a second file


CASES = (
    Case("nanogpt-char", "ckpt.pt"),
    Case("nanogpt-char", "ckpt.pt", (("activation", "gelu_new"),), "logprobs_tanh_gelu"),
    Case("nanogpt-bpe", "ckpt.pt"),
    Case("nanogpt-bpe", "ckpt.pt", (("activation", "gelu_new"),), "logprobs_tanh_gelu"),
    Case("nanogpt-bpe", "ckpt.pt", (("vocabulary", "50257"),), "logprobs_cut_to_50257"),
    Case("build-nanogpt", "model_00050.pt"),
    Case("build-nanogpt", "model_00050.pt", (("vocabulary", "50257"),), "logprobs_cut_to_50257"),
    Case("llmc", "model_00000120.bin"),
    Case("llmc", "model_00000120_bf16.bin", inside="bf16_file"),
)
NAMES = [f"{c.file} of {c.folder} {dict(c.options) or ''}" for c in CASES]


def real(data_dir: Path, *names: str) -> Path:
    path = data_dir.joinpath("checkpoints", *names)
    if not path.exists():
        pytest.skip(f"HARNESS_DATA has no {path.relative_to(data_dir)}")
    return path


def references(data_dir: Path, case: Case) -> Iterator[tuple[list[int], list[float], list[int]]]:
    """Ids, log-probabilities of all but the first, most probable ids after each, by sequence."""
    stored = json.loads(real(data_dir, case.folder, "reference.json").read_text("utf-8"))
    assert len(stored["sequences"]) == 5
    for sequence in stored["sequences"]:
        values = sequence[case.inside] if case.inside else sequence
        yield sequence["ids"], values[case.logprobs][1:], values["argmax"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_program_that_wrote_it_agrees(data_dir: Path, tiny_folder: Path, case: Case) -> None:
    """With transformers on the converted folder, and with the engine.

    A program sums some 50,000 probabilities in float32, which moves single values by 6e-5 (to be
    seen by summing those of the same logits in float64). The engine sums more exactly. What the
    program lost is taken off before it is compared.
    """
    where = str(real(data_dir, case.folder, case.file))
    # Ids are given, so that any tokenizer that fits will do.
    tokenizer = None if case.folder == "nanogpt-char" else str(tiny_folder)
    stated = Settings(device="cpu", options=case.options, tokenizer=tokenizer)
    folder = locate(where, stated).folder
    plain: Any = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = Engine(load(where, stated))
    for ids, logprobs, argmax in references(data_dir, case):
        with torch.inference_mode():
            logits = plain(torch.tensor([ids])).logits[0]
        values = of_targets(logits.log_softmax(-1), ids)
        assert values.tolist() == pytest.approx(logprobs, abs=TOLERANCE)
        assert logits.argmax(-1).tolist() == argmax
        lost = values - of_targets(logits.double().log_softmax(-1), ids)
        span = Span(tuple(ids[:-1]), tuple(ids[1:]))
        [(_, answer)] = answers_of(engine, [span])
        found = torch.from_numpy(answer.logprobs) + lost
        assert found.tolist() == pytest.approx(logprobs, abs=TOLERANCE)
        assert answer.greedy.tolist() == [
            i == best for i, best in zip(ids[1:], argmax[:-1], strict=True)
        ]
        last = Span(tuple(ids), (argmax[-1],))
        [(_, answer)] = answers_of(engine, [last])
        assert answer.greedy.all()


def of_targets(logprobs: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The log-probability of each id but the first, from (T, V) after each id."""
    return logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def answers_of(engine: Engine, spans: list[Span]) -> list[tuple[Span, SpanScores]]:
    batches = engine.backend.answer(spans, (), lambda done, total: None)
    return [(span, answer.value) for batch in batches for span, answer in batch.items()]


# --- small files in the same formats ---------------------------------------------------------

CPU = Settings(device="cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz "
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32}


def gpt2(rows: int, *, activation: str = "gelu", **changes: Any) -> tf.GPT2LMHeadModel:
    """What a user builds to hold the same weights."""
    torch.manual_seed(0)
    config = tf.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=rows,
        activation_function=activation, initializer_range=0.3, **changes,
    )  # fmt: skip
    model = tf.GPT2LMHeadModel(config)
    for name, value in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(value, std=0.3)
    return model


def as_linear(model: Any) -> dict[str, torch.Tensor]:
    """The tensors as these programs store them: linear weights are (out, in)."""
    state = {}
    for name, value in model.state_dict().items():
        linear = value.ndim == 2 and ".h." in name
        state[name] = value.t().contiguous() if linear else value.clone()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def write_nanogpt(path: Path, state: dict[str, torch.Tensor], rows: int, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {**SIZES, "vocab_size": rows, "bias": True, "dropout": 0.2}
    content = {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.rand(40)}}, "param_groups": []},
        "model_args": settings,
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "letters"},
    }
    torch.save({**content, **changes}, path)
    return path


def write_meta(path: Path, symbols: str = LETTERS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stoi = {c: i for i, c in enumerate(symbols)}
    itos = {i: c for c, i in stoi.items()}
    path.write_bytes(pickle.dumps({"vocab_size": len(stoi), "stoi": stoi, "itos": itos}))
    return path


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A nanoGPT of 27 characters, with the meta.pkl of its data."""
    write_meta(tmp_path / "data" / "letters" / "meta.pkl")
    return write_nanogpt(tmp_path / "out" / "ckpt.pt", as_linear(gpt2(27)), 27)


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoint.model(torch.tensor([[1, 2, 3, 20, 5]])).logits


@pytest.mark.parametrize("tokens", [{}, {"bos_token_id": None, "eos_token_id": None}])
def test_the_digest_is_that_of_a_saved_model(
    letters: Path, tmp_path: Path, tokens: dict[str, None]
) -> None:
    """Whatever was stated for training, and whether start tokens were taken out or left."""
    saved = tmp_path / "saved"
    gpt2(27, resid_pdrop=0.3, **tokens).save_pretrained(saved)
    byte_tokenizer().save_pretrained(saved)
    of_file = load(str(letters), CPU)
    of_folder = load(str(saved), replace(CPU, tokenizer=str(letters.parents[1] / "data/letters")))
    assert of_file.identity.digest == of_folder.identity.digest
    assert torch.equal(logits(of_file), logits(of_folder))
    other = load(str(letters), replace(CPU, options=(("activation", "gelu_new"),)))
    assert other.identity.digest != of_file.identity.digest
    assert not torch.equal(logits(of_file), logits(other))


def test_the_digest_of_a_real_file(data_dir: Path, tmp_path: Path) -> None:
    path = real(data_dir, "nanogpt-char", "ckpt.pt")
    stored = torch.load(path, weights_only=True)["model"]
    config = tf.GPT2Config(
        n_layer=2, n_head=3, n_embd=48, n_positions=64, vocab_size=65, activation_function="gelu"
    )
    model = tf.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(".bias"):
                value.zero_()
            else:
                linear = value.ndim == 2 and ".h." in name
                value.copy_(stored[name].t() if linear else stored[name])
    model.save_pretrained(tmp_path)
    meta = str(path.parent / "meta.pkl")
    saved = load(str(tmp_path), replace(CPU, tokenizer=meta))
    assert saved.identity.digest == load(str(path), CPU).identity.digest


def test_the_state_of_the_optimizer_plays_no_part(letters: Path, tmp_path: Path) -> None:
    model = torch.load(letters, weights_only=True)["model"]
    other = write_nanogpt(
        tmp_path / "other" / "ckpt.pt", model, 27, optimizer={"lr": 1}, iter_num=9
    )
    meta = str(tmp_path / "data" / "letters" / "meta.pkl")
    found = [load(str(path), replace(CPU, tokenizer=meta)).identity for path in (letters, other)]
    assert found[0].digest == found[1].digest
    assert [identity.step for identity in found] == [7, 9]
    assert found[0].options == {"activation": "gelu", "vocabulary": "27"}
    folders = {locate(str(path), replace(CPU, tokenizer=meta)).folder for path in (letters, other)}
    assert len(folders) == 1, "converted once"


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_wrappers_and_masks(letters: Path, tmp_path: Path, prefix: str) -> None:
    """What torch.compile, DistributedDataParallel and torch before 2.0 leave in a file."""
    state = {prefix + k: v for k, v in as_linear(gpt2(27)).items()}
    for layer in range(2):
        mask = torch.ones(32, 32).tril().view(1, 1, 32, 32)
        state[f"{prefix}transformer.h.{layer}.attn.bias"] = mask
    wrapped = write_nanogpt(tmp_path / "wrapped" / "ckpt.pt", state, 27)
    assert load(str(wrapped), CPU).identity.digest == load(str(letters), CPU).identity.digest


def test_a_model_without_biases(tmp_path: Path) -> None:
    state = {k: v for k, v in as_linear(gpt2(27)).items() if not k.endswith(".bias")}
    settings = {**SIZES, "vocab_size": 27, "bias": False, "dropout": 0.0}
    path = write_nanogpt(tmp_path / "out" / "ckpt.pt", state, 27, model_args=settings)
    write_meta(path.with_name("meta.pkl"))
    model = gpt2(27).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(".bias"):
                value.zero_()
    expected = model(torch.tensor([[1, 2, 3, 20, 5]])).logits
    # The folder of a run is as good as its file.
    assert torch.allclose(logits(load(str(path.parent), CPU)), expected, atol=1e-5)


def test_a_vocabulary_that_is_cut(letters: Path) -> None:
    cut = load(str(letters), replace(CPU, options=(("vocabulary", "26"),)))
    assert torch.equal(
        cut.model.get_input_embeddings().weight, gpt2(27).transformer.wte.weight[:26]
    )
    assert cut.identity.options["vocabulary"] == "26"


WTE, CFC = "transformer.wte.weight", "transformer.h.1.mlp.c_fc.weight"
Change = Callable[[dict[str, Any]], Any]
BROKEN: dict[str, tuple[Change, dict[str, Any], str]] = {
    "missing": (lambda s: s.pop(CFC), {}, f"{CFC} is missing"),
    "no embedding": (lambda s: s.pop(WTE), {}, f"{WTE} is missing"),
    "left over": (
        lambda s: s.update({"transformer.h.10.x": s[CFC], "transformer.h.2.x": s[CFC]}), {},
        "transformer.h.2.x is left over",
    ),
    "shape": (lambda s: s.update({CFC: s[CFC].t()}), {}, r"c_fc.weight has the shape \[16, 64\]"),
    "integers": (lambda s: s.update({CFC: s[CFC].int()}), {}, r"torch.int32.*expected \[64, 16\]"),
    "twice": (lambda s: s.update({f"module.{CFC}": s[CFC]}), {}, f"{CFC} twice"),
    "untied": (lambda s: s.update({"lm_head.weight": s[WTE] + 1}), {}, "lm_head.weight differs"),
    "no tensor": (lambda s: s.update({CFC: [1.0]}), {}, "c_fc.weight' in its model is a list"),
    "heads": (lambda s: None, {"n_head": 3}, "16 is not a multiple of its 3 heads"),
    "layers": (lambda s: None, {"n_layer": 10**9}, "transformer.h.2.ln_1.weight is missing"),
    "fewer layers": (lambda s: None, {"n_layer": 1}, "transformer.h.1.attn.c_attn.bias is left"),
    "size": (lambda s: None, {"n_embd": -1}, "n_embd is -1; expected a positive"),
    "no size": (lambda s: None, {"block_size": None}, "block_size is None"),
    "biases": (lambda s: None, {"bias": False}, "attn.c_attn.bias is left over"),
    "odd biases": (lambda s: None, {"bias": "no"}, "bias is 'no'"),
    "context": (lambda s: None, {"block_size": 64}, r"wpe.weight has the shape \[32, 16\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    change, settings, message = BROKEN[name]
    state = as_linear(gpt2(27))
    change(state)
    stated = {**SIZES, "vocab_size": 27, "bias": True, **settings}
    path = write_nanogpt(tmp_path / "ckpt.pt", state, 27, model_args=stated)
    write_meta(tmp_path / "meta.pkl")
    with pytest.raises(CheckpointError, match=message) as error:
        load(str(path), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("activation=relu", "expected one of gelu, gelu_new"),
        ("vocabulary=28", "expected how many of the 27 rows"),
        ("vocabulary=0", "expected how many of the 27 rows"),
        ("vocabulary=all", "expected how many of the 27 rows"),
        ("layers=2", "nanoGPT has no such option (it has: activation, vocabulary)"),
    ],
)
def test_wrong_model_options_are_refused(letters: Path, option: str, message: str) -> None:
    line = refused("lambada", "--model", letters, "--sample", "--model-option", option)
    assert message in line


def test_a_model_option_with_two_values_is_refused(letters: Path) -> None:
    options = ("--model-option", "activation=gelu", "--model-option", "activation=gelu_new")
    line = refused("lambada", "--model", letters, "--sample", *options)
    assert "--model-option activation is gelu and gelu_new; expected one" in line


def test_files_of_old_torch_and_compressed_ones(letters: Path, tmp_path: Path) -> None:
    """Before 1.6 torch wrote no zip archive. A compressed one cannot be mapped."""
    meta = replace(CPU, tokenizer=str(tmp_path / "data" / "letters" / "meta.pkl"))
    content = torch.load(letters, weights_only=True)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    expected = load(str(letters), meta).identity.digest
    assert load(str(tmp_path / "old.pt"), meta).identity.digest == expected
    with (
        zipfile.ZipFile(letters) as whole,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="is a compressed archive"):
        load(str(tmp_path / "packed.pt"), meta)
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        other.writestr("words.txt", "no tensors")
    assert Candidate(tmp_path / "other.pt").pickle is None


def test_a_file_that_changes_while_it_is_read(
    letters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nanoGPT does at every evaluation: nothing of it stays in the cache."""
    write = TensorCheckpoint.write

    def meanwhile(self: TensorCheckpoint, folder: Path) -> None:
        write(self, folder)
        self.tensors[WTE].add_(1)

    monkeypatch.setattr(TensorCheckpoint, "write", meanwhile)
    with pytest.raises(CheckpointError, match="has changed while it was read"):
        load(str(letters), CPU)
    assert [*(cache_root() / "converted").iterdir()] == []


# --- build-nanogpt and llm.c -----------------------------------------------------------------


def write_build_nanogpt(path: Path, step: int, rows: int = 27) -> Path:
    """With a class of `__main__` pickled into it, as the program does."""
    main: Any = sys.modules["__main__"]
    kind = type("GPTConfig", (), {"__module__": "__main__"})
    main.GPTConfig = kind
    try:
        config = kind()
        vars(config).update({**SIZES, "vocab_size": rows})
        model = as_linear(gpt2(rows))
        torch.save({"model": model, "config": config, "step": step, "val_loss": 1.0}, path)
    finally:
        del main.GPTConfig
    return path


def test_the_newest_of_build_nanogpt(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.pkl")
    for step in (5, 900, 1000):
        write_build_nanogpt(tmp_path / f"model_{step:05d}.pt", step)
    found = load(str(tmp_path), CPU)
    assert found.identity.step == 1000
    assert found.identity.options == {"activation": "gelu_new", "vocabulary": "27"}
    expected = gpt2(27, activation="gelu_new").eval()(torch.tensor([[1, 2, 3, 20, 5]])).logits
    assert torch.allclose(logits(found), expected, atol=1e-5)


ORDER = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
    "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip


def write_llmc(path: Path, *, version: int = 3, magic: int = 20240326, rows: int = 27) -> Path:
    """27 rows, padded to 32 with other numbers."""
    state = as_linear(gpt2(27))
    header = np.zeros(256, "<i4")
    header[:8] = magic, version, 32, rows, 2, 2, 16, 32
    padded = torch.cat([state[WTE], torch.full((5, 16), 9.0)])
    parts = [padded, state["transformer.wpe.weight"]]
    parts += [torch.stack([state[f"transformer.h.{n}.{name}"] for n in range(2)]) for name in ORDER]
    parts += [state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]]
    flat = torch.cat([part.flatten() for part in parts])
    flat = flat.bfloat16().view(torch.int16) if version == 5 else flat
    path.write_bytes(header.tobytes() + flat.numpy().tobytes())
    return path


@pytest.mark.parametrize("version", [3, 5])
def test_llmc_is_read_without_its_padding(tmp_path: Path, version: int) -> None:
    write_meta(tmp_path / "meta.pkl")
    found = load(str(write_llmc(tmp_path / "model_00000042.bin", version=version)), CPU)
    model = gpt2(27, activation="gelu_new").eval()
    if version == 5:  # rounded once, when it was written
        model = model.bfloat16().float()
    expected = model(torch.tensor([[1, 2, 3, 20, 5]])).logits
    assert torch.allclose(logits(found), expected, atol=1e-5)
    assert logits(found).shape[-1] == 27
    assert found.identity.step == 42
    folder = locate(str(tmp_path / "model_00000042.bin"), CPU).folder
    stored = tf.AutoConfig.from_pretrained(folder).dtype
    assert stored is (torch.bfloat16 if version == 5 else torch.float32)


def test_the_newest_complete_one_of_llmc(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.pkl")
    for step in (10, 20, 30):
        write_llmc(tmp_path / f"model_{step:08d}.bin")
    message = refused("lambada", "--model", tmp_path, "--sample")
    assert "no complete checkpoint of llm.c" in message
    (tmp_path / "DONE_00000010").touch()
    (tmp_path / "DONE_00000020").touch()
    assert load(str(tmp_path), CPU).identity.step == 20
    complete = [LLMC().is_complete(tmp_path / f"model_{step:08d}.bin") for step in (10, 20, 30)]
    assert complete == [True, True, False]
    assert LLMC().is_complete(tmp_path / "gpt2_124M.bin") is None


def test_every_cut_of_llmc_is_named(tmp_path: Path) -> None:
    path = write_llmc(tmp_path / "model_00000001.bin")
    write_meta(tmp_path / "meta.pkl")
    whole = path.read_bytes()
    for size, part in (
        (4, "within its header"),
        (1023, "within its header"),
        (1024, "within transformer.wte.weight, which is at bytes 1,024 to 3,072"),
        (3071, "transformer.wte.weight"),
        (3072, r"transformer.wpe.weight"),
        (len(whole) - 65, "within transformer.ln_f.weight"),
        (len(whole) - 1, "within transformer.ln_f.bias"),
    ):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"it ends at byte {size:,}, .*{part}"):
            load(str(path), CPU)
    path.write_bytes(whole + bytes(6))
    with pytest.raises(CheckpointError, match="has 6 bytes left over"):
        load(str(path), CPU)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 1}, "version 1 of llm.c's format; expected 3"),
        ({"version": 2}, "version 2 of llm.c's format"),
        ({"magic": 20240803}, "is a Llama 3 of llm.c"),
        ({"magic": 20240327}, "not a checkpoint of a known format"),
        ({"rows": 33}, "damaged header: version 3, positions 32, vocabulary 33"),
    ],
)
def test_other_files_of_llmc_are_refused(
    tmp_path: Path, header: dict[str, int], message: str
) -> None:
    path = write_llmc(tmp_path / "model_00000001.bin", **header)
    with pytest.raises(CheckpointError, match=message):
        load(str(path), CPU)
