"""Runs of the command line with a fake server, and their outcomes, for several test files."""

from pathlib import Path

import numpy as np
from fake_server import FakeServer
from numpy.typing import NDArray

from harness.analysis.runs import load
from harness.engine.endpoint.connect import connect
from harness.engine.endpoint.settings import EndpointSettings

CONTEXT = 254  # of prompts of at most 255 tokens, the last of which is scored and not fed
CONCURRENCY = 8
QUICK = ("--patience", "1s", "--timeout", "5s", "--concurrency", CONCURRENCY)

Outcomes = dict[tuple[str, str], NDArray[np.float64]]
"""Task and measure -> the outcomes of all examples."""


def outcomes(folder: Path) -> Outcomes:
    """The outcomes in all records below a folder."""
    return {
        (run.record.task, name): np.array(measure.values)
        for run in load([folder])
        for name, measure in run.outcomes.metrics.items()
    }


def assert_equal(found: Outcomes, expected: Outcomes, tolerance: float = 1e-3) -> None:
    """Log-probabilities within rounding, counts and texts exactly."""
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=tolerance, err_msg=str(key))


def prompts(server: FakeServer) -> list[tuple[int, ...]]:
    """The prompts that a server has been sent so far."""
    sent = (body.get("prompt", body.get("input_ids")) for _, body in server.bodies if body)
    return [tuple(prompt) for prompt in sent if isinstance(prompt, list)]


def self_test_calls(folder: Path, *servers: FakeServer) -> list[int]:
    """How many calls the self-test of a server and of its replicas takes."""
    url, *replicas = (server.url for server in servers)
    settings = EndpointSettings(url, str(folder), tuple(replicas), concurrency=CONCURRENCY)
    connect(settings, store_results=False).close()
    return [server.trap.calls for server in servers]
