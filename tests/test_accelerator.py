"""What `benchmarks.accelerator` measures; the tests marked `accelerator` need one.

The others run on a CPU: how parts are run and shown, and what they need.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.accelerator import memory, page, parity, parts, trees, waits
from benchmarks.accelerator.page import Result
from benchmarks.accelerator.setting import Rows, Setting
from harness.core import Generated, Rolled, Scored, Word
from harness.engine.backends.in_process import CPU_LIMITS, limits_of
from harness.engine.checkpoint.own.restore import plain_arithmetic
from harness.engine.queries.prefix_tree import arrange
from harness.engine.queries.query import Sharing, Span

ROOT = Path(__file__).parents[1]
ON_CPU = Setting("cpu", small=True)

# --- on an accelerator ------------------------------------------------------------------------


@pytest.fixture
def there() -> Setting:
    device = torch.accelerator.current_accelerator()
    if device is None or not torch.accelerator.is_available():
        pytest.skip("torch finds no accelerator on this machine")
    return Setting(str(device), small=True)


@pytest.mark.accelerator
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("part", [parity.parity, memory.out_of_memory], ids=["parity", "memory"])
def test_scores_are_those_of_the_cpu(part: object, there: Setting) -> None:
    rows = list(part(there))  # type: ignore[operator]
    assert any("right" in row for row in rows)
    assert [row for row in rows if row.get("right") is False] == []


@pytest.mark.accelerator
@pytest.mark.filterwarnings("default")
def test_the_host_waits_a_few_times_a_pass(there: Setting) -> None:
    if not there.on_cuda:
        pytest.skip("only CUDA counts how often the host waits for it")
    for row in waits.waits(there):
        assert 0 < row["waits a pass"] < 8, row


# --- the engine -------------------------------------------------------------------------------


@pytest.fixture
def precisions() -> Iterator[None]:
    """Torch's own settings before and afterwards: loading a checkpoint changes them."""
    own_precisions()
    yield
    own_precisions()


def own_precisions() -> None:
    cudnn = torch.backends.cudnn
    cudnn.allow_tf32 = True
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("precisions")
@pytest.mark.parametrize("newer", [False, True])
def test_float32_is_computed_in_float32_and_settings_come_back(newer: bool) -> None:
    backends = torch.backends
    torch.set_float32_matmul_precision("high")
    if newer:  # from now on torch refuses to read the older switch
        backends.cudnn.conv.fp32_precision = "tf32"
        backends.cudnn.rnn.fp32_precision = "ieee"
    before = [b.fp32_precision for b in (backends.cuda.matmul, backends.cudnn.conv)]
    assert before == ["tf32", "tf32"]
    with plain_arithmetic(torch.device("cpu")):
        for backend in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            assert backend.fp32_precision in ("none", "ieee")
    assert [b.fp32_precision for b in (backends.cuda.matmul, backends.cudnn.conv)] == before
    if not newer:
        assert backends.cudnn.allow_tf32
        assert backends.cuda.matmul.allow_tf32


def test_a_gpu_decodes_with_an_eighth_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    assert limits_of(torch.device("cuda")).cache_bytes == 10 << 30
    assert limits_of(torch.device("mps")).cache_bytes == 4 << 30
    assert limits_of(torch.device("cpu")) is CPU_LIMITS


# --- what is compared -------------------------------------------------------------------------


def test_differences_are_counted_per_request_and_in_texts_per_token() -> None:
    one = Scored((-1.0, -2.0), (True, True))
    two = Scored((-1.5, -2.25), (True, False))
    found = parity.compare([one, Word("sea", ())], [two, Word("sand", ())])
    assert (found.nats, found.flips, found.other, found.ties) == ([0.75], 1, 1, 0)
    found = parity.compare([Rolled((one,))], [Rolled((two,))])
    assert found.nats == [0.5, 0.25]
    assert found.row(judged=True)["right"] is False
    assert parity.compare([one], [one]).row(judged=True)["right"] is True


@pytest.mark.parametrize(("logprob", "ties"), [(-2.0005, 1), (-2.1, 0)])
def test_a_text_that_parts_at_equal_tokens_is_a_tie(logprob: float, ties: int) -> None:
    one = Generated("ab", (1, 2, 3), (-1.0, -2.0, -3.0), 3, "length")
    two = Generated("ax", (1, 5, 3), (-1.0, logprob, -9.0), 3, "length")
    found = parity.compare([one], [two])
    assert (found.nats, found.other, found.ties) == ([0.0], 1, ties)
    assert found.row(judged=True)["right"] is bool(ties)


def test_a_text_that_ends_sooner_is_another_one() -> None:
    one = Generated("ab", (1, 2, 3), (-1.0, -2.0, -3.0), 3, "length")
    two = Generated("a", (1, 2), (-1.0, -2.5), 2, "stop")
    for pair in ((one, two), (two, one)):
        found = parity.compare(pair[:1], pair[1:])
        assert (found.nats, found.other, found.ties) == ([0.0, 0.5], 1, 0)


