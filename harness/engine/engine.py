"""The engine: requests in, responses out, each as soon as it is complete.

    requests --encode--> questions --recall--> known answers
                             `--> reader, generator --> answers --> responses

Equal questions are answered once, those that the store knows not at all, and every batch is
stored before it is handed on. Nothing here knows what a benchmark is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from harness.core import (
    Encoding,
    Generated,
    Loglikelihood,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Tokens,
    Word,
)
from harness.engine import probe
from harness.engine.checkpoint import Checkpoint, Identity
from harness.engine.draft import Endings
from harness.engine.encode import Encoded, Encoder, Encodings, Preflight, preflight
from harness.engine.estimate import Estimate, Means, estimate, rates
from harness.engine.forward import Forward
from harness.engine.generate import Generator
from harness.engine.memory import Memory, numerics
from harness.engine.questions import Answer, Question, Writing, questions
from harness.engine.reader import Advance, Reader
from harness.engine.rows import Limits
from harness.engine.score import SpanScores
from harness.engine.sharing import Planner
from harness.engine.store import Store
from harness.errors import NumericsError

CPU_BUDGET = 2048  # padded tokens a batch; more does not help a CPU, its caches overflow
ACCELERATOR_BUDGET = 16384
# Answers decoded at once: a step reads all weights, so that many share the cost; and bytes of
# the keys and values that they are decoded over.
CPU_ANSWERS, CPU_CACHE = 64, 640 << 20
ACCELERATOR_ANSWERS, ACCELERATOR_CACHE = 256, 4 << 30


class Engine:
    """Answers requests with one resident checkpoint.

    Args:
        checkpoint: the loaded model.
        budget: padded tokens a batch; None chooses by the device.
        share: whether requests may share prefixes.
        store: where answers are kept; None keeps none.
        encodings: of other checkpoints' requests, which serve this one if its tokenizer and context
            are the same.

    Attributes:
        tokens: what all answers so far have cost.

    Raises:
        CheckpointError: the model is not causal.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        budget: int | None = None,
        share: bool = True,
        store: Store | None = None,
        encodings: Encodings | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.encoder = Encoder(checkpoint.tokenizer, checkpoint.identity.context, encodings)
        self.tokens = Tokens()
        on_cpu = checkpoint.device.type == "cpu"
        self._budget = budget or (CPU_BUDGET if on_cpu else ACCELERATOR_BUDGET)
        self._forward = Forward(checkpoint)
        with torch.inference_mode():
            probe.check_model(self._forward, checkpoint.identity.name)
        self._planner = Planner(self._forward, self._budget, share=share)
        self._reader = Reader(self._forward, self._planner, checkpoint.tokenizer, self._budget)
        self._limits = Limits(
            self._budget,
            CPU_ANSWERS if on_cpu else ACCELERATOR_ANSWERS,
            CPU_CACHE if on_cpu else ACCELERATOR_CACHE,
        )
        endings = Endings(checkpoint.tokenizer, checkpoint.ends, self._forward.vocabulary)
        self._generator = Generator(self._forward, self._planner, endings, self._limits)
        self._numerics = numerics(checkpoint.model)
        self._memory = Memory(store, checkpoint.identity, self._numerics)

    @property
    def identity(self) -> Identity:
        """Of the resident checkpoint."""
        return self.checkpoint.identity

    def describe(self) -> dict[str, int | bool]:
        """How requests are run, for the record; none of it may change a score."""
        return {"budget": self._budget, "sharing": self._planner.shares}

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        """Tokens of every request; raises as `Encoder.encode` does."""
        return self.encoder.encode(requests, encoding)

    @staticmethod
    def preflight(requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
        """What is unusual about encoded requests."""
        return preflight(requests, encoded)

    def answer(
        self,
        requests: Sequence[Request],
        encoded: Sequence[Encoded],
        advance: Advance = lambda done, total: None,
    ) -> Iterator[tuple[int, Response]]:
        """(index, response) of every request, in the order in which they become complete.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the index.
            CheckpointError: memory does not hold even one request.
        """
        desk = _Desk(requests, encoded)
        yield from desk.without_questions()
        known = self._memory.recall(desk.questions)
        cached = desk.cost(known)
        self.tokens += Tokens(asked=cached, cached=cached)
        yield from desk.take(known)
        for answers in self._answers(desk, known, advance):
            self._memory.keep(answers)
            self.tokens += Tokens(asked=desk.cost(answers))
            yield from desk.take(answers)

    def estimate(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> Estimate:
        """What `answer` will cost; measures the machine's rates if they are not known."""
        desk = _Desk(requests, encoded)
        identity = self.identity
        key = f"{identity.digest}|{identity.device}|{identity.threads}|{self._numerics}"
        means = Means(self._forward, self._planner, self._limits, rates(self._forward, key))
        known = self._memory.recall(desk.questions, count=False)
        return estimate({q: desk.count(q) for q in desk.questions}, known, means)

    def _answers(
        self, desk: "_Desk", known: Mapping[Question, Answer], advance: Advance
    ) -> Iterator[dict[Question, Answer]]:
        """What is not known, batch by batch; counts what each has cost."""
        read = [q for q in desk.questions if not isinstance(q, Writing)]
        written = [q for q in desk.questions if isinstance(q, Writing) and q not in known]
        yield from self._counted(self._reader, self._reader.answer(read, known, advance))
        try:
            yield from self._counted(self._generator, self._generator.answer(written, advance))
        except NumericsError as error:
            if error.request is not None:
                error.request = desk.owner(written[error.request])
            raise

    def _counted(
        self, worker: Reader | Generator, batches: Iterator[dict[Question, Answer]]
    ) -> Iterator[dict[Question, Answer]]:
        before = worker.tokens
        for answers in batches:
            self.tokens += worker.tokens - before
            before = worker.tokens
            yield answers
        self.tokens += worker.tokens - before


class _Desk:
    """Who asked what: hands answers out to requests, each of which leaves when it has all."""

    def __init__(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> None:
        self._requests, self._encoded = requests, encoded
        self._asked = [questions(r, e) for r, e in zip(requests, encoded, strict=True)]
        self._owners: dict[Question, list[int]] = defaultdict(list)
        for i, mine in enumerate(self._asked):
            for question in mine:
                self._owners[question].append(i)
        self._missing = [len(mine) for mine in self._asked]
        self._held: dict[Question, Answer] = {}

    @property
    def questions(self) -> list[Question]:
        """All distinct questions, in order."""
        return list(self._owners)

    def owner(self, question: Question) -> int:
        """The first request that asked a question."""
        return self._owners[question][0]

    def count(self, question: Question) -> int:
        """How many requests asked a question."""
        return len(self._owners[question])

    def cost(self, answers: Mapping[Question, Answer]) -> int:
        """Tokens that separate requests would have fed for these answers."""
        return sum(answer.asked * len(self._owners[q]) for q, answer in answers.items())

    def without_questions(self) -> Iterator[tuple[int, Response]]:
        """Responses to requests that have nothing to ask, such as empty texts."""
        for i, mine in enumerate(self._asked):
            if not mine:
                yield i, self._response(i)

    def take(self, answers: Mapping[Question, Answer]) -> Iterator[tuple[int, Response]]:
        """Responses to the requests that are complete with these answers.

        Raises:
            NumericsError: a log-probability is not finite.
        """
        self._held.update(answers)
        for question in answers:
            for i in self._owners[question]:
                self._missing[i] -= 1
                if not self._missing[i]:
                    yield i, self._response(i)

    def _response(self, i: int) -> Response:
        values = [self._held[question].value for question in self._asked[i]]
        if values and isinstance(values[0], Word | Generated):
            return values[0]
        parts = [value for value in values if isinstance(value, SpanScores)]
        _check_finite(parts, i)
        return _response(self._requests[i], self._encoded[i], parts)


def _check_finite(parts: Sequence[SpanScores], request: int) -> None:
    for part in parts:
        bad = part.logprobs[~np.isfinite(part.logprobs)]
        if bad.size:
            raise NumericsError(f"a log-probability is {bad[0]}, expected a finite number", request)


def _response(request: Request, encoded: Encoded, parts: Sequence[SpanScores]) -> Response:
    """Scores of a request's spans, in order -> its response."""
    logprobs = [float(x) for part in parts for x in part.logprobs]
    greedy = [bool(x) for part in parts for x in part.greedy]
    if isinstance(request, RollingLoglikelihood):
        pieces: list[Scored] = []
        done = 0
        for count in encoded.pieces:
            stop = done + count
            pieces.append(Scored(tuple(logprobs[done:stop]), tuple(greedy[done:stop])))
            done = stop
        return Rolled(tuple(pieces))
    assert isinstance(request, Loglikelihood), f"no score for {type(request).__name__}"
    return Scored(tuple(logprobs), tuple(greedy))
