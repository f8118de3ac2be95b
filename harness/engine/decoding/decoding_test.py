"""Which way of decoding gives what the model's own full pass gives, found out by trial.

A cached step is only right if the model counts positions, masks and states as its full pass does,
and not every model does. So before a way is used, a few made-up tokens are decoded in it, and the
log-probabilities of every next token are compared with those of one full pass. Full passes alone
serve a model that passes no trial.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from harness.engine.decoding.rows import FULL_PASSES, Limits, PlainRows, Rows, Steps
from harness.engine.decoding.shared_rows import SharedRows
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.queries.encode import Span
from harness.engine.queries.prefix_tree import Sharing, arrange

log = logging.getLogger(__name__)

# The best first: as `generate` does it, with the masks of a full pass, with the model's own count,
# and for a model whose state is not all in a cache that can be cut.
CACHED = (Steps(), Steps(windows=False), Steps(positions=False), Steps(cut=False))
SHORT = 5  # tokens of a made-up prompt; rows that share nothing are tried at their own length too
WRITTEN = 2  # tokens after it
# Of the largest logit. Float32 differs by 2e-6 of it in rounding alone, bfloat16 by 1e-2.
ROUNDING = {torch.float32: 2e-5, torch.float64: 2e-5}
HALF_ROUNDING = 3e-2
_ALWAYS = Sharing(pair_cost=0.0, max_row=1 << 20)
_LIMITS = Limits(prefill=1 << 20, branches=8, cache_bytes=1)

Text = tuple[tuple[int, ...], tuple[int, ...]]
"""A prompt, and what is written after it."""


class Decoding:
    """Chooses how answers are decoded.

    Args:
        forward: the model.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._shared: bool | None = None
        self._ways = [*CACHED] if forward.takes_cache else []
        self._passed = 0  # up to how many tokens the first of the ways has passed
        self._reason = "the model takes no cache of keys and values"
        self._noticed = False

    def shares(self) -> bool:
        """Whether prompts that share a prefix are decoded rightly over one copy of it."""
        if self._shared is None:
            texts = _texts(self._forward, SHORT, (0, 2))
            reason = self._tried(lambda: _in_shared_rows(self._forward, texts), texts)
            self._shared = not reason
            if reason:
                log.warning("answers are decoded without shared prefixes: %s", reason)
        return self._shared

    def steps(self, grown: int) -> Steps:
        """How tokens are fed to rows that share nothing.

        Args:
            grown: tokens of the longest prompt with its answer. A window that is shorter shows at
                that length alone.
        """
        lengths = sorted({SHORT, max(SHORT, grown - WRITTEN)})
        while self._ways and self._passed < lengths[-1]:
            length = next(n for n in lengths if n > self._passed)
            self._reason = self._fails(self._ways[0], length)
            self._passed = 0 if self._reason else length
            if self._reason:
                self._ways.pop(0)
        if self._ways:
            return self._ways[0]
        if not self._noticed:
            log.warning("answers are decoded by full passes, which is slower: %s", self._reason)
            self._noticed = True
        return FULL_PASSES

    def _fails(self, steps: Steps, length: int) -> str:
        texts = _texts(self._forward, length, (0, 0) if length == SHORT else (0,))
        return self._tried(lambda: _in_plain_rows(self._forward, texts, steps), texts)

    def _tried(self, make: Callable[[], Rows], texts: Sequence[Text]) -> str:
        """Why rows are not decoded as a full pass has it; nothing if they are."""
        with torch.inference_mode():
            full = _full_pass(self._forward, texts)
            try:
                found = _follow(self._forward, make(), texts)
            except Exception as error:  # models raise whatever their own code raises
                if is_out_of_memory(error):
                    raise
                lines = str(error).strip().splitlines() or [""]
                return f"{type(error).__name__}: {lines[0][:120]}"
        worst = max(_apart(found[job], full[job]) for job in full)
        largest = max(float(x.nan_to_num().abs().max()) for x in full.values())
        bound = ROUNDING.get(self._forward.model.dtype, HALF_ROUNDING) * max(1.0, largest)
        if worst <= bound:
            return ""
        length = max(len(prompt) + len(written) for prompt, written in texts)
        return f"at {length} tokens cached steps differ from the full pass by {worst:.1g} nats"


