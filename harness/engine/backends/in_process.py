"""The backend that runs a checkpoint in this process."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from harness.core import Tokens
from harness.engine.backends.backend import BackendOptions
from harness.engine.backends.cost import CostModel, Estimate
from harness.engine.backends.rates import measure, rates
from harness.engine.cache.response_cache import numerics
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.decoding.completion import Endings
from harness.engine.decoding.generator import Generator
from harness.engine.decoding.rows import Limits
from harness.engine.model import capabilities
from harness.engine.model.forward import Forward
from harness.engine.model.self_test_results import SelfTestResults
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query
from harness.engine.scoring.planner import Planner
from harness.engine.scoring.scorer import Scorer
from harness.engine.scoring.shared_states import SharedStates

# Padded tokens per batch, completions decoded at once (a step reads all weights, so many share the
# cost), and bytes of their keys and values. Larger batches would overflow the caches of a CPU.
CPU_LIMITS = Limits(prefill=2048, completions=64, cache_bytes=512 << 20)
ACCELERATOR_LIMITS = Limits(prefill=16384, completions=256, cache_bytes=4 << 30)
# Of a GPU's memory, for keys and values. Not of what is free now: a run that is resumed would be
# planned differently from an undisturbed one.
_CACHE_SHARE = 8


class InProcess:
    """Answers queries with a loaded model.

    Args:
        checkpoint: the model.
        budget: padded tokens per batch; None chooses by the device.
        share: whether queries may share prefixes.
        store_self_tests: whether results of self-tests are kept in the user's cache.

    Raises:
        CheckpointError: the model is not causal.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        budget: int | None = None,
        share: bool = True,
        store_self_tests: bool = False,
    ) -> None:
        limits = limits_of(checkpoint.device)
        self._limits = replace(limits, prefill=budget or limits.prefill)
        self.identity, self.tokenizer = checkpoint.identity, checkpoint.tokenizer
        self._numerics, self._ends = numerics(checkpoint), checkpoint.end_tokens
        key = f"{self._numerics_key()}|context:{self.identity.context}|{_processor(checkpoint)}"
        self.forward = Forward(checkpoint, SelfTestResults(key if store_self_tests else None))
        with self.forward.inference():
            capabilities.check_model(self.forward, checkpoint.identity.name)
        if checkpoint.compiled:
            self.forward.compile(self._limits.prefill)
        self.planner = Planner(self.forward, self._limits.prefill, share=share)
        # Copies of states exist twice while they grow.
        states = SharedStates(self.forward, self._limits.cache_bytes // 2)
        budget = self._limits.prefill
        self._scorer = Scorer(self.forward, self.planner, self.tokenizer, budget, states)
        endings = Endings(self.tokenizer, checkpoint.end_tokens, self.forward.vocabulary)
        self.generator = Generator(self.forward, self.planner, endings, self._limits)

    def _numerics_key(self) -> str:
        """The checkpoint, and everything else that its speed and its last digits depend on."""
        identity = self.identity
        return f"{identity.digest}|{identity.device}|{identity.threads}|{self._numerics}"

    @property
    def tokens(self) -> Tokens:
        """The cost of all answers so far."""
        return self._scorer.tokens + self.generator.tokens

    @property
    def options(self) -> BackendOptions:
        """How answers are computed; a model that fails a self-test stops sharing."""
        return BackendOptions(
            self._numerics,
            self.planner.sharing,
            self._limits.prefill,
            self._ends,
            self.forward.vocabulary,
            copies_states=self.planner.copies_states,
        )

    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each batch, as `Backend.answer` describes: scores first, then texts."""
        scored = [q for q in queries if not isinstance(q, GenerationQuery)]
        generated = [q for q in queries if isinstance(q, GenerationQuery)]
        yield from self._scorer.answer(scored, known, advance)
        yield from self.generator.answer(generated, known, advance)

    def estimate(self, counts: Mapping[Query, int], known: Collection[Query]) -> Estimate:
        """As `CostModel.estimate`; measures the machine's rates if they are not stored.

        Processes that compute together measure together, whatever each of them finds stored.
        """
        alone = self.forward.processes == 1
        speed = rates(self.forward, self._numerics_key()) if alone else measure(self.forward)
        model = CostModel(self.forward, self.planner, self.generator, self._limits, speed)
        return model.estimate(counts, known)


def limits_of(device: torch.device) -> Limits:
    """How much is computed at once on a device; a GPU decodes with an eighth of its memory."""
    if device.type == "cpu":
        return CPU_LIMITS
    if device.type != "cuda":
        return ACCELERATOR_LIMITS
    total = torch.cuda.get_device_properties(device).total_memory
    return replace(ACCELERATOR_LIMITS, cache_bytes=total // _CACHE_SHARE)


def _processor(checkpoint: Checkpoint) -> str:
    """The kind of device: the name of a GPU, the instruction set of a CPU."""
    if checkpoint.device.type == "cuda":
        return torch.cuda.get_device_name(checkpoint.device)
    return torch.backends.cpu.get_cpu_capability()
