"""Choose a way of decoding that agrees with the model's own full pass.

A step over a KV cache is correct only if the model counts positions, masks and states as in a full
pass, and not every model does. Before a method is used, a few made-up tokens are decoded with it,
and the log-probabilities of every next token are compared with those of a full pass. A model that
fails with every method is decoded by full passes.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from harness.engine.attention.cascade_cache import takes_cascade
from harness.engine.decoding.cascade_rows import CascadeRows
from harness.engine.decoding.completion import Completion
from harness.engine.decoding.plan import plan_generation
from harness.engine.decoding.rows import FULL_PASSES, Limits, PlainRows, StepMethod
from harness.engine.decoding.shared_rows import SharedRows
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.model.self_test import (
    Tolerance,
    failure,
    full_pass,
    largest,
    largest_difference,
    made_up_tokens,
)
from harness.engine.model.self_test_results import NotStored
from harness.engine.queries.prefix_tree import arrange
from harness.engine.queries.query import GenerationQuery, Sharing

log = logging.getLogger(__name__)

# In order of preference: as `generate` does it, with the masks of a full pass, with the model's own
# positions, and for a model whose state is not all in a cache that can be cut.
CACHED_METHODS = (
    StepMethod(),
    StepMethod(windows=False),
    StepMethod(positions=False),
    StepMethod(cut=False),
)
SHORT_PROMPT = 5  # tokens; rows that share nothing are tested at their own length too
NEW_TOKENS = 2  # after a prompt
DRAFTED_TOKENS = 5  # likewise, where they are drafted: kept, refused, and kept once more
# Relative to the largest log-probability. Rounding alone makes 2e-6 in float32, 1e-2 in bfloat16.
TOLERANCE = Tolerance(2e-5, 3e-2)
Rows = PlainRows | SharedRows | CascadeRows
"""Completions that are being decoded."""
SharingRows = type[CascadeRows] | type[SharedRows]
"""A kind of rows that share the prefixes of their prompts."""
_ALWAYS_SHARE = Sharing(pair_cost=0.0, max_row=1 << 20)
_LIMITS = Limits(prefill=1 << 20, completions=8, cache_bytes=1)


class Text(NamedTuple):
    """Made-up tokens to decode."""

    prompt: tuple[int, ...]
    new: tuple[int, ...]

    def completion(self) -> Completion:
        """One that will be fed the new tokens."""
        query = GenerationQuery(self.prompt, len(self.new) + 1, (), 1, ())
        return Completion(query)


class HalfRight:
    """Drafts the next token of a text and a wrong one; nothing after prompts of even length."""

    def __init__(self, texts: Sequence[Text], completion: Completion) -> None:
        self._completion = completion
        [self._text] = [text for text in texts if text.prompt == completion.query.prompt]

    def draft(self, worth: float) -> list[int]:
        """As `Drafter.draft`, whatever it is worth."""
        del worth
        (prompt, new), begin = self._text, len(self._completion.tokens)
        room = len(new) - begin if len(prompt) % 2 else 0
        return [*new[begin : begin + 1], prompt[0]][:room]


class DecodingMethods:
    """Chooses how completions of one model are decoded."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._sharing: SharingRows | None = None
        self._sharing_tested = False
        self._methods = [*CACHED_METHODS] if forward.takes_cache else []
        self._verified = 0  # longest text, in tokens, on which the first method has passed
        self._fault = "the model takes no cache of keys and values"
        self._warned = False

    def sharing(self) -> SharingRows | None:
        """The kind of rows that share the prefixes of their prompts; None if no kind is correct."""
        if not self._sharing_tested:
            self._sharing = self._tested_sharing()
            self._sharing_tested = True
        return self._sharing

    def _tested_sharing(self) -> SharingRows | None:
        get = self._forward.self_tests.get
        name = "decoding, cascade with drafts"
        if _may_take_cascade(self._forward) and not get(name, self._test_cascade):
            return CascadeRows
        fault = get("decoding, shared prefixes", self._test_sharing)
        if fault:
            log.warning("answers are decoded without shared prefixes: %s", fault)
        return None if fault else SharedRows

    def step_method(self, longest: int) -> StepMethod:
        """How tokens are fed to rows that share nothing.

        `longest` is in tokens, of a prompt with its completion: a shorter attention window shows
        only at that length.
        """
        lengths = sorted({SHORT_PROMPT, max(SHORT_PROMPT, longest - NEW_TOKENS)})
        while self._methods and self._verified < lengths[-1]:
            length = next(n for n in lengths if n > self._verified)
            method = self._methods[0]
            self._fault = self._forward.self_tests.get(
                f"decoding, {length} tokens, {method}",
                partial(self._test_method, method, length),
            )
            self._verified = 0 if self._fault else length
            if self._fault:
                self._methods.pop(0)
        if self._methods:
            return self._methods[0]
        if not self._warned:
            log.warning("answers are decoded by full passes, which is slower: %s", self._fault)
            self._warned = True
        return FULL_PASSES

    def _test_cascade(self) -> str:
        new = DRAFTED_TOKENS
        path = _texts(self._forward, SHORT_PROMPT, [0, 2], new=new, shared=True)
        branch = made_up_tokens(self._forward, len(path[0].prompt), 1)
        alone = _texts(self._forward, SHORT_PROMPT, [1, 0], new=new)
        texts = [path[0], Text((*path[0].prompt[:2], *branch), path[0].new), path[1], *alone]
        kind = partial(CascadeRows, make_drafter=partial(HalfRight, texts))
        return self._test(partial(self._shared_rows, kind), texts)

    def _test_sharing(self) -> str:
        texts = _texts(self._forward, SHORT_PROMPT, [0, 2], shared=True)
        return self._test(partial(self._shared_rows, SharedRows), texts)

    def _test_method(self, method: StepMethod, length: int) -> str:
        texts = _texts(self._forward, length, [0, 0] if length == SHORT_PROMPT else [0])
        return self._test(partial(PlainRows, self._forward, limits=_LIMITS, method=method), texts)

    def _shared_rows(self, kind: Callable[..., Rows], completions: Sequence[Completion]) -> Rows:
        by_query = {completion.query: completion for completion in completions}
        rows = plan_generation([*by_query], lambda spans, _: arrange(spans, _ALWAYS_SHARE), None)
        return kind(self._forward, rows, by_query, _LIMITS)

    def _test(self, make_rows: Callable[[list[Completion]], Rows], texts: Sequence[Text]) -> str:
        """How decoding these rows differs from a full pass; empty if it does not."""
        with self._forward.inference():
            begins = [len(text.prompt) - 1 for text in texts]
            expected = full_pass(self._forward, [(*t.prompt, *t.new) for t in texts], begins)
            try:
                decoded = _decode(self._forward, make_rows, texts)
            except Exception as error:  # a model's own code may raise anything
                if is_out_of_memory(error):
                    raise
                return NotStored(failure(error))
        difference = largest_difference(decoded, expected)
        if difference <= TOLERANCE.of(self._forward) * max(1.0, largest(expected)):
            return ""
        length = max(len(prompt) + len(new) for prompt, new in texts)
        return f"at {length} tokens cached steps differ from the full pass by {difference:.1g} nats"