def _texts(forward: Forward, length: int, more: tuple[int, ...]) -> list[Text]:
    """Texts of made-up tokens; where there are two, the first is complete before the second.

    Args:
        forward: the model.
        length: tokens of a prompt.
        more: how many tokens beyond that the prompts have; they share the first `length`, if any.
    """
    length = max(1, min(length, forward.context - WRITTEN - max(more)))
    found: list[Text] = []
    for k, extra in enumerate(more):
        count = length + extra
        begin = 0 if max(more) else k  # prompts that share nothing differ from the first token on
        tokens = _tokens(forward, count + WRITTEN, begin)
        written = WRITTEN - (k + 1 < len(more))
        found.append((tokens[:count], tokens[count : count + written]))
    return found


def _tokens(forward: Forward, count: int, begin: int) -> tuple[int, ...]:
    """Token ids spread over the vocabulary; none is padding, which some models do not count."""
    config = forward.model.config.get_text_config()
    pad, vocabulary = getattr(config, "pad_token_id", None), forward.vocabulary
    ids = [(17 + 7919 * i + 104729 * begin) % vocabulary for i in range(count)]
    return tuple((i + 1) % vocabulary if i == pad else i for i in ids)


def _in_plain_rows(forward: Forward, texts: Sequence[Text], steps: Steps) -> Rows:
    spans = [Span(prompt, (), top=True) for prompt, _ in texts]
    jobs = {job: [job] for job in range(len(texts))}
    return PlainRows(forward, spans, jobs=jobs, limits=_LIMITS, steps=steps)


def _in_shared_rows(forward: Forward, texts: Sequence[Text]) -> Rows:
    spans = [Span(prompt, (), top=True) for prompt, _ in texts]
    room = {job: len(written) + 1 for job, (_, written) in enumerate(texts)}
    jobs = {job: [job] for job in room}
    return SharedRows(forward, arrange(spans, _ALWAYS), jobs=jobs, room=room, limits=_LIMITS)


def _follow(forward: Forward, rows: Rows, texts: Sequence[Text]) -> Mapping[int, Tensor]:
    """Log-probabilities (N, V) of what may come after each prompt and each token behind it."""
    found: dict[int, list[Tensor]] = defaultdict(list)
    while (step := rows.admit() or rows.feed()) is not None:
        branches, states = step
        logprobs = forward.head(states).log_softmax(-1)
        for branch, row in zip(branches, logprobs, strict=True):
            written = texts[branch.job][1]
            if len(found[branch.job]) == len(written):
                rows.leave(branch)
            else:
                branch.token = written[len(found[branch.job])]
            found[branch.job].append(row)
    return {job: torch.stack(seen) for job, seen in found.items()}


def _full_pass(forward: Forward, texts: Sequence[Text]) -> Mapping[int, Tensor]:
    """The same by one pass over the whole texts."""
    width = max(len(prompt) + len(written) for prompt, written in texts)
    ids = torch.zeros((len(texts), width), dtype=torch.long)
    for job, (prompt, written) in enumerate(texts):
        ids[job, : len(prompt) + len(written)] = torch.tensor((*prompt, *written))
    states = forward.trunk(ids.to(forward.device))
    return {
        job: forward.head(states[job, len(prompt) - 1 : len(prompt) + len(written)]).log_softmax(-1)
        for job, (prompt, written) in enumerate(texts)
    }


def _apart(one: Tensor, two: Tensor) -> float:
    """The largest difference; where both are NaN there is none, that is found by their item."""
    if one.shape != two.shape:
        return float("inf")
    apart = (one - two).abs().masked_fill_(one.isnan() & two.isnan() | (one == two), 0.0)
    return float(apart.nan_to_num(nan=torch.inf).max())
