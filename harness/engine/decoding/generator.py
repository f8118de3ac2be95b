"""Prompts -> answers: a shared prefix is computed once, its branches are decoded in step.

    prompts --arrange--> rows --admit--> slots of keys and values --feed--> one token a branch

Answers that differ in their seeds share their prompt. Groups of answers are planned from all
questions, those with a known answer included, so that a run that was stopped is continued with the
very groups of an undisturbed one. When memory runs out, what is not complete of a group begins
again with half as much at once, and comes to the same answers.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import torch

from harness.core import Generated, Tokens
from harness.engine.decoding.completion import Completion, Endings
from harness.engine.decoding.decoding_test import Decoding
from harness.engine.decoding.rows import FULL_PASSES, Limits, PlainRows, Rows, Step, Steps
from harness.engine.decoding.sampling import choose
from harness.engine.decoding.shared_rows import SharedRows
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.queries.encode import Span
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query
from harness.engine.scoring.planner import Planner
from harness.errors import CheckpointError, NumericsError

log = logging.getLogger(__name__)

GROUP = 256  # answers that are decoded, and stored, together: what a stop can cost
MAX_SPANS = 32  # prompts of a row: every branch pays attention to all columns, masked or not


class Generator:
    """Decodes answers with one model.

    Args:
        forward: the model.
        planner: arranges rows.
        endings: what ends an answer.
        limits: how much at once.

    Attributes:
        tokens: what the answers so far have cost.
    """

    def __init__(
        self, forward: Forward, planner: Planner, endings: Endings, limits: Limits
    ) -> None:
        self.tokens = Tokens()
        self._forward, self._planner = forward, planner
        self._endings, self._limits = endings, limits
        self._decoding = Decoding(forward)

    def answer(
        self, asked: Sequence[GenerationQuery], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each group, when all of them are complete.

        Args:
            asked: distinct questions.
            known: those among them that need no answer.
            advance: called with the prompt tokens done so far and in all.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the question's index.
            CheckpointError: memory does not hold even one answer.
        """
        groups = self._groups(asked) if any(question not in known for question in asked) else []
        total = sum(size for _, size in groups)
        done = 0
        for group, size in groups:
            left = [question for question in group if question not in known]
            try:
                found = self._answer_group(left, _behind(advance, done, total))
            except NumericsError as error:
                if error.request is not None:
                    error.request = asked.index(left[error.request])
                raise
            done += size
            advance(done, total)
            if found:
                yield found

    def full_passes(self, asked: Sequence[GenerationQuery]) -> list[GenerationQuery]:
        """Those questions whose answers are decoded without a cache; made-up tokens are fed."""
        near, far = by_rope_limit(asked, self._forward)
        if not near or (self._planner.shares and self._decoding.shares()):
            return far
        return far if self._decoding.steps(_longest(near)).cached else [*near, *far]

    def _groups(self, asked: Sequence[GenerationQuery]) -> list[tuple[list[GenerationQuery], int]]:
        """Questions that are answered together, in whole rows, and the tokens of those rows."""
        groups: list[tuple[list[GenerationQuery], int]] = []
        for mine, tokens in self._planned(asked):
            if groups and len(groups[-1][0]) + len(mine) <= GROUP:
                before, size = groups[-1]
                groups[-1] = ([*before, *mine], size + tokens)
            else:
                groups.append((mine, tokens))
        return groups

    def _planned(
        self, asked: Sequence[GenerationQuery]
    ) -> Iterator[tuple[list[GenerationQuery], int]]:
        """The questions of each row, and its tokens."""
        near, far = by_rope_limit(asked, self._forward)
        if near:
            of = _by_prompt(near)
            mine = list(of.values())
            for row in self._planner.answer_rows(_spans(of), _longest(near), self._most):
                yield [question for s in row.nodes for question in mine[s]], len(row)
        for prompt, questions in _by_prompt(far).items():
            yield questions, len(prompt)

    def _answer_group(
        self, asked: Sequence[GenerationQuery], advance: Advance
    ) -> dict[Query, Answer]:
        """All answers of a group, however often memory runs out meanwhile."""
        found: dict[Query, Answer] = {}
        todo = dict.fromkeys(range(len(asked)))
        while todo:
            drafts = {j: Completion(asked[j], self._endings) for j in todo}
            try:
                for complete in self._decode(drafts, advance):
                    for j, text in complete.items():
                        del todo[j]
                        fed = len(asked[j].prompt) + len(text.tokens) - 1
                        found[asked[j]] = Answer(text, fed)
            except (RuntimeError, MemoryError) as error:
                self._shrink(error)
        return found

    @property
    def _most(self) -> int:
        """Prompts of a row at most."""
        return min(MAX_SPANS, self._limits.branches)

    def _decode(
        self, drafts: Mapping[int, Completion], advance: Advance
    ) -> Iterator[dict[int, Generated]]:
        """Rows for the drafts, decoded to the end; counts what that cost, complete or not."""
        parts = self._parts({draft.asked: j for j, draft in drafts.items()})
        total = sum(size for _, size in parts)
        done = 0
        advance(done, total)
        try:
            for rows, size in parts:
                for complete in decode(self._forward, rows, drafts):
                    advance(done + rows.done, total)
                    yield complete
                done += size
        finally:
            computed = sum(rows.computed for rows, _ in parts)
            read = sum(len(draft.tokens) for draft in drafts.values())
            self.tokens += Tokens(computed=computed, scored=read)

    def _parts(self, jobs: Mapping[GenerationQuery, int]) -> list[tuple[Rows, int]]:
        """Rows that are decoded one after the other, and the tokens of their prompts."""
        near, far = by_rope_limit(list(jobs), self._forward)
        found = [self._near_rows(near, jobs)] if near else []
        return [*found, self._plain_rows(far, jobs, FULL_PASSES)] if far else found

    def _near_rows(
        self, asked: Sequence[GenerationQuery], jobs: Mapping[GenerationQuery, int]
    ) -> tuple[Rows, int]:
        """Rows in the best way that the model has been seen to decode rightly."""
        of, grown = _by_prompt(asked), _longest(asked)
        planned = self._planner.answer_rows(_spans(of), grown, self._most)
        if not (self._planner.shares and self._decoding.shares()):
            return self._plain_rows(asked, jobs, self._decoding.steps(grown))
        rows = SharedRows(
            self._forward,
            planned,
            jobs=_jobs(of, jobs),
            room={jobs[question]: question.max_new_tokens for question in asked},
            limits=self._limits,
        )
        return rows, sum(len(row) for row in planned)

    def _plain_rows(
        self, asked: Sequence[GenerationQuery], jobs: Mapping[GenerationQuery, int], steps: Steps
    ) -> tuple[Rows, int]:
        of = _by_prompt(asked)
        rows = PlainRows(
            self._forward, _spans(of), jobs=_jobs(of, jobs), limits=self._limits, steps=steps
        )
        return rows, sum(len(question.prompt) for question in asked)

    def _shrink(self, error: RuntimeError | MemoryError) -> None:
        """Halve the limits after running out of memory; anything else is raised again."""
        if not is_out_of_memory(error):
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