def _may_take_cascade(forward: Forward) -> bool:
    """Whether a test makes sense: no windows, and a dtype whose scores stay in float32."""
    exact = forward.device.type == "cpu" or forward.model.dtype == torch.float32
    return exact and forward.sees_everything and takes_cascade(forward.model)


def _texts(
    forward: Forward,
    length: int,
    extra: Sequence[int],
    *,
    new: int = NEW_TOKENS,
    shared: bool = False,
) -> list[Text]:
    """Made-up texts, one per entry of `extra`, with prompts of `length` + extra tokens.

    If `shared`, the prompts begin with the same tokens. The first of two texts is finished first.
    """
    length = max(1, min(length, forward.context - new - max(extra)))
    texts: list[Text] = []
    for k, more in enumerate(extra):
        tokens = made_up_tokens(forward, length + max(extra) + new, 0 if shared else k)
        count = new if k + 1 == len(extra) else new - 1
        texts.append(Text(tokens[: length + more], tokens[length + more :][:count]))
    return texts


def _decode(
    forward: Forward, make_rows: Callable[[list[Completion]], Rows], texts: Sequence[Text]
) -> Tensor:
    """Log-probabilities (N, V) of what may follow each prompt and each new token, text by text."""
    completions = [text.completion() for text in texts]
    logprobs: list[list[Tensor]] = [[] for _ in texts]
    rows = make_rows(completions)
    while (step := rows.admit() or rows.feed()) is not None:
        found = iter(forward.head(step.states).log_softmax(-1))
        for completion, draft in step.drafted():
            t = completions.index(completion)
            new = texts[t].new
            of_completion = [*islice(found, 1 + len(draft))]
            for k, row in enumerate(of_completion):
                logprobs[t].append(row)
                if len(completion.tokens) == len(new):
                    rows.leave(completion)
                    break
                completion.tokens.append(new[len(completion.tokens)])
                if [*draft[k : k + 1]] != completion.tokens[-1:]:
                    break
    return torch.stack([row for of_text in logprobs for row in of_text])
