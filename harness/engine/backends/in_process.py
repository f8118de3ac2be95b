"""Questions -> answers in this process, with one resident checkpoint."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from harness.core import Tokens
from harness.engine.backends.backend import BackendOptions
from harness.engine.backends.cost import Estimate, Means, estimate, rates
from harness.engine.cache.response_cache import numerics
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.decoding.completion import Endings
from harness.engine.decoding.generator import Generator
from harness.engine.decoding.rows import Limits
from harness.engine.model import capabilities
from harness.engine.model.forward import Forward
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query
from harness.engine.scoring.planner import Planner
from harness.engine.scoring.scorer import Scorer
from harness.errors import NumericsError

CPU_BUDGET = 2048  # padded tokens a batch; more does not help a CPU, its caches overflow
ACCELERATOR_BUDGET = 16384
# Answers decoded at once: a step reads all weights, so that many share the cost; and bytes of
# the keys and values that they are decoded over.
CPU_ANSWERS, CPU_CACHE = 64, 512 << 20
ACCELERATOR_ANSWERS, ACCELERATOR_CACHE = 256, 4 << 30


class InProcess:
    """Answers questions with a loaded model.

    Args:
        checkpoint: the model.
        budget: padded tokens a batch; None chooses by the device.
        share: whether questions may share prefixes.

    Attributes:
        tokens: what the answers so far have cost.
        forward: the model's passes.
        planner: arranges rows.
        generator: writes texts.

    Raises:
        CheckpointError: the model is not causal.
    """

    def __init__(self, checkpoint: Checkpoint, *, budget: int | None, share: bool) -> None:
        self.tokens = Tokens()
        on_cpu = checkpoint.device.type == "cpu"
        self._budget = budget or (CPU_BUDGET if on_cpu else ACCELERATOR_BUDGET)
        self.identity, self.tokenizer = checkpoint.identity, checkpoint.tokenizer
        self._numerics = numerics(checkpoint)
        self.forward = Forward(checkpoint)
        with torch.inference_mode():
            capabilities.check_model(self.forward, checkpoint.identity.name)
        if checkpoint.compiled:
            self.forward.compile(self._budget)
        self.planner = Planner(self.forward, self._budget, share=share)
        self._reader = Scorer(self.forward, self.planner, checkpoint.tokenizer, self._budget)
        self._limits = Limits(
            self._budget,
            CPU_ANSWERS if on_cpu else ACCELERATOR_ANSWERS,
            CPU_CACHE if on_cpu else ACCELERATOR_CACHE,
        )
        self._ends = checkpoint.end_tokens
        endings = Endings(checkpoint.tokenizer, checkpoint.end_tokens, self.forward.vocabulary)
        self.generator = Generator(self.forward, self.planner, endings, self._limits)

    @property
    def options(self) -> BackendOptions:
        """How questions are answered; a model that fails a check stops sharing."""
        return BackendOptions(
            self._numerics,
            self.planner.sharing,
            self._budget,
            self._ends,
            self.forward.vocabulary,
        )

    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each batch, as `Backend.answer` describes."""
        read = [q for q in queries if not isinstance(q, GenerationQuery)]
        written = [q for q in queries if isinstance(q, GenerationQuery)]
        yield from self._counted(self._reader, self._reader.answer(read, known, advance))
        try:
            yield from self._counted(self.generator, self.generator.answer(written, known, advance))
        except NumericsError as error:
            if error.request is not None:
                error.request = queries.index(written[error.request])
            raise

    def _counted(
        self, half: Scorer | Generator, batches: Iterator[dict[Query, Answer]]
    ) -> Iterator[dict[Query, Answer]]:
        before = half.tokens
        for answers in batches:
            self.tokens += half.tokens - before
            before = half.tokens
            yield answers
        self.tokens += half.tokens - before

    def estimate(self, owners: Mapping[Query, int], known: Collection[Query]) -> Estimate:
        """What `answer` will cost; measures the machine's rates if they are not known.

        Args:
            owners: question -> how many requests ask it.
            known: those that need no answer.
        """
        who = self.identity
        key = f"{who.digest}|{who.device}|{who.threads}|{self._numerics}"
        means = Means(
            self.forward,
            self.planner,
            self._limits,
            rates(self.forward, key),
            self.generator,
        )
        return estimate(owners, known, means)