def _behind(advance: Advance, before: int, total: int) -> Advance:
    """Progress of one group among all."""
    return lambda done, _: advance(before + done, total)


def by_rope_limit(
    asked: Sequence[GenerationQuery], forward: Forward
) -> tuple[list[GenerationQuery], list[GenerationQuery]]:
    """Questions on either side of the length from which the model turns all positions anew.

    A cache of an answer that grows beyond it would hold keys that a full pass turns otherwise.
    """
    limit = forward.rope_limit
    if limit is None:
        return [*asked], []
    near = [q for q in asked if len(q.prompt) + q.max_new_tokens - 1 <= limit]
    return near, [q for q in asked if len(q.prompt) + q.max_new_tokens - 1 > limit]


def _by_prompt(asked: Sequence[GenerationQuery]) -> dict[tuple[int, ...], list[GenerationQuery]]:
    found: dict[tuple[int, ...], list[GenerationQuery]] = defaultdict(list)
    for question in asked:
        found[question.prompt].append(question)
    return found


def _spans(prompts: Iterable[tuple[int, ...]]) -> list[Span]:
    return [Span(prompt, (), top=True) for prompt in prompts]


def _jobs(
    of: Mapping[tuple[int, ...], Sequence[GenerationQuery]], jobs: Mapping[GenerationQuery, int]
) -> dict[int, list[int]]:
    """Span -> its jobs."""
    return {s: [jobs[question] for question in mine] for s, mine in enumerate(of.values())}


def _longest(asked: Sequence[GenerationQuery]) -> int:
    """Tokens of the longest prompt with its answer."""
    return max(len(question.prompt) + question.max_new_tokens for question in asked)


def decode(
    forward: Forward, rows: Rows, drafts: Mapping[int, Completion]
) -> Iterator[dict[int, Generated]]:
    """The answers, by draft, that each step completes.

    Raises:
        NumericsError: a log-probability is not finite; its `request` is the draft.
    """
    while True:
        with torch.inference_mode():
            step = rows.admit() or rows.feed()
            if step is None:
                return
            complete = _advance(forward, rows, drafts, step)
        if complete:
            yield complete


def _advance(
    forward: Forward, rows: Rows, drafts: Mapping[int, Completion], step: Step
) -> dict[int, Generated]:
    """Choose the next token of each branch; the answers that are complete leave."""
    branches, states = step
    mine = [drafts[branch.job] for branch in branches]
    chosen = choose(
        forward.head(states),
        [draft.asked.top_k for draft in mine],
        [draft.draw for draft in mine],
    )
    tokens, logprobs = chosen.cpu().tolist()  # the one copy out
    complete: dict[int, Generated] = {}
    for branch, draft, token, logprob in zip(branches, mine, tokens, logprobs, strict=True):
        if not math.isfinite(logprob):
            raise NumericsError(
                f"a log-probability is {logprob}, expected a finite number", branch.job
            )
        branch.token = int(token)
        answer = draft.take(branch.token, logprob)
        if answer is not None:
            rows.leave(branch)
            complete[branch.job] = answer
    return complete
