"""Prompts -> completions: a shared prefix is computed once, its completions are decoded together.

    queries --plan--> rows --admit--> slots of keys and values --feed--> tokens per completion

Completions that differ only in their seeds share their prompt. Groups of rows are planned from all
queries, including those with a known answer, so that an interrupted run is resumed with the same
groups as an undisturbed one. After running out of memory, the unfinished completions of a group
start again with half as much at once, and give the same answers.
"""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, islice

import torch
from torch import Tensor

from harness.core import Generated, Tokens
from harness.engine.decoding.completion import Completion, Endings
from harness.engine.decoding.plan import (
    MAX_PROMPTS,
    PromptRow,
    longest,
    plan_generation,
    split_by_rope_limit,
)
from harness.engine.decoding.rows import FULL_PASSES, Limits, PlainRows, Step
from harness.engine.decoding.sampling import choose
from harness.engine.decoding.verify_decoding import DecodingMethods, Rows, SharingRows
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import recover
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query
from harness.engine.scoring.planner import Planner
from harness.engine.scoring.ties import tie_counts, tied
from harness.errors import NumericsError

log = logging.getLogger(__name__)

GROUP_SIZE = 256  # completions decoded, and stored, together: what an interrupted run loses

Finished = list[tuple[GenerationQuery, Generated]]