def test_a_tree_is_what_the_planner_makes_of_its_branches() -> None:
    tokens = 85
    ends, positions = trees._tree(tokens, "cpu")
    trunk = tuple(range(trees.SIZES[tokens]))
    begins = range(len(trunk), tokens, trees._BRANCH)
    spans = [
        Span((*trunk, *(1000 * begin + i for i in range(min(trees._BRANCH, tokens - begin)))), (0,))
        for begin in begins
    ]
    [row] = arrange(spans, Sharing(pair_cost=0.0, max_row=1 << 20))
    assert ends[0].tolist() == row.ends
    assert positions[0].tolist() == row.positions


@pytest.mark.parametrize("multiple", [1, 16])
def test_a_dense_mask_says_the_same_as_the_rule_of_a_block_mask(multiple: int) -> None:
    ends, _ = trees._tree(85, "cpu")
    mask = trees._dense_mask(ends, torch.float32, multiple)[0, 0]
    assert mask.stride(0) % multiple == 0
    rule = trees._block_mask(ends).mask_mod
    index = torch.arange(85)
    zero = torch.zeros((), dtype=torch.long)
    for q in range(85):
        seen = rule(zero, zero, torch.tensor(q), index)
        assert torch.equal(mask[q] == 0, seen)


# --- how parts run and what is shown ----------------------------------------------------------


def row_then_error(setting: Setting) -> Rows:
    yield {"work": "a", "right": True}
    raise RuntimeError("no such kernel\nmore")


def row_then_sleep(setting: Setting) -> Rows:
    yield {"work": "a"}
    time.sleep(60)


def dead(setting: Setting) -> Rows:
    yield {"work": "a"}
    import os

    os._exit(3)


@pytest.mark.parametrize(
    ("run", "seconds", "state"),
    [
        (row_then_error, 60, "failed: RuntimeError: no such kernel"),
        (row_then_sleep, 0.5, "out of time"),
        (dead, 60, "failed: its process ended with code 3"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_part_has_found_counts_however_it_ends(
    run: object, seconds: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = parts.Part("a", "a part", 1, run)  # type: ignore[arg-type]
    monkeypatch.setattr(parts, "PARTS", (part,))
    monkeypatch.setattr(parts, "START", "fork")  # which knows the part, and imports nothing
    result = parts.run_part(part, ON_CPU, seconds, tmp_path / "rows")
    assert result.state.startswith(state)
    assert [row["work"] for row in result.rows] == ["a"]
    assert result.seconds < 30


def test_parts_fit_nine_minutes() -> None:
    assert parts.SECONDS <= 530  # and some seconds for the imports of the program itself
    assert len({part.name for part in parts.PARTS}) == len(parts.PARTS)


def test_the_page_has_a_table_per_part_and_counts_what_is_wrong(tmp_path: Path) -> None:
    rows = [
        {"task": "a|b", "largest": 3e-7, "right": True},
        {"task": "c", "right": False, "n": 12345},
    ]
    result = Result("parity", "every task", "done", 12.3, rows)
    page.write(tmp_path / "out", {"device": "cpu"}, [result, Result("trees", "masks")])
    text = (tmp_path / "out" / page.PAGE).read_text("utf-8")
    assert "| task | largest | right | n |" in text
    assert "| a\\|b | 3.0e-07 | yes |  |" in text
    assert "| c |  | **no** | 12,345 |" in text
    assert "done, 12 s; 1 of 2 rows are wrong" in text
    assert "waiting" in text
    stored = json.loads((tmp_path / "out" / page.JSON_FILE).read_text("utf-8"))
    assert stored["parts"][0]["rows"] == rows


BARE = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {blocked!r}
        return None if hidden else self.finder.find_spec(name, path, target)
installed = [f for f in sys.meta_path if "editable" in repr(f)]
sys.meta_path[:] = [Without(f) for f in sys.meta_path if f not in installed]
sys.path.insert(0, {root!r})
from benchmarks.accelerator import parts, work, models
from harness.engine.engine import Engine
engine = Engine(models.checkpoint(models.gpt2("tiny", vocabulary=4096)))
works = work.samples(1, 2)
for done in works:
    if done.name in ("lambada", "nq"):
        work.run(engine, done)
print("tasks:", len(works))
"""
# What the harness declares and uses elsewhere.
BLOCKED = {
    "pandas", "datasets", "click", "evaluate", "sacrebleu", "rouge_score", "sentencex", "pyarrow",
    "scipy", "xxhash", "platformdirs", "rich", "tomlkit", "tabulate", "lm_eval",
}  # fmt: skip


def test_it_needs_a_checkout_and_four_packages_only(tmp_path: Path) -> None:
    code = BARE.format(blocked=BLOCKED, root=str(ROOT))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "tasks: 15\n"
