"""Prompts -> answers: a shared prefix is computed once, its branches are decoded in step.

    prompts --arrange--> rows --admit--> slots of keys and values --feed--> one token a branch

Identical requests run once; requests that differ in their seeds share their prompt. When memory
runs out, everything that is not complete begins again with half as much at once, and comes to
the same answers.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from harness.core import Generate, Generated, Tokens
from harness.engine.draft import Draft, Endings
from harness.engine.encode import Span
from harness.engine.forward import Forward
from harness.engine.plan import TreeRow
from harness.engine.rows import Limits, PlainRows, Rows, Step
from harness.engine.sample import choose
from harness.engine.shared_rows import SharedRows
from harness.errors import CheckpointError, NumericsError

log = logging.getLogger(__name__)

MAX_SPANS = 32  # prompts of a row: every branch pays attention to all columns, masked or not
Plan = Callable[[Sequence[Span], int, int], list[TreeRow] | None]
"""Distinct prompts, how long the longest will grow, and the most prompts of a row -> rows; None
if nothing may be shared."""


class _Job(NamedTuple):
    """What makes two requests the same."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    top_k: int
    seed: tuple[int, ...]


class Generator:
    """Decodes answers with one model.

    Attributes:
        tokens: what the answers so far have cost.
    """

    def __init__(self, forward: Forward, endings: Endings, limits: Limits) -> None:
        self.tokens = Tokens()
        self._forward, self._endings, self._limits = forward, endings, limits

    def answer(
        self,
        requests: Mapping[int, Generate],
        prompts: Mapping[int, tuple[int, ...]],
        plan: Plan,
        advance: Callable[[int, int], None],
    ) -> Iterator[tuple[int, Generated]]:
        """(index, answer) of every request, as soon as it is complete.

        Args:
            requests: by index.
            prompts: the tokens of each request's prompt.
            plan: makes rows of prompts.
            advance: called with the prompt tokens done so far and in all.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the index.
            CheckpointError: memory does not hold even one answer.
        """
        owners: dict[_Job, list[int]] = defaultdict(list)
        for i, request in requests.items():
            seed = request.seed if request.top_k > 1 else ()
            key = (request.max_new_tokens, request.stop, request.top_k, seed)
            owners[_Job(prompts[i], *key)].append(i)
        jobs = list(owners)
        todo = dict.fromkeys(range(len(jobs)))
        while todo:
            drafts = {
                j: Draft(requests[owners[jobs[j]][0]], jobs[j].prompt, self._endings) for j in todo
            }
            try:
                for j, answer in self._decode(drafts, plan, advance):
                    del todo[j]
                    for i in owners[jobs[j]]:
                        asked = len(prompts[i]) + len(answer.tokens) - 1
                        self.tokens += Tokens(asked=asked)
                        yield i, answer
            except NumericsError as error:
                if error.request is not None:
                    error.request = owners[jobs[error.request]][0]
                raise
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._shrink(error)

    def _decode(
        self, drafts: Mapping[int, Draft], plan: Plan, advance: Callable[[int, int], None]
    ) -> Iterator[tuple[int, Generated]]:
        """Rows for the drafts, decoded to the end; counts what that cost, complete or not."""
        by_prompt: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for j, draft in drafts.items():
            by_prompt[draft.prompt].append(j)
        spans = [Span(prompt, (), top=True) for prompt in by_prompt]
        jobs = dict(enumerate(by_prompt.values()))
        grown = max(len(d.prompt) + d.request.max_new_tokens for d in drafts.values())
        planned = plan(spans, grown, min(MAX_SPANS, self._limits.branches))
        rows: Rows
        if planned is None:
            total = sum(len(draft.prompt) for draft in drafts.values())
            rows = PlainRows(self._forward, spans, jobs=jobs, limits=self._limits)
        else:
            total = sum(len(row) for row in planned)
            rows = SharedRows(self._forward, planned, jobs=jobs, drafts=drafts, limits=self._limits)
        advance(0, total)
        try:
            for j, answer in decode(self._forward, rows, drafts):
                advance(rows.done, total)
                yield j, answer
        finally:
            read = sum(len(draft.tokens) for draft in drafts.values())
            self.tokens += Tokens(computed=rows.computed, scored=read)

    def _shrink(self, error: RuntimeError) -> None:
        """Halve the limits after running out of memory; anything else is raised again."""
        if not out_of_memory(error):
            raise error
        if self._limits.least:
            raise CheckpointError(
                "out of memory on a single answer; use a smaller --context, --dtype bfloat16 or "
                "another device"
            ) from error
        if self._forward.device.type != "cpu":
            torch.accelerator.empty_cache()
        self._limits = self._limits.halved()
        log.warning("out of memory: going on with %d answers at once", self._limits.branches)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text


def decode(
    forward: Forward, rows: Rows, drafts: Mapping[int, Draft]
) -> Iterator[tuple[int, Generated]]:
    """(job, answer) of every draft, in the order in which they become complete.

    Raises:
        NumericsError: a log-probability is not finite; its `request` is the job.
    """
    while True:
        with torch.inference_mode():
            step = rows.admit() or rows.feed()
            if step is None:
                return
            complete = _advance(forward, rows, drafts, step)
        yield from complete


def _advance(
    forward: Forward, rows: Rows, drafts: Mapping[int, Draft], step: Step
) -> list[tuple[int, Generated]]:
    """Choose the next token of each branch; the answers that are complete leave."""
    branches, states = step
    mine = [drafts[branch.job] for branch in branches]
    chosen = choose(
        forward.head(states),
        [draft.request.top_k for draft in mine],
        [draft.draw for draft in mine],
    )
    tokens, logprobs = chosen.cpu().tolist()  # the one copy out
    complete: list[tuple[int, Generated]] = []
    for branch, draft, token, logprob in zip(branches, mine, tokens, logprobs, strict=True):
        if not math.isfinite(logprob):
            raise NumericsError(
                f"a log-probability is {logprob}, expected a finite number", branch.job
            )
        branch.token = int(token)
        answer = draft.take(branch.token, logprob)
        if answer is not None:
            rows.leave(branch)
            complete.append((branch.job, answer))
    return complete