class Generator:
    """Generates text with one model; `tokens` is the cost of the answers so far."""

    def __init__(
        self, forward: Forward, planner: Planner, endings: Endings, limits: Limits
    ) -> None:
        self.tokens = Tokens()
        self._forward, self._planner = forward, planner
        self._endings, self._limits = endings, limits
        self._methods = DecodingMethods(forward)

    def answer(
        self, queries: Sequence[GenerationQuery], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each group, when all of them are complete; see `Backend.answer`.

        Progress is in prompt tokens.
        """
        groups = self._groups(queries) if any(query not in known for query in queries) else []
        total = sum(len(planned.row) for group in groups for planned in group)
        done = 0
        for group in groups:
            advance(done, total)
            missing = [q for planned in group for q in planned.all_queries() if q not in known]
            answers: dict[Query, Answer] = {}
            while len(answers) < len(missing):
                completions = {q: Completion(q) for q in missing if q not in answers}
                try:
                    for group_done, finished in self._decode(group, completions):
                        advance(done + group_done, total)
                        for query, generated in finished:
                            fed = len(query.prompt) + len(generated.tokens) - 1
                            answers[query] = Answer(generated, fed)
                except (RuntimeError, MemoryError) as error:
                    single = "a single answer" if self._limits.completions == 1 else ""
                    recover(error, self._forward.device, single, self._forward.processes)
                    self._limits = self._limits.halved()
                    count = self._limits.completions
                    log.warning("out of memory: going on with %d answers at once", count)
            done += sum(len(planned.row) for planned in group)
            advance(done, total)
            if answers:
                yield answers

    def plan(self, queries: Sequence[GenerationQuery]) -> list[PromptRow]:
        """Rows for the prompts of queries."""
        arrange_prompts = partial(self._planner.prompt_rows, max_prompts=self._max_prompts)
        return plan_generation(queries, arrange_prompts, self._forward.rope_limit)

    def full_passes(self, queries: Sequence[GenerationQuery]) -> list[GenerationQuery]:
        """Those queries that are decoded without a cache; runs the self-tests."""
        within, beyond = split_by_rope_limit(queries, self._forward.rope_limit)
        if not within or self._sharing() or self._methods.step_method(longest(within)).cached:
            return beyond
        return [*within, *beyond]

    @property
    def _max_prompts(self) -> int:
        """Prompts per row."""
        return min(MAX_PROMPTS, self._limits.completions)

    def _sharing(self) -> SharingRows | None:
        return None if self._planner.sharing is None else self._methods.sharing()

    def _groups(self, queries: Sequence[GenerationQuery]) -> list[list[PromptRow]]:
        """Rows that are decoded, and whose answers are stored, together."""
        groups: list[list[PromptRow]] = []
        size = 0
        for planned in self.plan(queries):
            count = len(planned.all_queries())
            if groups and size + count <= GROUP_SIZE:
                groups[-1].append(planned)
                size += count
            else:
                groups.append([planned])
                size = count
        return groups

    def _decode(
        self, group: Sequence[PromptRow], completions: Mapping[GenerationQuery, Completion]
    ) -> Iterator[tuple[int, Finished]]:
        """Decode a group, or those of its queries that are left, to the end.

        Yields the prompt tokens done so far, and what each step finishes.
        """
        planned_as_is = sum(len(planned.all_queries()) for planned in group) == len(completions)
        if not planned_as_is or any(len(p.row.nodes) > self._max_prompts for p in group):
            group = self.plan([*completions])
        parts = self._rows(group, completions)
        done = 0
        try:
            for rows in parts:
                while True:
                    with self._forward.inference():
                        step = rows.admit() or rows.feed()
                        if step is None:
                            break
                        finished = self._choose_tokens(rows, step)
                    if finished:
                        yield done + rows.done, finished
                done += rows.done
        finally:
            computed = sum(rows.computed for rows in parts)
            read = sum(len(completion.tokens) for completion in completions.values())
            self.tokens += Tokens(computed=computed, scored=read)

    def _rows(
        self, group: Sequence[PromptRow], completions: Mapping[GenerationQuery, Completion]
    ) -> list[Rows]:
        """Rows to be decoded one after the other, with a method that has passed its self-test."""
        within = [planned for planned in group if not planned.beyond_rope_limit]
        beyond = [planned for planned in group if planned.beyond_rope_limit]
        queries = [q for planned in within for q in planned.all_queries()]
        parts: list[Rows] = []
        sharing = self._sharing() if within else None
        if sharing:
            parts.append(sharing(self._forward, within, completions, self._limits))
        elif within:
            method = self._methods.step_method(longest(queries))
            alone = [completions[query] for query in queries]
            parts.append(PlainRows(self._forward, alone, self._limits, method))
        if beyond:
            alone = [completions[q] for planned in beyond for q in planned.all_queries()]
            parts.append(PlainRows(self._forward, alone, self._limits, FULL_PASSES))
        return parts

    def _choose_tokens(self, rows: Rows, step: Step) -> Finished:
        """Append the next tokens to each completion; finished ones leave the rows.

        Of the tokens chosen after a draft, those count that the draft has right, and the next one.

        Raises:
            NumericsError: a log-probability is not finite.
        """
        chosen = self._chosen(step)
        going = [(c, draft, [*islice(chosen, 1 + len(draft))]) for c, draft in step.drafted()]
        finished: Finished = []
        k = 0
        while going:
            for completion, _, tokens in going:
                _append(completion, *tokens[k])
            ended = dict(self._endings.finished([completion for completion, _, _ in going]))
            for completion, generated in ended.items():
                rows.leave(completion)
                finished.append((completion.query, generated))
            going = [
                (completion, draft, tokens)
                for completion, draft, tokens in going
                if completion not in ended and [*draft[k : k + 1]] == completion.tokens[-1:]
            ]
            k += 1
        return finished

    def _chosen(self, step: Step) -> Iterator[tuple[int, float]]:
        """The token chosen after each state, with its log-probability."""
        places = [
            (completion, len(completion.tokens) + k)
            for completion, draft in step.drafted()
            for k in range(1 + len(draft))
        ]
        top_k = [completion.query.top_k for completion, _ in places]
        draws = [completion.draws[place] for completion, place in places]
        chosen: list[Tensor] = []
        ties: list[Tensor] = []
        # Drafts must not need more memory for logits than there is.
        parts = torch.split(step.states, max(self._forward.chunk, len(step.completions)))
        counts = [len(part) for part in parts]
        for part, end in zip(parts, accumulate(counts), strict=True):
            these = slice(end - len(part), end)
            logits = self._forward.head(part)
            ties.append(tied(logits))
            chosen.append(choose(logits, top_k[these], draws[these]))
        found = torch.stack(ties).sum().float()[None]
        values = torch.cat([torch.cat(chosen, dim=1).flatten(), found])
        *flat, tie_count = values.cpu().tolist()  # the one copy to the host
        if max(top_k) == 1:  # a sample does not depend on which of equal tokens is the first
            self.tokens += tie_counts(counts, tie_count)
        return zip(map(int, flat[: len(places)]), flat[len(places) :], strict=True)


def _append(completion: Completion, token: int, logprob: float) -> None:
    if not math.isfinite(logprob):
        message = f"a log-probability is {logprob}, expected a finite number"
        raise NumericsError(message, query=completion.query)
    completion.tokens.append(token)
    completion.logprobs.append(logprob)
