"""Checkpoints of nanoGPT, build-nanogpt and llm.c against the programs that wrote them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as tf

from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.queries.query import Span, SpanScores

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


def settings(data_dir: Path, case: Case) -> Settings:
    return Settings(device="cpu", options=case.options, data_dir=data_dir)


def references(data_dir: Path, case: Case) -> Iterator[tuple[list[int], list[float], list[int]]]:
    """Ids, log-probabilities of all but the first, most probable ids after each, by sequence."""
    stored = json.loads(real(data_dir, case.folder, "reference.json").read_text("utf-8"))
    assert len(stored["sequences"]) == 5
    for sequence in stored["sequences"]:
        values = sequence[case.inside] if case.inside else sequence
        yield sequence["ids"], values[case.logprobs][1:], values["argmax"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_program_that_wrote_it_agrees(data_dir: Path, case: Case) -> None:
    """With transformers on the converted folder, and with the engine.

    A program sums some 50,000 probabilities in float32, which moves single values by 6e-5 (to be
    seen by summing those of the same logits in float64). The engine sums more exactly. What the
    program lost is taken off before it is compared.
    """
    where = str(real(data_dir, case.folder, case.file))
    stated = Settings(device="cpu", options=case.options, data_dir=data_dir)
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
