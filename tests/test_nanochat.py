"""nanochat: both layouts against naive passes and the program's values, its tokenizer, refusals."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive_nanochat as naive
import pytest
import torch
import transformers as tf
from console import harness, record_files
from hypothesis import given
from hypothesis import strategies as st
from naive_nanochat import BYTES, Model, random_state, write, write_tokenizer
from torch import Tensor

from harness.core import Encoding as Protocol
from harness.core import Generate, Generated
from harness.engine.checkpoint.formats.format import Candidate
from harness.engine.checkpoint.formats.nanochat import model as own
from harness.engine.checkpoint.formats.nanochat.config import NanoChat2026Config
from harness.engine.checkpoint.formats.nanochat.nanochat import NanoChat
from harness.engine.checkpoint.formats.nanochat.tokenizer import (
    Encoding,
    encoding_tokenizer,
    read_encoding,
    transformers_tokenizer,
)
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.queries.query import Span
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError

CPU = Settings(device="cpu")
TOLERANCE = 1e-5  # nats


# --- the program's own file and values ------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_dir: Path) -> Path:
    folder = data_dir / "checkpoints" / "nanochat"
    if not folder.is_dir():
        pytest.skip("HARNESS_DATA has no checkpoints/nanochat")
    return folder


@pytest.fixture(scope="module")
def reference(real: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((real / "reference.json").read_text("utf-8"))
    assert len(values["sequences"]) == 5
    return values


@pytest.fixture(scope="module")
def d4(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("nanochat")))
        return load(str(real / "base_checkpoints" / "d4"), CPU)


@pytest.fixture(scope="module")
def plain(real: Path, d4: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model as transformers loads it, its weights not packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("plain")))
        folder = locate(str(real / "base_checkpoints" / "d4"), CPU).folder
    return tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logprobs(model: Any, ids: list[int]) -> Tensor:
    """(T, V) log-probabilities after each prefix."""
    with torch.no_grad():
        values: Tensor = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return values


def of_next(values: Tensor, ids: list[int]) -> Tensor:
    """The log-probability of each token but the first."""
    return values[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_the_program_and_the_engine_agree(d4: Checkpoint, reference: dict[str, Any]) -> None:
    engine = Engine(d4)
    for sequence in reference["sequences"]:
        ids = sequence["ids"]
        expected = torch.tensor(sequence["logprobs"][1:])
        values = logprobs(d4.model, ids)
        assert (of_next(values, ids) - expected).abs().max() < TOLERANCE, sequence["name"]
        assert values.argmax(-1).tolist() == sequence["argmax"]
        span = Span(tuple(ids[:-1]), tuple(ids[1:]))
        [batch] = engine.backend.answer([span], (), lambda done, total: None)
        assert (torch.tensor(batch[span].value.logprobs) - expected).abs().max() < TOLERANCE


def test_the_program_has_the_same_loss(d4: Checkpoint, reference: dict[str, Any]) -> None:
    stored = reference["program_own_loss"]["fixed_slice"]
    ids = torch.tensor(stored["ids"])
    inputs, targets = ids[:640].view(5, 128), ids[1:641].view(5, 128)
    with torch.no_grad():
        logits = d4.model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(stored["loss"], abs=1e-6)


def test_the_command(real: Path, tmp_path: Path) -> None:
    model = real / "base_checkpoints" / "d4"
    result = harness("lambada", "--model", model, "--sample", "--limit", 2, "--out", tmp_path)
    assert result.code == 0, result.err
    assert "nanochat at step 150: 4 layers, 32 wide, layout since March 2026" in result.err
    [record] = record_files(tmp_path)
    assert json.loads(record.read_text("utf-8"))["model"]["step"] == 150


def test_what_a_checkpoint_is_identified_by(d4: Checkpoint, real: Path) -> None:
    assert d4.identity.step == 150
    assert d4.identity.context == 256
    assert d4.tokenizer.start_tokens("auto") == (591,)
    assert d4.end_tokens == {591}
    file = load(str(real / "base_checkpoints" / "d4" / "model_000150.pt"), CPU)
    assert file.identity.digest == d4.identity.digest


def test_a_converted_folder_is_a_checkpoint_too(
    d4: Checkpoint, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    folder = locate(str(real / "base_checkpoints" / "d4"), CPU).folder
    # As in a process that has not converted anything.
    monkeypatch.setattr(configuration_auto.CONFIG_MAPPING, "_extra_content", {})
    monkeypatch.setattr(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, "_extra_content", {})
    assert load(str(folder), CPU).identity.digest == d4.identity.digest


def test_one_token_is_enough(d4: Checkpoint) -> None:
    alone, followed = logprobs(d4.model, [591]), logprobs(d4.model, [591, 384])
    torch.testing.assert_close(alone[0], followed[0], atol=TOLERANCE, rtol=0)


def test_generated_text_equals_repeated_passes(d4: Checkpoint) -> None:
    request = Generate(("KATHARINA:\nMoved! in good time",), max_new_tokens=12)
    engine = Engine(d4)
    [(_, answer)] = engine.answer([request], engine.encode([request], Protocol()))
    assert isinstance(answer, Generated)
    ids = [591, *d4.tokenizer.encode([request.prompt])[0]]
    for token in answer.tokens:
        assert logprobs(d4.model, ids)[-1].argmax() == token
        ids.append(token)
    assert len(answer.tokens) == 12


def zeroed(name: str) -> Callable[[Any], object]:
    return lambda model: getattr(model.model, name).zero_()


# What the program's values move by if a step is done wrong, as stated in reference.json.
WRONG: dict[str, Any] = {
    "smear left out": zeroed("smear_lambda"),
    "backout left out": zeroed("backout_lambda"),
    "x0_lambdas left out": zeroed("x0_lambdas"),
    "resid_lambdas left out": lambda model: model.model.resid_lambdas.fill_(1),
    "value embeddings with the wrong sign": (
        lambda model: [table.weight.neg_() for table in model.model.value_embeds.values()]
    ),
    "RoPE base 10000 instead of 100000": (own, "ROPE_BASE", 10_000.0),
    "window one key too short (127 instead of 128 keys back)": (
        (NanoChat2026Config, "windows", lambda config: [127, 127, 127, 256])
    ),
    "full attention in all layers instead of window 128 in layers 0-2": (
        (NanoChat2026Config, "windows", lambda config: [256, 256, 256, 256])
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_step_done_wrong_moves_values_as_in_the_program(
    name: str, plain: Any, reference: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(plain)
    if isinstance(WRONG[name], tuple):
        monkeypatch.setattr(*WRONG[name])
    else:
        with torch.no_grad():
            WRONG[name](model)
    moved = 0.0
    for sequence in reference["sequences"]:
        ids, expected = sequence["ids"], torch.tensor(sequence["logprobs"][1:])
        moved = max(moved, float((of_next(logprobs(model, ids), ids) - expected).abs().max()))
    stated = reference["largest_change_of_a_logprob_if_done_wrong"][name]
    assert moved == pytest.approx(stated, rel=0.02)


# --- both layouts against a naive pass ------------------------------------------------------


MODELS = {
    "2025": Model(2, 4, 2, 32, None),
    "2025 unpadded": Model(3, 2, 2, 16, None, padded=False),
    "2025 compiled": Model(2, 1, 1, 16, None, prefix="_orig_mod."),
    "2026": Model(3, 4, 1, 48, "sl"),
    "2026 even": Model(4, 2, 2, 32, "L"),
    "2026 of one layer": Model(1, 2, 1, 24, "SSSL", prefix="module."),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_equals_a_naive_pass(name: str, tmp_path: Path) -> None:
    sizes = MODELS[name]
    write(tmp_path / "base_checkpoints" / "d0", sizes)
    loaded = load(str(tmp_path / "base_checkpoints" / "d0"), CPU)
    ids = torch.randint(
        sizes.vocab_size, (11,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    expected = naive.logprobs(random_state(sizes), sizes, ids)
    found = logprobs(loaded.model, ids)
    assert found.shape == expected.shape  # without the rows of padding
    # Such large weights amplify rounding: values differ by up to 7e-6.
    assert (of_next(found, ids) - of_next(expected, ids)).abs().max() < TOLERANCE
    assert (found - expected).abs().max() < 2 * TOLERANCE
    assert type(loaded.model).__name__ == (
        "NanoChat2026ForCausalLM" if "2026" in name else "NanoChatForCausalLM"
    )
    assert loaded.identity.step == 7


@pytest.mark.parametrize(("context", "short"), [(128, 128), (512, 128), (513, 256), (2048, 512)])
def test_windows(context: int, short: int) -> None:
    config = NanoChat2026Config(max_position_embeddings=context, num_hidden_layers=6)
    assert config.windows() == [short, short, short, context, short, context]


# --- the tokenizer --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pickled(real: Path) -> Path:
    return real / "tokenizer" / "tokenizer.pkl"


@pytest.fixture(scope="module")
def ranks(pickled: Path) -> dict[bytes, int]:
    return read_encoding(pickled).ranks


@pytest.fixture(scope="module")
def tokenizer(d4: Checkpoint) -> Tokenizer:
    return d4.tokenizer


def test_texts_that_the_program_encoded(tokenizer: Tokenizer, reference: dict[str, Any]) -> None:
    stored = reference["tokenizer"]["encodings"]
    assert "<|bos|> is text here" in [entry["text"] for entry in stored]
    for entry in [*stored, *(s for s in reference["sequences"] if "text_starts_at" in s)]:
        ids = entry["ids"][entry.get("text_starts_at", 0) :]
        assert tokenizer.encode([entry["text"]])[0] == ids
        assert tokenizer.decode(ids) == entry["text"]


TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(
        alphabet=" \n\r\t'sSdmtlLvVrReEaho12,.!-é日\u00a0\u2003\u017f\u0130🙂<|bos>", max_size=40
    ),
)


@given(text=TEXTS)
def test_any_text_is_encoded_as_tiktoken_does(
    tokenizer: Tokenizer, ranks: dict[bytes, int], text: str
) -> None:
    assert tokenizer.encode([text])[0] == naive.encode(text, ranks)


def test_real_text_is_encoded_as_tiktoken_does(
    tokenizer: Tokenizer, ranks: dict[bytes, int], data_dir: Path
) -> None:
    text = (data_dir / "tinyshakespeare" / "input.txt").read_text("utf-8")[:100_000]
    assert tokenizer.encode([text])[0] == naive.encode(text, ranks)


def test_tiktoken_itself(tokenizer: Tokenizer, pickled: Path, data_dir: Path) -> None:
    pytest.importorskip("tiktoken")
    encoding = pickle.loads(pickled.read_bytes())
    files = ("tinyshakespeare/input.txt", "ptb/ptb.test.txt", "wikitext-2/wiki.test.tokens")
    found = [data_dir / file for file in files if (data_dir / file).is_file()]
    texts = [file.read_text("utf-8")[:200_000] for file in found]
    texts += [f"a{chr(c)}b {chr(c)}" for c in range(0x3000)]
    assert tokenizer.encode(texts) == encoding.encode_ordinary_batch(texts)


@given(
    tokens=st.lists(st.text(alphabet="ab", min_size=2, max_size=5), unique=True, max_size=12),
    text=st.text(alphabet="ab", max_size=30),
)
def test_merges_follow_the_ranks_whatever_the_tokens_are(tokens: list[str], text: str) -> None:
    ranks = BYTES | {token.encode(): 256 + i for i, token in enumerate(tokens)}
    for pattern in ("[ab]+|.", "a?b?"):  # the second one leaves out what it does not match
        encoding = Encoding(pattern, ranks, {})
        backend = transformers_tokenizer(encoding, Path("x")).backend_tokenizer
        assert backend.encode(text).ids == naive.encode(text, ranks, pattern)


def test_a_tokenizer_by_option(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "c", MODELS["2026 even"])
    moved = shutil.move(tmp_path / "a" / "tokenizer", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"no tokenizer: there is no tokenizer.pkl beside it"):
        load(str(path), CPU)
    digests = {
        load(str(path), Settings(device="cpu", tokenizer=str(place))).identity.tokenizer
        for place in (moved, Path(moved) / "tokenizer.pkl")
    }
    shutil.copy(Path(moved) / "tokenizer.pkl", path.parent)
    assert digests == {load(str(path), CPU).identity.tokenizer}


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_tokenizer_that_would_run_code(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.pkl", state={"pat_str": Evil(tmp_path / "owned")})
    with pytest.raises(CheckpointError, match=r"calls for .*open, which was not run"):
        encoding_tokenizer(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("gpt2", "not that of a tiktoken.Encoding"),  # how tiktoken pickles its own encodings
        ({"pat_str": 1, "mergeable_ranks": BYTES, "special_tokens": {}}, "not that of a"),
        ({"pat_str": ".", "mergeable_ranks": {"a": 1}, "special_tokens": {}}, "not that of a"),
        ({"pat_str": ".", "mergeable_ranks": {b"a": 0}, "special_tokens": {}}, "the byte 0x00"),
        ({"pat_str": ".", "mergeable_ranks": BYTES, "special_tokens": {"x": 300}}, "257 token ids"),
        ({"pat_str": ".", "mergeable_ranks": {**BYTES, b"ab": 255}, "special_tokens": {}}, "ids"),
        ({"pat_str": "(", "mergeable_ranks": BYTES, "special_tokens": {}}, "its pattern '\\('"),
    ],
)
def test_a_tokenizer_that_makes_no_sense(state: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        encoding_tokenizer(write_tokenizer(tmp_path / "x.pkl", state=state)).write(tmp_path)


# --- what is chosen, and what is refused ----------------------------------------------------


def test_the_newest_complete_checkpoint_of_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, form = tmp_path / "base_checkpoints" / "d0", NanoChat()
    sizes = MODELS["2026 of one layer"]
    for step in (999_999, 20, 1_000_000):
        write(folder, sizes, step=step)
    located = locate(str(folder), CPU)
    assert located.step == 1_000_000
    assert "at step 1,000,000 (model_1000000.pt, the newest of 3)" in caplog.text
    meta = folder / "meta_1000000.json"
    meta.write_text(meta.read_text()[:-9])  # as while it is being written
    assert locate(str(folder), CPU).step == 999_999
    assert [form.is_complete(folder / f"model_{s}.pt") for s in ("000020", "1000000")] == [
        True,
        False,
    ]
    assert form.is_complete(folder)
    with pytest.raises(CheckpointError, match=r"meta_1000000.json cannot be read .* cut short"):
        locate(str(folder / "model_1000000.pt"), CPU)


def test_an_optimizer_state_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "c", MODELS["2025"])
    before = locate(str(path), CPU).folder
    torch.save({"state": torch.ones(9)}, path.with_name("optim_000007_rank0.pt"))
    assert locate(str(path.parent), CPU).folder == before


Change = Callable[[dict[str, Tensor]], object]
GATE = "transformer.h.2.attn.ve_gate.weight"


def without(*words: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        for name in [n for n in state if any(word in n for word in words)]:
            del state[name]

    return change


def january(state: dict[str, Tensor]) -> None:
    without("smear", "backout")(state)
    for name in [name for name in state if "ve_gate" in name]:
        state[name] = torch.zeros(1, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("smear", "backout", "value_embeds", "ve_gate"), "2026-01-11 to 01-16"),
        (january, "2026-01-16 to 03-09, whose logits are capped at 15 or, since 03-03, at 20"),
        (without("smear", "backout"), "2026-03-09 to 03-14"),
    ],
)
def test_layouts_between_are_refused(change: Change, message: str, tmp_path: Path) -> None:
    state = random_state(MODELS["2026"])
    change(state)
    path = write(tmp_path / "a" / "b" / "c", MODELS["2026"], state)
    line = (
        rf"it has (resid_lambdas|.*ve_gate.weight), but no smear_gate.weight .*{message}.* --model"
    )
    with pytest.raises(CheckpointError, match=line):
        locate(str(path), CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("smear_lambda"), "smear_lambda is missing"),
        (without("smear_gate"), "smear_gate.weight is missing"),
        (without("h.1.mlp.c_fc"), r"transformer.h.1.mlp.c_fc.weight is missing"),
        (lambda state: state.update(bigram=torch.ones(1)), "bigram is left over"),
        (lambda state: state.update({GATE: torch.ones(1, 32)}), r"ve_gate.* the shape \[1, 32\]"),
        (lambda state: state.update(x0_lambdas=torch.ones(3, dtype=torch.int32)), "torch.int32"),
        (lambda state: state.update(smear_lambda=0.5), "'smear_lambda' in its model is a float"),
        (lambda state: state.update({"module.smear_lambda": torch.ones(1)}), "smear_lambda twice"),
    ],
)
def test_other_tensors_are_refused(change: Change, message: str, tmp_path: Path) -> None:
    state = random_state(MODELS["2026"])
    change(state)
    path = write(tmp_path / "a" / "b" / "c", MODELS["2026"], state)
    with pytest.raises(CheckpointError, match=message):
        locate(str(path), CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": None}, "n_layer in model_config is None; expected a positive number"),
        ({"n_layer": 2**40 + 1}, r"transformer.h.3.attn.c_q.weight is missing"),
        ({"n_layer": 2}, "transformer.h.1.attn.ve_gate.weight is missing"),
        ({"n_head": 5}, "do not go together"),
        ({"vocab_size": 256}, r"wte.weight has the shape \[320, 48\] .* expected \[256, 48\]"),
        ({"window_pattern": "SLX"}, "window_pattern in model_config is 'SLX'; expected letters S"),
        ({"window_pattern": None}, "has no window_pattern"),
        ({"softcap": 20}, "model_config has 'softcap', which no known layout"),
    ],
)
def test_other_sizes_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "c", MODELS["2026"])
    meta = path.with_name("meta_000007.json")
    stored = json.loads(meta.read_text())
    stored["model_config"] |= changes
    meta.write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=message):
        locate(str(path), CPU)


def test_windows_of_a_layout_that_has_none(tmp_path: Path) -> None:
    sizes = MODELS["2025"]
    path = write(
        tmp_path / "a" / "b" / "c", sizes._replace(window_pattern="L"), random_state(sizes)
    )
    with pytest.raises(
        CheckpointError, match="has window_pattern, unlike every model of nanochat's"
    ):
        locate(str(path), CPU)


def test_a_model_without_its_meta_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "c", MODELS["2025"])
    moved = path.with_name("meta_000007.json").rename(tmp_path / "moved.json")
    with pytest.raises(CheckpointError, match=r"without its meta file, .* --model-config FILE"):
        locate(str(path.parent), CPU)
    assert locate(str(path), Settings(config_file=moved)).step == 7


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "c", MODELS["2025"])
    write_tokenizer(path.with_name("tokenizer.pkl"), pairs=10)
    with pytest.raises(CheckpointError, match="has 269 tokens, the model 300; they do not belong"):
        locate(str(path), CPU)


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "c", MODELS["2025"])
    whole = path.read_bytes()
    for size in range(len(whole) // 12, len(whole), len(whole) // 12):
        path.write_bytes(whole[:size])
        with pytest.raises(
            CheckpointError, match=r"model_000007.pt cannot be read: it is cut short"
        ):
            locate(str(path.parent), CPU)


def test_files_of_other_programs_are_not_recognised(tmp_path: Path) -> None:
    torch.save({"model": random_state(MODELS["2025"])}, tmp_path / "model_000001.pt")
    torch.save([1], tmp_path / "model_000002.pt")
    for path in (tmp_path, tmp_path / "model_000001.pt", tmp_path / "model_000002.pt"):
        assert not NanoChat().recognises(Candidate(path))
