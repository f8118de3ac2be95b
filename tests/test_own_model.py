"""Models of one's own: any function from token ids to logits, in memory or named by `--model`."""

import importlib.metadata
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import byte_tokenizer, save_tiny
from console import harness
from torch import Tensor, nn

from harness.core import Encoding, Generate, Generated, Loglikelihood, Request, Scored
from harness.engine.cache.store import Store
from harness.engine.checkpoint.in_memory import borrowed
from harness.engine.checkpoint.load import Checkpoint, load, tokenizer_and_context
from harness.engine.checkpoint.own.digest import own_digest
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.errors import CheckpointError

EXAMPLE = Path(__file__).parents[1] / "examples" / "own-gpt"
TOKENIZER = byte_tokenizer()
V, START = len(TOKENIZER), 262
CPU = Settings(device="cpu")


class Plain(nn.Module):
    """A recurrent language model, which returns its logits in a way of its own."""

    def __init__(self, shape: Callable[..., Any] = lambda logits: logits, layers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block_size = 48
        self.embed, self.head = nn.Embedding(V, 16), nn.Linear(16, V)
        self.recurrent = nn.GRU(16, 16, layers, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        nn.init.normal_(self.head.weight, std=2.0)
        self.shape = shape

    def logits(self, ids: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(ids))
        out: Tensor = self.head(self.dropout(states))
        return out

    def forward(self, ids: Tensor) -> Any:
        return self.shape(self.logits(ids))


class Answer(NamedTuple):
    loss: Tensor | None
    logits: Tensor


class LastOnly(Plain):
    """As nanoGPT: the logits of the last position, unless a loss is to be computed."""

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Any]:
        logits = self.logits(ids)
        if targets is None:
            return logits[:, [-1]], None
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class WithCache(Plain):
    """Takes a KV cache that the engine knows nothing of."""

    def forward(self, ids: Tensor, kv_cache: Any = None, start: int = 0) -> tuple[Tensor, Any]:
        assert kv_cache is None
        assert start == 0
        return self.logits(ids), {"keys": ids}


class Called:
    """No module itself."""

    def __init__(self) -> None:
        self.model = Plain()

    def __call__(self, ids: Tensor) -> Tensor:
        return self.model.logits(ids)


_inner = Plain()
KINDS: dict[str, Any] = {
    "tensor": Plain(),
    "logits": Plain(lambda logits: Answer(None, logits)),
    "tuple": Plain(lambda logits: (logits, torch.zeros(()))),
    "mapping": Plain(lambda logits: {"logits": logits}),
    "last position": LastOnly(),
    "own cache": WithCache(),
    "method": Plain().logits,
    "function": lambda ids: _inner.logits(ids),
    "object": Called(),
}
REQUESTS: list[Request] = [
    Loglikelihood("the sand and the", " sea"),
    Loglikelihood("", "an end"),
    Generate(("the sand",), 5),
]


def ask(checkpoint: Checkpoint, store: Store | None = None) -> list[Any]:
    engine = Engine(checkpoint, store=store)
    answers = dict(engine.answer(REQUESTS, engine.encode(REQUESTS, Encoding())))
    return [answers[i] for i in range(len(REQUESTS))]


@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_every_kind_of_model_equals_a_naive_loop(model: Any) -> None:
    referee = Plain().eval()
    with borrowed(model, TOKENIZER, context=48) as checkpoint, torch.no_grad():
        answers = ask(checkpoint)
        for request, answer in zip(REQUESTS[:2], answers, strict=False):
            assert isinstance(request, Loglikelihood)
            assert isinstance(answer, Scored)
            context = [START, *TOKENIZER(request.context).input_ids]
            ids = context + TOKENIZER(request.continuation).input_ids
            logprobs = referee(torch.tensor([ids]))[0].log_softmax(-1)
            expected = [logprobs[i - 1, ids[i]].item() for i in range(len(context), len(ids))]
            assert answer.logprobs == pytest.approx(expected, abs=1e-5)
        text = answers[2]
        assert isinstance(text, Generated)
        ids = [START, *TOKENIZER("the sand").input_ids]
        for token in text.tokens:
            assert referee(torch.tensor([ids]))[0, -1].argmax().item() == token
            ids.append(token)
    assert all(m.training for m in (_inner, *(k for k in KINDS.values() if hasattr(k, "modules"))))


def test_constant_logits_are_uniform() -> None:
    with borrowed(lambda ids: torch.zeros(*ids.shape, V), TOKENIZER, context=32) as checkpoint:
        scored = ask(checkpoint)[0]
    assert scored.logprobs == pytest.approx([-math.log(V)] * len(scored.logprobs))


WRONG: dict[str, tuple[Any, str]] = {
    "no tensor": (
        Plain(lambda logits: "x"),
        r"returns no tensor for token ids \(B, T\) = \(2, 8\)",
    ),
    "transposed": (Plain(lambda x: x.mT), r"returns a tensor \(2, 263, 8\) of float32"),
    "one position": (Plain(lambda x: x[:, -1:]), r"logits \(2, 1, 263\) of one position for 8"),
    "integers": (Plain(lambda x: x.long()), "floating-point"),
    "NaN": (Plain(lambda x: x * torch.nan), "NaN or infinite"),
    "raises": (Plain(lambda x: x / None), "cannot be called with token ids.*TypeError"),
    "sees the future": (Plain(lambda x: x.flip(1)), "not a causal language model"),
    "another vocabulary": (Plain(lambda x: x[..., :20]), "263 entries, its vocabulary only 20"),
}


@pytest.mark.parametrize(("model", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(model: Any, message: str) -> None:
    with (
        pytest.raises(CheckpointError, match=message) as caught,
        borrowed(model, TOKENIZER) as checkpoint,
    ):
        Engine(checkpoint)
    assert "\n" not in str(caught.value)


def test_context() -> None:
    def context(model: Any, requested: int | None = None) -> int:
        with borrowed(model, TOKENIZER, context=requested) as checkpoint:
            return checkpoint.identity.context

    assert context(Plain()) == 48
    assert context(Plain(), 12) == 12
    with pytest.raises(CheckpointError, match="--context 49 is longer than the model's 48"):
        context(Plain(), 49)
    silent = Plain()
    del silent.block_size
    assert context(silent) == 1024  # tried
    silent.shape = lambda logits: logits + torch.zeros(30, 1)[: logits.shape[1]]
    with pytest.raises(CheckpointError, match=r"1024 tokens end in RuntimeError.*give --context"):
        context(silent)
    assert context(silent, 30) == 30
    silent.config = {"max_seq_len": 30}
    assert context(silent) == 30


# --- identity -----------------------------------------------------------------------------


@dataclass(slots=True)
class Slotted:
    heads: int


def test_models_that_compute_differently_have_different_digests() -> None:
    def with_attribute(value: Any) -> nn.Module:
        model = Plain()
        model.more = value
        return model

    assert own_digest(with_attribute(Slotted(1))) == own_digest(with_attribute(Slotted(1)))
    assert own_digest(with_attribute(Slotted(1))) != own_digest(with_attribute(Slotted(2)))
    # Weights that torch does not know of are not looked at.
    hidden = with_attribute([nn.Linear(2, 2)])
    assert own_digest(hidden) != own_digest(hidden)
    known = Plain()
    known.more = [*known.children()]
    assert own_digest(known) == own_digest(known)


def test_a_class_without_a_file_has_no_digest_of_its_own() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("from torch import nn\nclass Model(nn.Linear): pass", names)
    model = names["Model"](2, 2)
    with_file = sys.modules["__main__"].__dict__.pop("__file__", None)
    try:
        assert own_digest(model) != own_digest(model)
    finally:
        if with_file is not None:
            sys.modules["__main__"].__file__ = with_file


def test_the_digest_covers_weights_settings_and_code(tmp_path: Path) -> None:
    plain = own_digest(Plain())
    assert own_digest(Plain()) == plain
    assert own_digest(Plain().eval()) == plain
    changed, longer = Plain(), Plain()
    with torch.no_grad():
        changed.head.bias[3] += 1e-3
    longer.block_size = 49
    other = Plain(lambda logits: logits * 2)
    hooked = Plain()
    hooked.head.register_forward_hook(lambda module, inputs, output: output * 2)
    parts = [changed, longer, other, hooked, Plain().logits, lambda ids: ids]
    assert len({plain, *map(own_digest, parts)}) == 1 + len(parts)
    assert own_digest(hooked) != own_digest(hooked)
    assert own_digest(KINDS["function"]) != own_digest(KINDS["function"])


def test_edited_code_never_gets_old_answers(tmp_path: Path) -> None:
    """The forward pass, or a function that it takes from another file, is edited between runs."""
    (tmp_path / "layers_of_it.py").write_text("def scaled(x):\n    return x * 1.0\n")
    shutil.copy(EXAMPLE / "own_gpt.py", tmp_path / "gpt_of_it.py")
    text = (tmp_path / "gpt_of_it.py").read_text()
    used = text.replace("return self.head(", "return scaled(").replace(
        "import torch\n", "import torch\nfrom layers_of_it import scaled\n", 1
    )
    used = used.replace("scaled(self.norm(self.blocks(x)))", "scaled(self.head(self.norm(x)))")
    digests = []
    for code, factor in ((text, "1.0"), (used, "1.0"), (used, "2.0")):
        (tmp_path / "gpt_of_it.py").write_text(code)
        (tmp_path / "layers_of_it.py").write_text(f"def scaled(x):\n    return x * {factor}\n")
        for name in ("gpt_of_it", "layers_of_it"):
            sys.modules.pop(name, None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        digests.append(load(f"{tmp_path}/gpt_of_it.py:load", CPU).identity.digest)
    assert len(set(digests)) == 3


def test_the_response_cache_knows_a_module_and_no_function() -> None:
    for model, cached in ((Plain(), True), (KINDS["function"], False)):
        store = Store(None)
        for again in (False, True):
            with borrowed(model, TOKENIZER, context=48) as checkpoint:
                engine = Engine(checkpoint, store=store)
                dict(engine.answer(REQUESTS, engine.encode(REQUESTS, Encoding())))
            assert bool(engine.tokens.cached) == (cached and again)


# --- by name ------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A working directory with functions that return models."""
    shutil.copy(EXAMPLE / "own_gpt.py", tmp_path)
    (tmp_path / "functions_here.py").write_text(
        "import torch, own_gpt\n"
        "from harness.engine.checkpoint.random_model import byte_tokenizer, model\n"
        "def bare(): return own_gpt.load()[0]\n"
        "def named(): return own_gpt.load()[0], 'tiny'\n"
        "def library(): return model(byte_tokenizer(), context=64), byte_tokenizer()\n"
        "def function(): return (lambda ids: torch.zeros(*ids.shape, 263)), byte_tokenizer()\n"
        "def wrong(): return {'model': 1}\n"
        "def three(): return 1, 2, 3\n"
        "def fails(): raise RuntimeError('no such file')\n"
        "def leaves(): raise SystemExit('bye')\n"
        "number = 3\n"
    )
    (tmp_path / "broken_here.py").write_text("import there_is_no_such_module\n")
    (tmp_path / "syntax_here.py").write_text("def load(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("own_gpt", "functions_here", "broken_here", "syntax_here"):
        sys.modules.pop(name, None)


def test_a_function_by_its_name(here: Path) -> None:
    loaded = load("own_gpt:load", Settings(device="cpu", options=(("width", "64"),)))
    assert (loaded.identity.name, loaded.identity.context) == ("own_gpt:load", 256)
    assert loaded.identity.options == {"width": "64"}
    assert not loaded.model.training
    assert sys.path[-1] == str(here)
    by_file = load("./own_gpt.py:load", Settings(device="cpu", options=(("width", "64"),)))
    assert by_file.identity.digest == loaded.identity.digest
    assert load("own_gpt:load", CPU).identity.digest != loaded.identity.digest
    half = load("own_gpt:load", Settings(device="cpu", dtype="bfloat16"))
    assert half.identity.dtype == "bfloat16"
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    tokenizer, context = tokenizer_and_context("own_gpt:load", Settings(device="cpu", context=99))
    assert (len(tokenizer), context) == (257, 99)


def test_a_model_of_transformers_shares_prefixes(here: Path) -> None:
    loaded = load("functions_here:library", CPU)
    assert Engine(loaded).backend.options.sharing is not None


def test_a_tokenizer_by_its_name(here: Path) -> None:
    save_tiny(here / "tiny")
    assert len(load("functions_here:named", CPU).tokenizer) == V
    given = Settings(device="cpu", tokenizer=str(here / "tiny"))
    assert len(load("functions_here:bare", given).tokenizer) == V
    assert len(load("own_gpt:load", given).tokenizer) == V


BAD: dict[str, tuple[str, Settings, str]] = {
    "no module": ("nowhere_at_all:load", CPU, "nowhere_at_all cannot be imported.*No module named"),
    "its import": ("broken_here:load", CPU, "No module named 'there_is_no_such_module'"),
    "syntax": ("syntax_here:load", CPU, "syntax_here cannot be imported.*SyntaxError"),
    "no file": ("./nothing.py:load", CPU, "there is no file nothing.py"),
    "no function": ("functions_here:lod", CPU, "has no function 'lod'; it has: bare, named"),
    "no function but a number": ("functions_here:number", CPU, "type int; expected a function"),
    "no model": ("functions_here:wrong", CPU, "returns a value of type dict; expected a model"),
    "a tuple": ("functions_here:three", CPU, "returns a tuple of 3: int, int, int"),
    "fails": ("functions_here:fails", CPU, "ends in RuntimeError: no such file"),
    "leaves": ("functions_here:leaves", CPU, "ends in SystemExit: bye"),
    "no tokenizer": ("functions_here:bare", CPU, "comes with no tokenizer"),
    "revision": ("own_gpt:load", Settings(revision="main"), "for which --revision has no meaning"),
    "code": ("own_gpt:load", Settings(trust_remote_code=True), "--trust-remote-code has no"),
    "config": ("own_gpt:load", Settings(config_file=Path("x")), "--model-config has no meaning"),
    "option": (
        "own_gpt:load",
        Settings(options=(("depth", "3"),)),
        r"--model-option depth=3: own_gpt:load takes no such option \(it takes: width\)",
    ),
    "its option": ("own_gpt:load", Settings(options=(("width", "x"),)), "ends in ValueError"),
    "compile": ("own_gpt:load", Settings(device="cpu", compiled=True), "--compile: .* leave out"),
    "dtype": (
        "functions_here:function",
        Settings(device="cpu", dtype="bfloat16", context=32),
        "--dtype bfloat16 has no effect; expected --dtype float32",
    ),
}


@pytest.mark.parametrize(("name", "settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_name_or_function(here: Path, name: str, settings: Settings, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(name, settings)
    assert "\n" not in str(caught.value)


def test_installed_models(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = here / "site" / "own-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[harness.models]\nmy-gpt = own_gpt:load\n")
    monkeypatch.syspath_prepend(str(site.parent))
    importlib.invalidate_caches()
    assert load("my-gpt", CPU).identity.name == "my-gpt"
    with pytest.raises(CheckpointError, match="name of a model on the hub, my-gpt, or the demo"):
        load("no-gpt", CPU)
    save_tiny(here / "my-gpt")  # a folder of that name wins
    assert len(load("my-gpt", CPU).tokenizer) == V


# --- the example --------------------------------------------------------------------------


def test_the_example_is_evaluated_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE / "own_gpt.py", tmp_path)
    lines = (EXAMPLE / "own_gpt.py").read_text("utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 65

    def run(*arguments: str, code: int = 0) -> str:
        result = harness(*arguments)
        assert result.code == code, result.err
        return result.out

    model = ("--model", "own_gpt:load", "--sample", "--limit", "2")
    table = json.loads(run("run", "table3,coqa", *model, "--json"))["records"]
    assert {record["model"]["name"] for record in table} == {"own_gpt:load"}
    assert {"coqa", "lambada", "cbt-cn", "text8"} <= {record["task"] for record in table}
    [record] = (tmp_path / "results" / "records").rglob("lambada-*.json")
    item = run("show", "lambada", *model).split()[2]
    assert f"lambada item {item} of own_gpt:load" in run("explain", str(record), item)
    doctor = run("doctor", "--model", "own_gpt:load", "--json", code=1)
    states = {f["name"]: f["state"] for f in json.loads(doctor)["findings"]}
    assert states["uniform bound"] == "fail"  # random weights
    assert states["cached steps"] == states["shared rows"] == "ok"
