"""The tokenizers of checkpoints that were written without one, and --tokenizer."""

import hashlib
import json
import math
import os
import pickle
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from console import harness, made_record, record_files, refused
from test_gpt2_formats import CPU, LETTERS, as_linear, gpt2, real, write_meta, write_nanogpt
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from harness.commands.setup import checkpoint_checks, doctor
from harness.engine.checkpoint.formats.format import Candidate, ReadOptions
from harness.engine.checkpoint.formats.gpt2 import tokenizer as search
from harness.engine.checkpoint.formats.pickles import read_plain_pickle
from harness.engine.checkpoint.load import load, load_tokenizer
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError
from harness.records.record import Record

ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
ODD = "  two  spaces\t\n\n it's we'LL 12345 ünïcödé 日本語 🙂 <|endoftext|> \x00 end "


@pytest.fixture(scope="module")
def bpe(data_dir: Path) -> Path:
    folder = data_dir / "gpt2-bpe"
    if not folder.is_dir():
        pytest.skip("HARNESS_DATA has no folder gpt2-bpe with GPT-2's vocabulary")
    return folder


@pytest.fixture(autouse=True)
def no_tokenizer_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "no-tiktoken"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)  # read by `data_dir` before


def written(found: Any, folder: Path) -> Tokenizer:
    folder.mkdir()
    found.write(folder)
    return load_tokenizer(folder, "x", CPU)


def in_tiktoken_cache(bpe: Path, cache: Path) -> None:
    """As tiktoken keeps the files that it has fetched."""
    cache.mkdir()
    for name in ("encoder.json", "vocab.bpe"):
        key = hashlib.sha1(f"{ADDRESS}{name}".encode()).hexdigest()
        shutil.copy(bpe / name, cache / key)


def texts(data_dir: Path) -> list[str]:
    path = data_dir / "wikitext-2" / "wiki.test.tokens"
    if not path.exists():
        pytest.skip("HARNESS_DATA has no wikitext-2")
    return [*path.read_text("utf-8").split("\n")[:400], ODD]


