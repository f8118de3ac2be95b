"""A gate as pytest tests, one per score: `pytest test_gate.py`; docs/ci.md explains it."""

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

MODEL = os.environ.get("MODEL", "smollm2-135m")
BASELINE = Path(os.environ.get("BASELINE", "baselines/main.toml"))
DATA = os.environ.get("GATE_DATA", "--hub").split()  # such as --data-dir data
SCORES = [
    (score["task"], score["protocol"], score["metric"])
    for score in tomllib.loads(BASELINE.read_text("utf-8"))["score"]
]


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    """The verdict of every score, from one gate."""
    out = tmp_path_factory.mktemp("gate")
    command = ["harness", "gate", "--model", MODEL, "--baseline", str(BASELINE), *DATA]
    done = subprocess.run(
        [*command, "--out", str(out), "--json"], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr  # an error is one line there
    found = json.loads(done.stdout)["verdicts"]
    return {(v["task"], v["protocol"], v["metric"]): v for v in found}


@pytest.mark.parametrize(("task", "protocol", "metric"), SCORES)
def test_score(
    verdicts: dict[tuple[str, str, str], Any], task: str, protocol: str, metric: str
) -> None:
    """The score is not worse than the baseline's."""
    verdict = verdicts[task, protocol, metric]
    assert verdict["status"] not in ("regression", "not comparable"), verdict["reason"]
