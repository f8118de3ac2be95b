"""Compiled passes: few shapes, equal scores, and a one-line error without a compiler."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Encoding, Loglikelihood, Scored
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.model import compiled
from harness.engine.model.compiled import CompiledTrunk, padded_length, static_shape
from harness.errors import CheckpointError

BUDGET = 64  # a row or a few


@given(st.integers(1, 5000))
def test_a_size_holds_its_lengths_and_wastes_less_than_an_eighth(length: int) -> None:
    size = padded_length(length)
    assert length <= size <= length * 9 / 8
    assert padded_length(size) == size


@given(st.integers(1, 300), st.integers(1, 4096))
def test_all_batches_of_a_size_have_one_shape(width: int, budget: int) -> None:
    same = [w for w in range(1, 400) if padded_length(w) == padded_length(width)]
    shapes = {
        static_shape(rows, w, budget)
        for w in same
        for rows in (1, max(1, budget // w))
        if w <= budget
    }
    assert len(shapes) <= 1


def test_there_are_few_sizes() -> None:
    assert len({padded_length(length) for length in range(16, 1025)}) == 49


class Base:
    """A trunk that notes the shapes that it is given."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        self.shapes.append(tuple(input_ids.shape))
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())


def passes(
    monkeypatch: pytest.MonkeyPatch, budget: int, rope_limit: int | None
) -> tuple[CompiledTrunk, Base]:
    monkeypatch.setattr(compiled.torch, "compile", lambda base, **options: base)
    base = Base()
    return CompiledTrunk(base, budget, 1024, rope_limit), base


@pytest.mark.parametrize(
    ("limit", "width", "padded"), [(None, 90, 96), (94, 90, 94), (94, 97, 97), (94, 94, 94)]
)
def test_padding_does_not_change_how_positions_are_rotated(
    limit: int | None, width: int, padded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, base = passes(monkeypatch, width, limit)
    ids = torch.arange(width)[None]
    assert torch.equal(trunk(ids)[..., 0], ids.float())
    assert base.shapes == [(1, padded)]


def test_out_of_memory_makes_compiled_batches_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are padded to as many rows as the budget allows, whatever a batch has."""
    trunk, base = passes(monkeypatch, 640, None)
    trunk(torch.ones(2, 64, dtype=torch.long))
    trunk.budget = 320
    trunk(torch.ones(2, 64, dtype=torch.long))
    first, second = (rows for rows, _ in base.shapes)
    assert (first, second) == (10, 5)


def asked() -> list[Loglikelihood]:
    """Passages of three lengths, which are padded to two."""
    texts = ("the sand " * 7, "the sand " * 7 + "a", "the sand")
    return [Loglikelihood(text, " the sun") for text in texts]


def scores(engine: Engine) -> list[float]:
    requests = asked()
    found = dict(engine.answer(requests, engine.encode(requests, Encoding(bos="none"))))
    return [r.logprob for _, r in sorted(found.items()) if isinstance(r, Scored)]


def test_scores_are_those_of_plain_passes_and_shapes_are_few(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[torch.Size] = set()
    real = compiled.torch.compile

    def counted(base: object, **options: object) -> object:
        # Traced and run as compiled code is, without waiting for a C++ compiler.
        run = real(base, dynamic=options["dynamic"], backend="aot_eager")  # type: ignore[call-overload]

        def call(input_ids: torch.Tensor, **more: object) -> object:
            shapes.add(input_ids.shape)
            return run(input_ids=input_ids, **more)

        return call

    monkeypatch.setattr(compiled.torch, "compile", counted)
    plain = load(str(tiny_folder), Settings(device="cpu"))
    fast = load(str(tiny_folder), Settings(device="cpu", compiled=True))
    wanted = scores(Engine(plain, budget=BUDGET, share=False))
    engine = Engine(fast, budget=BUDGET, share=False)
    assert scores(engine) == pytest.approx(wanted, abs=1e-4)
    lengths = {len(plain.tokenizer.encode([r.context + r.continuation])[0]) - 1 for r in asked()}
    assert len(lengths) == 3
    assert len(shapes) == 2


def test_a_pass_that_cannot_be_compiled_is_one_line(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(base: object, **options: object) -> object:
        def call(**more: object) -> None:
            raise torch._dynamo.exc.InternalTorchDynamoError("No working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(compiled.torch, "compile", refusing)
    engine = Engine(load(str(tiny_folder), Settings(device="cpu", compiled=True)), share=False)
    with pytest.raises(CheckpointError, match=r"\(No working C\+\+ compiler found\); leave out"):
        scores(engine)


def test_a_compiled_run_goes_on_after_running_out_of_memory(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[torch.Size] = []

    def small(base: object, **options: object) -> object:
        def call(input_ids: torch.Tensor, **more: object) -> object:
            shapes.append(input_ids.shape)
            if input_ids.numel() > BUDGET:
                raise torch.OutOfMemoryError("out of memory")
            return base(input_ids=input_ids, **more)  # type: ignore[operator]

        return call

    monkeypatch.setattr(compiled.torch, "compile", small)
    wanted = scores(Engine(load(str(tiny_folder), Settings(device="cpu")), share=False))
    fast = load(str(tiny_folder), Settings(device="cpu", compiled=True))
    assert scores(Engine(fast, budget=4 * BUDGET, share=False)) == pytest.approx(wanted, abs=1e-4)
    assert shapes[0].numel() > BUDGET >= shapes[-1].numel()