def test_gpt2_encodes_as_published(
    data_dir: Path, bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the data folder, tiktoken's cache and files beside the checkpoint alike."""
    backend = Backend(models.BPE.from_file(str(bpe / "encoder.json"), str(bpe / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected = [backend.encode(text).ids for text in texts(data_dir)]
    nowhere = Candidate(tmp_path / "out" / "model.bin")
    of_data = search.find_tokenizer(nowhere, ReadOptions(data_dir=data_dir), rows=50304)
    tokenizer = written(of_data, tmp_path / "one")
    assert tokenizer.encode(texts(data_dir)) == expected
    assert tokenizer.start_tokens("auto") == (50256,)
    assert tokenizer.end_tokens == {50256}
    cache = tmp_path / "cache-of-tiktoken"
    in_tiktoken_cache(bpe, cache)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    of_cache = search.find_tokenizer(nowhere, ReadOptions(), rows=50257)
    assert of_cache.key == of_data.key
    assert written(of_cache, tmp_path / "two").digest == tokenizer.digest
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # tiktoken's way to have none
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(bpe / "encoder.json", beside / "vocab.json")
    shutil.copy(bpe / "vocab.bpe", beside / "merges.txt")
    found = search.find_tokenizer(Candidate(beside / "model.bin"), ReadOptions(), rows=50257)
    assert written(found, tmp_path / "three").digest == tokenizer.digest


def test_gpt2_encodes_as_tiktoken(
    data_dir: Path, bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("tiktoken") is None:
        pytest.skip("tiktoken is not installed")
    import tiktoken

    in_tiktoken_cache(bpe, tmp_path / "cache")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    theirs = tiktoken.get_encoding("gpt2")
    found = search.find_tokenizer(Candidate(tmp_path / "x.bin"), ReadOptions(), rows=50257)
    ours = written(found, tmp_path / "ours")
    assert ours.encode(texts(data_dir)) == [theirs.encode_ordinary(t) for t in texts(data_dir)]


def test_gpt2_of_the_hub(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's local cache under both names comes before the network."""
    asked = []

    def snapshot(name: str, on_this_machine: bool) -> Path | None:
        asked.append((name, on_this_machine))
        return tiny_folder if name == "gpt2" else None

    monkeypatch.setattr(search, "_snapshot", snapshot)
    found = search.find_tokenizer(Candidate(tmp_path / "x.bin"), ReadOptions(), rows=50257)
    assert found.origin == "gpt2 of the hub"
    assert written(found, tmp_path / "own").digest == load(str(tiny_folder), CPU).tokenizer.digest
    assert asked == [("openai-community/gpt2", True), ("gpt2", True)]


def test_no_tokenizer_names_every_way(tmp_path: Path) -> None:
    path = write_nanogpt(tmp_path / "ckpt.pt", as_linear(gpt2(50304)), 50304)
    line = refused("lambada", "--model", path, "--sample")
    for way in ("tiktoken", "gpt2-bpe", "--data-dir", "tokenizer.json", "--tokenizer", "hub"):
        assert way in line
    small = write_nanogpt(tmp_path / "small" / "ckpt.pt", as_linear(gpt2(300)), 300)
    write_meta(small.with_name("meta.pkl"))  # of another model
    line = refused("lambada", "--model", small, "--sample")
    assert "has embeddings of 300 tokens, GPT-2's tokenizer has 50,257" in line


def test_a_damaged_vocabulary_is_not_used(
    tmp_path: Path, bpe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data" / "gpt2-bpe"
    folder.mkdir(parents=True)
    for file in bpe.iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        search.find_tokenizer(
            Candidate(tmp_path / "x.bin"), ReadOptions(data_dir=tmp_path / "data"), rows=50257
        )
    assert "encoder.json is not the file that OpenAI published" in caplog.text


# --- characters ------------------------------------------------------------------------------


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A nanoGPT of 27 characters, with the meta.pkl of its data."""
    write_meta(tmp_path / "data" / "letters" / "meta.pkl")
    return write_nanogpt(tmp_path / "out" / "ckpt.pt", as_linear(gpt2(27)), 27)


def test_text8_is_scored_as_a_plain_loop_does(letters: Path, tmp_path: Path) -> None:
    """27 symbols without a start token: the first is given, each later one is scored once."""
    text = "the ants carried the sand to the hill and then to the sea " * 9
    file = tmp_path / "text8"
    file.write_text(text)
    words = ("text8", "--model", letters, "--data-file", file, "--out", tmp_path / "records")
    [record] = json.loads(harness(*words, "--json", "--no-cache").out)["records"]
    [score] = record["scores"]
    ids = torch.tensor([LETTERS.index(c) for c in text])
    model = gpt2(27).eval()
    nats = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, 32):
            window = ids[start : start + 33]
            logprobs = model(window[None, :-1]).logits[0].double().log_softmax(-1)
            nats -= float(logprobs.gather(1, window[1:, None]).sum())
    assert score["value"] == pytest.approx(nats / len(text) / math.log(2), rel=1e-6)


def test_characters_that_a_model_lacks(letters: Path, tmp_path: Path) -> None:
    """Before the scored word they are left out and counted; in it they are refused."""
    rows = tmp_path / "lambada_test.jsonl"
    rows.write_text(json.dumps({"text": "The ants saw 12 hills and then the sea"}) + "\n")
    words = ("lambada", "--model", letters, "--data-file", rows, "--out", tmp_path / "records")
    result = harness(*words)
    assert result.code == 0
    assert "warning: lossy tokenizer: it loses text of 2 of 2 requests" in result.out
    rows.write_text(json.dumps({"text": "the ants saw twelve hills and then the Sea"}) + "\n")
    assert "the tokenizer has no token for 'S', which is to be scored" in refused(*words)


def test_a_character_tokenizer(tmp_path: Path) -> None:
    symbols = "\n ab.é日<|endoftext|>"
    symbols = "".join(dict.fromkeys(symbols))
    found = search.character_tokenizer(write_meta(tmp_path / "meta.pkl", symbols))
    tokenizer = written(found, tmp_path / "written")
    text = "a b\n\né日 ab.. <|endoftext|>"
    assert tokenizer.encode([text]) == [[symbols.index(c) for c in text]]
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    ids, starts = tokenizer.encode_with_starts(text)
    assert len(ids) == len(text)
    assert starts.tolist() == list(range(len(text)))
    assert tokenizer.start_tokens("auto") == ()
    assert tokenizer.end_tokens == frozenset()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vocab_size": 3}, "has no stoi"),
        ([1, 2], "has no stoi"),
        ({"stoi": {"ab": 0}}, "maps 'ab' to 0; expected single characters"),
        ({"stoi": {"a": "0"}}, "maps 'a' to '0'"),
        ({"stoi": {"a": 1, "b": 1}}, "two characters the same id"),
        ({"stoi": Path("x")}, r"calls for pathlib\.PosixPath, which was not run"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        search.character_tokenizer(path)


class Stub:
    """Stands for another class."""


def test_a_stub_stands_for_a_class(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"value": Given(3)}))
    with pytest.raises(CheckpointError, match="Given, which was not run"):
        read_plain_pickle(path)
    found = read_plain_pickle(path, {f"{__name__}.Given": Stub})["value"]
    assert type(found) is Stub
    assert vars(found) == {"number": 3}
    for end in range(0, path.stat().st_size - 1, 7):
        short = tmp_path / "short.pkl"
        short.write_bytes(path.read_bytes()[:end])
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            read_plain_pickle(short, {f"{__name__}.Given": Stub})


class Given:
    def __init__(self, number: int) -> None:
        self.number = number


class Hostile:
    """Would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_pickle_is_run(tmp_path: Path, zipped: bool) -> None:
    place = tmp_path / "made"
    for content in (Hostile(place), {"model": {}, "model_args": {"n_embd": Hostile(place)}}):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"calls for posix\.mkdir, which was not run"):
            assert Candidate(tmp_path / "x.pt").pickle
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Hostile(place)))
    with pytest.raises(CheckpointError, match=r"calls for posix\.mkdir"):
        read_plain_pickle(tmp_path / "x.pkl")
    assert not place.exists()


# --- --tokenizer -----------------------------------------------------------------------------


def test_a_given_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    """A folder, its tokenizer.json, a file of another name, and meta.pkl."""
    own = load(str(tiny_folder), CPU).tokenizer
    alone = tmp_path / "alone"
    alone.mkdir()
    file = shutil.copy(tiny_folder / "tokenizer.json", alone / "mine.json")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tiny_folder / "tokenizer.json", only)
    model = save_tiny(tmp_path / "model", seed=3)
    for path in (model / "tokenizer.json", model / "tokenizer_config.json"):
        path.unlink()
    for name in (tiny_folder, tiny_folder / "tokenizer.json", file, only, only / "tokenizer.json"):
        found = load(str(model), replace(CPU, tokenizer=str(name)))
        assert found.tokenizer.digest == own.digest == found.identity.tokenizer
        assert found.tokenizer.start_tokens("auto") == own.start_tokens("auto")
    meta = write_meta(tmp_path / "meta.pkl")
    letters = load(str(model), replace(CPU, tokenizer=str(meta))).tokenizer
    assert letters.encode(["a z"]) == [[0, 26, 25]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", "there is no file or folder of that name"),
        ("empty", "has no tokenizer; expected tokenizer.json"),
        ("noise.bin", "expected a tokenizer.json, meta.pkl of characters, or"),
        ("noise.json", "has no tokenizer that can be loaded"),
    ],
)
def test_no_tokenizer_of_that_name(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.bin").write_bytes(b"noise")
    (tmp_path / "noise.json").write_bytes(b"{}")
    line = refused("lambada", "--model", tiny_folder, "--sample", "--tokenizer", name)
    assert "--tokenizer" in line
    assert message in line


def test_a_tokenizer_that_does_not_fit_is_refused(letters: Path, tiny_folder: Path) -> None:
    line = refused("text8", "--model", letters, "--sample", "--tokenizer", tiny_folder)
    assert "its tokenizer has 263 entries, its vocabulary only 27" in line


# --- records and commands --------------------------------------------------------------------


def test_the_signature_has_the_model_options() -> None:
    plain = made_record()
    model = {**plain.model, "options": {"vocabulary": "27", "activation": "gelu"}}
    record = replace(plain, model=model)
    assert "model:" not in str(plain.signature)
    assert "|model:activation=gelu,vocabulary=27" in str(record.signature)
    assert Record.from_json(record.to_json(), "x").signature == record.signature
    difference = {"model options": ("none", "activation=gelu,vocabulary=27")}
    assert plain.signature.diff(record.signature) == difference
    assert plain.signature.identity() == record.signature.identity()


def test_table3_of_a_nanogpt(data_dir: Path, bpe: Path, tmp_path: Path) -> None:
    path = real(data_dir, "nanogpt-bpe", "ckpt.pt")
    words = ("table3", "--model", path, "--data-dir", data_dir, "--limit", "1", "--no-cache")
    result = harness(*words, "--out", tmp_path, "--signatures")
    assert result.code == 0
    assert len(record_files(tmp_path)) == 9  # LAMBADA fills two of the ten columns
    assert "1BW PPL" in result.out
    assert "model:activation=gelu,vocabulary=50304" in result.out
    assert "a checkpoint of nanoGPT at step 100" in result.err


def test_doctor_compares_activations(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly one of two activations has the lower loss; an untrained model tells nothing."""
    other = replace(CPU, options=(("activation", "gelu_new"),))
    pairs = [(load(str(letters), settings), settings) for settings in (CPU, other)]
    found = [doctor._check_activation(*pair) for pair in pairs]
    assert [finding.state for finding in found] == ["ok", "ok"]
    assert all(finding.seen.endswith("both too high to tell which is right") for finding in found)
    monkeypatch.setattr(checkpoint_checks, "WELL_TRAINED", 99)
    found = [doctor._check_activation(*pair) for pair in pairs]
    assert sorted(finding.state for finding in found) == ["ok", "warn"]
    [warning] = [finding for finding in found if finding.state == "warn"]
    better = "gelu_new" if found[0] is warning else "gelu"
    assert f"add --model-option activation={better}" in warning.advice
