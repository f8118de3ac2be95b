"""The command line inside this process, and records made by hand, for several test files."""

import io
import math
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.cli.group import DEFECT, main
from harness.core import Score, Tokens
from harness.plugins.registry import load_task, task_names
from harness.records.folder import OUTCOMES_SUFFIX
from harness.records.record import Record


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def harness(*words: object) -> Result:
    """Run `harness WORDS`; a defect of the program fails the test."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["harness", *map(str, words)]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    assert code != DEFECT, err.getvalue()
    return Result(code, out.getvalue(), err.getvalue())


def refused(*words: object) -> str:
    """The one line that `harness WORDS` ends with, notes apart: exit code 2, no output."""
    result = harness(*words)
    assert result.code == 2, result
    assert result.out == ""
    lines = [x for x in result.err.strip().split("\n") if not x.startswith("note: ")]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("harness: ")
    return lines[0]


def record_files(folder: Path) -> list[Path]:
    """All files below an output folder except outcomes; none if there is no such folder."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p for p in files if not p.name.endswith(OUTCOMES_SUFFIX))


def made_record(**changes: Any) -> Record:
    """A record of LAMBADA with two scores, some fields changed."""
    scores = (
        Score("ppl", 35.5, "per word", False, 0.5, 34.5, 36.5, {"nats": 7.0, "words": 2.0},
              "LAMBADA PPL"),
        Score("acc", 45.0, "%", True, None, None, None, {"right": 9.0, "words": 20.0},
              "LAMBADA ACC"),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "task": "lambada",
        "protocol": "paper",
        "options": {"quotes": "on", "stride": 1024},
        "model": {
            "name": "gpt2",
            "digest": "a1" * 32,
            "tokenizer": "b2" * 32,
            "parameters": 124439808,
            "dtype": "float32",
            "context": 1024,
            "device": "cpu",
        },
        "data": {"source": "file", "name": "x.jsonl", "sha256": "c3" * 32, "rows": 20,
                 "warnings": []},
        "prompt": {"name": "lambada.txt", "sha256": "d4" * 32},
        "limit": None,
        "seed": 0,
        "examples": 20,
        "requests": 40,
        "tokens": Tokens(100, 60, 20, 0),
        "seconds": 2.0,
        "scores": scores,
        "environment": {"versions": {"harness": "0.1.0", "torch": "2.13.0"}},
        "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    fields |= changes
    fields.setdefault("rows", fields["examples"])
    installed = fields["task"] in task_names()
    fields.setdefault("version", load_task(fields["task"]).version if installed else 1)
    return Record(**fields)


SIZES = (10**7, 10**8, 10**9, 10**10)


def sized_record(parameters: int, ppl: float = 30.0, **changes: Any) -> Record:
    """A record of LAMBADA's perplexity by a model of that size."""
    score = Score("ppl", ppl, "per word", False, 0.5, ppl - 1, ppl + 1, {}, "LAMBADA PPL")
    model = {
        **made_record().model,
        "name": f"m{parameters}",
        "parameters": parameters,
        "digest": f"{parameters:064}",
    }
    return made_record(**{"model": model, "scores": (score,), **changes})


def law_losses(exponent: float, *, spread: float, seed: int) -> list[tuple[int, float]]:
    """(size, loss) of the law 20 * size ** -exponent at four sizes, with lognormal noise."""
    noise = np.random.default_rng(seed).normal(0, spread, len(SIZES))
    return [
        (size, 20 * size**-exponent * math.exp(off)) for size, off in zip(SIZES, noise, strict=True)
    ]


def law_records(exponent: float, *, spread: float = 0.002, seed: int = 1) -> list[Record]:
    """Records of four checkpoints whose losses in nats a word follow that law."""
    losses = law_losses(exponent, spread=spread, seed=seed)
    return [sized_record(size, math.exp(loss)) for size, loss in losses]
