"""Whatever is wrong: one clear line on standard error, exit code 2, nothing written half."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, save_tiny
from console import harness, record_files, refused
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from harness.commands.evaluate import session
from harness.runner import evaluate
from harness.tasks import nq

LAMBADA_URL = "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl"


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """The output folder; nothing that is refused leaves a file in it."""
    folder = tmp_path / "records"
    yield folder
    assert record_files(folder) == []


@pytest.fixture
def base(tiny_folder: Path, out: Path) -> list[Any]:
    return ["--model", tiny_folder, "--device", "cpu", "--out", out]


@pytest.fixture
def sample(base: list[Any]) -> list[Any]:
    return [*base, "--sample", "--limit", "2"]


# --- names and options --------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["lamda"], ["tasks", "lamda"], ["show", "lamda", "--model", "x"]]
)
def test_unknown_benchmark_names_the_nearest(words: list[str]) -> None:
    line = refused(*words)
    assert "'lamda'; did you mean lambada" in line
    assert "wikitext103" not in line, "too many to list"
    assert "(see `harness" in line


def test_unknown_command_line_option_names_the_nearest() -> None:
    line = refused("lambada", "--modle", "x")
    assert "No such option '--modle'" in line
    assert "--model" in line
    assert line.endswith("see harness lambada --help")


def test_missing_model() -> None:
    assert "Missing option '--model'; see harness lambada --help" in refused("lambada")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "filtr=off"], "lambada has no option 'filtr'; did you mean filter?"),
        (["--set", "filter=maybe"], "choose from: word, first-token, every-token, off"),
        (["--set", "filter"], "--set 'filter': expected key=value"),
        (["--set", "filter=off"], "acc=word-stopfilter needs a filter"),
        (["--protocol", "papr"], "no protocol 'papr'; did you mean paper? (known: paper, lm-eval"),
        (["--dtype", "int8"], "'int8' is not one of 'float32', 'bfloat16', 'float16'"),
        (["--limit", "0"], "'--limit': 0 is not in the range x>=1"),
        (["--limit", "-3"], "'--limit': -3 is not in the range x>=1"),
        (["--limit", "many"], "'many' is not a valid integer"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--context", "3"], "3 is not in the range x>=8"),
        (["--context", "999"], "--context 999 is longer than the model's 256 positions"),
        (["--batch-tokens", "0"], "0 is not in the range x>=1"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["--device", "meta"], "device 'meta' holds no numbers; this machine has: cpu"),
        (["--data-file", "x.jsonl"], "--data-file and --sample name different rows"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_options_say_what_is_allowed(sample: list[Any], words: list[str], expected: str) -> None:
    assert expected in refused("lambada", *sample, *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--size", "3B"], "the paper has no model '3B'; choose from: 117M, 345M, 762M, 1542M"),
        (["--protocol", "papr"], "no task has a protocol 'papr'; did you mean paper?"),
        (
            ["--set", "strid=32"],
            "no task has an option 'strid'; did you mean stride or stream?",
        ),
        (["--set", "stride=x"], "'x' is not allowed; choose from: context, a positive whole"),
        (["--set", "stride"], "--set 'stride': expected key=value"),
        (["--limit", "0"], "'--limit': 0 is not in the range x>=1"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_table3_refuses_what_no_benchmark_has(
    sample: list[Any], words: list[str], expected: str
) -> None:
    assert expected in refused("table3", *sample, *words)


def test_table3_takes_no_single_file(base: list[Any]) -> None:
    line = refused("table3", *base, "--data-file", "x")
    assert "No such option '--data-file'" in line


def test_one_dump_is_for_one_model(sample: list[Any], tmp_path: Path) -> None:
    line = refused("ptb", *sample, "--model", "other", "--dump", tmp_path / "x")
    assert "--dump takes the items of one model; 2 were given" in line


# --- data ---------------------------------------------------------------------------------


def test_no_data_says_where_each_road_would_find_it(base: list[Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for words, folder in (([], "none was given"), (["--data-dir", tmp_path / "data"], "data'")):
        line = refused("lambada", *base, *words)
        assert "looked for lambada_test.jsonl" in line
        assert folder in line
        assert LAMBADA_URL in line
        assert "--hub (EleutherAI/lambada_openai, data/lambada_test.jsonl)" in line
        assert "--sample" in line


def test_data_folder_that_does_not_exist(base: list[Any]) -> None:
    line = refused("lambada", *base, "--data-dir", "nowhere")
    assert "data folder 'nowhere' does not exist; give --data-dir a folder" in line


def test_data_file_that_does_not_exist(base: list[Any]) -> None:
    line = refused("lambada", *base, "--data-file", "gone.jsonl")
    assert "cannot read 'gone.jsonl': No such file or directory; give --data-file" in line


@pytest.mark.parametrize(
    ("task", "content", "expected"),
    [
        ("lambada", b"", "is empty"),
        ("wikitext2", b"", "is empty"),
        ("lambada", b'{"text": "a b"}\nfoo\n', "line 2: expected a JSON object with the text key"),
        ("lambada", b'{"text": 3}\n', "line 1: expected a JSON object with the text key"),
        ("cbt-cn", b"one line\n", "line 1: expected a sentence numbered 1, got 'one line'"),
        ("lambada", '{"text": "caf\xe9 a"}'.encode("latin1"), "line 1: expected UTF-8, got byte"),
        ("wikitext2", b" a \n caf\xe9 \n", "line 2: expected UTF-8, got byte 0xe9"),
        ("ptb", "a b".encode("utf-16"), "expected UTF-8, got UTF-16; save the file as UTF-8"),
    ],
)
def test_wrong_files_are_named_with_their_first_bad_line(
    base: list[Any], tmp_path: Path, task: str, content: bytes, expected: str
) -> None:
    path = tmp_path / "wrong.file"
    path.write_bytes(content)
    line = refused(task, *base, "--data-file", path)
    assert "wrong.file" in line
    assert expected in line


def test_wrong_checksum_is_refused_by_strict_and_noted_without(
    base: list[Any], tmp_path: Path, out: Path
) -> None:
    path = tmp_path / "lambada_test.jsonl"
    path.write_text('{"text": "the sand and the sea"}\n' * 3)
    line = refused("lambada", *base, "--data-dir", tmp_path, "--strict")
    assert "lambada_test.jsonl has sha256" in line
    assert "the published file 4aa8d02cd17c..." in line
    assert "has 3 rows, the published data 5153; refused by --strict" in line
    words = ["--protocol", "lm-eval", "--data-dir", tmp_path]
    result = harness("lambada", *base, *words)
    assert result.code == 0
    assert "note: lambada_test.jsonl has 3 rows, the published data 5153" in result.out
    shutil.rmtree(out)


def test_strict_reaches_the_example_pool(base: list[Any], tmp_path: Path, out: Path) -> None:
    sample = Path(str(files("tasks") / "samples" / "NQ-open.dev.sample.jsonl")).read_bytes()
    dev, train = tmp_path / "NQ-open.dev.jsonl", tmp_path / "NQ-open.train.jsonl"
    dev.write_bytes(sample)
    words = ["nq", *base, "--strict", "--limit", "1"]
    # The questions themselves are what is published here, so that only the pool is wrong.
    published = replace(nq.DEV, sha256=(hashlib.sha256(sample).hexdigest(),), rows=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nq, "DEV", published)
        line = refused(*words, "--data-dir", tmp_path)
        assert "no data for NQ-open, train questions: looked for NQ-open.train.jsonl" in line
        train.write_text('{"question": "who", "answer": ["Ann"]}\n' * 30)
        line = refused(*words, "--data-dir", tmp_path)
        assert "NQ-open.train.jsonl has sha256" in line
        assert "NQ-open.train.jsonl has 30 rows, the published data 87925; refused by" in line
        assert harness("nq", *base, "--limit", "1", "--data-dir", tmp_path).code == 0
    few = ["--limit", "1", "--set", "shots=1"]
    assert harness("nq", *base, "--strict", "--sample", *few).code == 0, "it was requested"
    shutil.rmtree(out)


def test_data_that_would_take_the_program_down(base: list[Any], tmp_path: Path) -> None:
    """One of each kind through the whole program; `test_hostile_data.py` has the others."""
    path = tmp_path / "wrong.file"
    for task, content, words in (
        ("lambada", "[" * 100_000, "wrong.file is not .*nested too deeply"),
        ("lambada", '{"text": "a b", "x": 1e999}', "line 1: .*1e999 is not a finite number"),
        ("cbt-cn", "9" * 5000 + " One .", "line 1: expected a sentence numbered 1"),
        ("coqa", "[" * 100_000, "line 1: .*nested too deeply"),
    ):
        path.write_text(content)
        assert re.search(words, refused(task, *base, "--data-file", path))


# --- checkpoints --------------------------------------------------------------------------


def model_refused(folder: object, out: Path, *words: object, task: str = "ptb") -> str:
    options = ["--device", "cpu", "--out", out, "--sample", "--limit", 2]
    return refused(task, "--model", folder, *options, *words)


def test_no_such_model(out: Path) -> None:
    line = model_refused("nobody/nothing", out)
    assert "model 'nobody/nothing': there is no folder of that name, and HF_HUB_OFFLINE" in line


@pytest.mark.parametrize(
    "name", ["./gone", "/gone", "~/gone", "~nobody/gone", "out/gone.pt", "a/b/c", "gone.gguf"]
)
def test_no_such_path(name: str, out: Path) -> None:
    line = model_refused(name, out)
    assert f"model {name!r}: there is no file or folder" in line
    assert "hub" not in line


def test_name_that_is_too_long_for_a_file(out: Path, tiny_folder: Path) -> None:
    assert "cannot be read (File name too long)" in model_refused("x" * 300, out)
    for name in ("x" * 300, "~nobody/gone"):
        line = model_refused(tiny_folder, out, "--tokenizer", name)
        assert f"--tokenizer '{name[:50]}" in line
        assert "there is no file or folder of that name" in line


def test_folder_without_config(out: Path, tmp_path: Path) -> None:
    line = model_refused(tmp_path, out)
    assert (
        "is not a checkpoint: it has no config.json; expected the output of save_pretrained" in line
    )


def test_broken_config(out: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert "cannot be loaded as a causal language model" in model_refused(tmp_path, out)


def test_folder_without_weights(out: Path, tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copy(tiny_folder / "config.json", tmp_path)
    assert "has no weights; expected *.safetensors in" in model_refused(tmp_path, out)


def test_damaged_weights(out: Path, tmp_path: Path, tiny_folder: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be loaded as a causal language model: SafetensorError" in model_refused(
        folder, out
    )


def test_a_file_that_is_no_gguf(out: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    line = model_refused(tmp_path / "model.gguf", out)
    assert "model.gguf is not a checkpoint of a known format (GGUF" in line
    assert r"it begins with b'PK\x03\x04'" in line


def test_a_gguf_that_is_damaged(out: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    assert "model.gguf cannot be read as a GGUF model" in model_refused(
        tmp_path / "model.gguf", out
    )


def test_model_without_tokenizer(out: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    line = model_refused(folder, out)
    assert "has no tokenizer; expected tokenizer.json, or vocab.json with merges.txt" in line


@pytest.mark.parametrize("named", [True, False])
def test_encoder_only_model(out: Path, tmp_path: Path, named: bool) -> None:
    """Found by its config, or, where that does not say, because later tokens change earlier states.

    The weights are as small as a fresh encoder's, so that the change is small too.
    """
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    if not named:
        path = tmp_path / "bert" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": None}))
    line = model_refused(tmp_path / "bert", out)
    assert (
        "is an encoder (BertForMaskedLM)" if named else "is not a causal language model"
    ) in line


def test_encoder_decoder_model(out: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    line = model_refused(tmp_path / "t5", out)
    assert "is an encoder-decoder (t5); expected a causal language model" in line


def test_tokenizer_larger_than_the_vocabulary(out: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    config = GPT2Config(
        vocab_size=100, n_layer=1, n_head=2, n_embd=32, n_positions=64, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    line = model_refused(tmp_path / "model", out)
    assert f"its tokenizer has {len(tokenizer)} entries, its vocabulary only 100" in line


@pytest.mark.parametrize("where", ["one position", "everywhere"])
def test_nan_logits_name_the_item(out: Path, tmp_path: Path, where: str) -> None:
    folder = save_tiny(tmp_path / "model", context=512)
    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        if where == "one position":  # beyond what the checks at load look at
            model.transformer.wpe.weight[40, 0] = float("nan")
        else:
            model.transformer.h[0].mlp.c_fc.weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    line = model_refused(folder, out, "--protocol", "lm-eval", task="lambada")
    assert "lambada example " in line
    assert "a log-probability is nan, expected a finite number" in line


def test_truncation_is_refused_by_strict_before_anything_runs(out: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", context=64)
    words = ["--strict", "--protocol", "lm-eval"]
    line = model_refused(folder, out, *words, task="lambada")
    assert "lambada example " in line
    assert "a request is cut to fit the context (2 in all); refused by --strict" in line


# --- outputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "sub"])
def test_output_folder_that_cannot_be_made(tiny_folder: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    words = ["--model", tiny_folder, "--device", "cpu", "--sample"]
    line = refused("lambada", *words, "--out", tmp_path / "file" / below)
    assert "cannot write to output folder" in line
    assert "give --out a folder that can be written" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["file/x", "folder"])
def test_dump_that_cannot_be_written(sample: list[Any], tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    line = refused("ptb", *sample, "--dump", tmp_path / place)
    assert "cannot write --dump" in line
    assert "name a file that can be written" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_dump_on_a_full_disk(sample: list[Any]) -> None:
    line = refused("ptb", *sample, "--dump", "/dev/full")
    assert "cannot write --dump '/dev/full': No space left on device" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "harness", "tasks", "ptb"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr == "harness: cannot write the output: No space left on device\n"


def test_a_refused_run_leaves_an_older_dump_alone(
    sample: list[Any], tmp_path: Path, out: Path
) -> None:
    (tmp_path / "old.jsonl").write_text("old\n")
    for name in ("old.jsonl", "new.jsonl"):
        refused("ptb", *sample, "--device", "tpu9", "--dump", tmp_path / name)
    assert (tmp_path / "old.jsonl").read_text() == "old\n"
    assert not (tmp_path / "new.jsonl").exists()


# --- interruption -------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def second_time(job: Any, *rest: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(job.task.name)
        return evaluate(job, *rest)

    monkeypatch.setattr(session, "evaluate", second_time)
    out = tmp_path / "records"
    words = ["--model", tiny_folder, "--device", "cpu", "--sample", "--limit", "1", "--out", out]
    result = harness("table3", *words)
    assert result.code == 2
    assert f"harness: interrupted; finished before and kept in {out}: 1 record; the" in result.err
    assert "Traceback" not in result.err
    assert done == ["lambada"]
    [path] = record_files(out)
    from harness.records.folder import read

    assert read(path).task == "lambada"
    assert "LAMBADA PPL" in result.out, "what is done is shown"
    assert result.out.count("not run") == 8


def test_ctrl_c_before_the_first_record(
    sample: list[Any], monkeypatch: pytest.MonkeyPatch, out: Path
) -> None:
    def at_once(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "evaluate", at_once)
    line = refused("ptb", *sample)
    kept = f"interrupted; finished before and kept in {out}: no record yet"
    assert line.endswith(f"{kept}; the same command again goes on from here")
