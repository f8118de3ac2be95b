"""An engine without a model, and jobs on rows by hand, for the tests of generating tasks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from harness.core import Encoding, Fields, Generate, Generated, Request, Response, Row, Tokens
from harness.data.load import Data
from harness.engine.checkpoint.settings import Identity
from harness.engine.queries.encode import Encoded
from harness.engine.queries.preflight import Preflight
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job, evaluate, prepare
from harness.task import Options

Say = Callable[[Request], Response]


class Speaker:
    """An engine without a model: says what a function makes of a request, the last one first."""

    def __init__(self, say: Say) -> None:
        self.tokens = Tokens()
        self.vocabulary = 50257
        self.identity = Identity(
            "speaker", None, "a1" * 32, "b2" * 32, 124439808, "float32", "cpu", 1024, False, 1
        )
        self.rounds: list[list[Request]] = []
        self._say = say

    def describe(self) -> dict[str, Any]:
        return {}

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        return [Encoded(()) for _ in requests]

    def preflight(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
        return Preflight((), (), (), 0)

    def answer(
        self, requests: Sequence[Request], encoded: Sequence[Encoded], advance: object
    ) -> Iterator[tuple[int, Response]]:
        self.rounds.append([*requests])
        for i in reversed(range(len(requests))):
            yield i, self._say(requests[i])


def said(text: str, *logprobs: float) -> Generated:
    """An answer whose tokens all belong to its text."""
    found = logprobs or (-0.5,)
    return Generated(text, tuple(range(len(found))), found, len(found), "stop")


def options_of(task: str, preset: str = "paper", **overrides: str) -> Options:
    return load_task(task).protocol(preset, overrides).options


def data_of(rows: Sequence[Fields], source_kind: str = "file") -> Data:
    numbered = tuple(Row(i, fields) for i, fields in enumerate(rows))
    return Data(numbered, source_kind, "made.up", "c3" * 32, 99, ())


def job_of(task: str, rows: Sequence[Fields], preset: str = "paper", **overrides: str) -> Job:
    benchmark = load_task(task)
    return Job(benchmark, benchmark.protocol(preset, overrides), data_of(rows))


def with_pairs(job: Job, pairs: Sequence[Fields]) -> Job:
    """The job with a pool of its own to draw example pairs from."""
    return replace(job, pool=data_of(pairs))


def asked(job: Job) -> list[Generate]:
    """All that a job asks at first, known to be prompts."""
    requests = prepare(job).requests
    assert all(isinstance(request, Generate) for request in requests)
    return requests  # type: ignore[return-value]


def run(job: Job, *texts: str) -> Record:
    """The record of a run in which the requests are answered by these texts, in order."""
    requests = prepare(job).requests
    answers = {id_of(r): said(text) for r, text in zip(requests, texts, strict=True)}
    assert len(answers) == len(texts), "requests that are the same have the same answer"
    return evaluate(job, Speaker(lambda request: answers[id_of(request)]))


def id_of(request: Request) -> tuple[str, tuple[int, ...]]:
    assert isinstance(request, Generate)
    return request.prompt, request.seed


def values(record: Record) -> dict[str, float]:
    return {score.metric: score.value for score in record.scores}
