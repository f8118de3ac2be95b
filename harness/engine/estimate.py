"""What requests will cost, without a forward pass over them: tokens, rows, memory, time.

Time is arithmetic over the very batches that will be run, with rates that are measured on made-up
tokens in a few seconds, or were measured before on this machine. Texts are priced as if each were
as long as it may be, so that their time is an upper bound.
"""

import json
import resource
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.engine.digest import cache_root
from harness.engine.encode import Span
from harness.engine.forward import Forward
from harness.engine.generate import MAX_SPANS
from harness.engine.plan import TreeRow, batches
from harness.engine.questions import Question, Search, Writing
from harness.engine.reader import fed
from harness.engine.rows import Limits
from harness.engine.sharing import Planner

SHORT, LONG = 85, 1024  # tokens of a row at most: a passage of LAMBADA, a window
ROWS = 256  # whose logits are read to time the head
PATHS, SEARCHED = 6, 8  # a search for a word: paths behind its context, their tokens (on LAMBADA)
FILE = "rates.json"


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds, for one checkpoint on one machine."""

    token: float  # in matrix products, for each token of a batch
    path: float  # in attention, for each (query, key) pair of a plain row
    tree: float  # the same under a mask
    head: float  # for each position whose logits are read
    step: float  # for each token that is written beside others


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of one benchmark's requests."""

    questions: int  # distinct ones
    asked: int  # tokens that separate requests would feed
    stored: int  # tokens of them that are answered from disk
    computed: int  # tokens that will be fed
    rows: int
    largest: int  # padded tokens of the largest batch
    seconds: float
    peak_bytes: int
    at_most: bool  # whether texts are written, whose length is not known

    @property
    def sharing(self) -> float:
        """How many tokens are asked for each one that is computed."""
        return (self.asked - self.stored) / max(self.computed, 1)


@dataclass(frozen=True, slots=True)
class Means:
    """What requests will be answered with."""

    forward: Forward
    planner: Planner
    limits: Limits
    rates: Rates


def estimate(owners: Mapping[Question, int], known: Collection[Question], means: Means) -> Estimate:
    """The cost of questions.

    Args:
        owners: question -> how many requests ask it.
        known: those that are answered from disk.
        means: the model and how it is run.
    """
    asked = {question: _asked(question) * count for question, count in owners.items()}
    left = [question for question in owners if question not in known]
    spans = list(dict.fromkeys(fed(q) for q in left if not isinstance(q, Writing)))
    limits = means.limits.prefill, means.forward.rope_limit
    read = list(batches(means.planner.rows(spans), *limits)) if spans else []
    written = [question for question in left if isinstance(question, Writing)]
    rows = _prompt_rows(written, means)
    searches = sum(span.top for span in spans)
    new = sum(question.max_new_tokens for question in written)
    seconds = sum(batch_seconds(batch, spans, means.rates) for batch in read)
    sizes = [(len(b) * max(len(r) for r in b), max(len(r) for r in b), b) for b in read]
    peak = max(
        (batch_bytes(means.forward, size, width, kept=b[0].branches or searches > 0)
         for size, width, b in sizes),
        default=0,
    )  # fmt: skip
    if written:
        prefill = batch_bytes(means.forward, means.limits.prefill, means.forward.context, kept=True)
        peak = max(peak, prefill + means.limits.cache_bytes)
    return Estimate(
        questions=len(owners),
        asked=sum(asked.values()),
        stored=sum(asked[question] for question in known),
        computed=sum(len(row) for b in read for row in b) + SEARCHED * searches
        + sum(len(row) for row in rows) + new - len(written),
        rows=sum(len(b) for b in read) + len(rows),
        largest=max((size for size, _, _ in sizes), default=0),
        seconds=seconds + written_seconds(rows, new, means.rates),
        peak_bytes=resident_bytes() + peak,
        at_most=bool(written),
    )  # fmt: skip


def _asked(question: Question) -> int:
    """Tokens that a separate run would feed; of texts the most, of searches the usual number."""
    if isinstance(question, Writing):
        return len(question.prompt) + question.max_new_tokens - 1
    if isinstance(question, Search):
        return len(question.inputs) * (1 + PATHS) + SEARCHED
    return len(question.inputs)


def _prompt_rows(written: Sequence[Writing], means: Means) -> list[TreeRow]:
    spans = [Span(prompt, (), top=True) for prompt in dict.fromkeys(q.prompt for q in written)]
    if not spans:
        return []
    grown = max(len(q.prompt) + q.max_new_tokens for q in written)
    most = min(MAX_SPANS, means.limits.branches)
    return means.planner.answer_rows(spans, grown, most)


def rates(forward: Forward, key: str) -> Rates:
    """Rates that were measured before under this key, else measured now and kept."""
    memory = cache_root() / FILE
    known = _load(memory)
    if key in known:
        return Rates(**known[key])
    found = measure(forward)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps({**_load(memory), key: asdict(found)}))
    except OSError:
        pass  # a folder that cannot be written only costs time
    return found


def _load(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text())
        return {k: v for k, v in known.items() if set(v) == set(Rates.__dataclass_fields__)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def measure(forward: Forward) -> Rates:
    """Time the trunk on short and long rows, under a mask, on few tokens, and the head."""
    width = min(LONG, forward.context)
    narrow = min(SHORT, width // 4)
    rows = width // narrow
    with torch.inference_mode():
        _seconds(forward, rows=1, width=8)  # the first call of all is slower
        short = _seconds(forward, rows=rows, width=narrow)
        long = _seconds(forward, rows=1, width=width)
        masked = _seconds(forward, rows=1, width=width, mask=True)
        few = _seconds(forward, rows=8, width=8)
        states = forward.trunk(_ids(forward, 1, min(ROWS, forward.context)))[0]
        head = _timed(lambda: forward.head(states), forward)
    # Two kinds of rows give two equations: tokens * a + pairs * b = seconds.
    path = max((long / width - short / (rows * narrow)) / (width - narrow), 0.0)
    token = max(long / width - path * width, 0.0)
    tree = max((masked - token * width) / width**2, path)
    return Rates(token, path, tree, head / len(states), few / 64)


def _seconds(forward: Forward, *, rows: int, width: int, mask: bool = False) -> float:
    """The time of a pass over made-up rows."""
    tree: dict[str, Any] = {}
    if mask:
        seen = torch.ones(rows, width, width, dtype=torch.bool, device=forward.device).tril()
        positions = torch.arange(width, device=forward.device).expand(rows, width)
        tree = {"attention_mask": forward.mask(seen), "position_ids": positions}
    ids = _ids(forward, rows, width)
    return _timed(lambda: forward.trunk(ids, **tree), forward)


def _timed(action: Any, forward: Forward) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    action()
    if forward.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begun


def _ids(forward: Forward, rows: int, width: int) -> torch.Tensor:
    count = rows * width
    return (torch.arange(count, device=forward.device) % forward.vocabulary).view(rows, width)


def batch_seconds(batch: Sequence[TreeRow], spans: Sequence[Span], rates: Rates) -> float:
    """Time of one batch of rows that are scored."""
    width = max(len(row) for row in batch)
    tokens = len(batch) * width
    pair = rates.tree if batch[0].branches else rates.path
    reads = sum(max(len(spans[s].targets), 1) for row in batch for s in row.nodes)
    searched = sum(spans[s].top for row in batch for s in row.nodes)
    found = tokens * rates.token + tokens * width * pair + reads * rates.head
    return found + searched * SEARCHED * (rates.step + rates.head / 2)


def written_seconds(rows: Iterable[TreeRow], tokens: int, rates: Rates) -> float:
    """Time of prefilling rows and writing so many tokens after them."""
    prefill = sum(
        len(row) * rates.token + len(row) ** 2 * (rates.tree if row.branches else rates.path)
        for row in rows
    )
    return prefill + tokens * (rates.step + rates.head)


def batch_bytes(forward: Forward, tokens: int, width: int, *, kept: bool) -> int:
    """Memory of a batch of so many padded tokens in rows of a width, beside the weights."""
    config = forward.model.config.get_text_config()
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", 0) or 0)
    size = int(forward.model.dtype.itemsize)
    activations = tokens * (8 * hidden + 3 * (inner or 4 * hidden)) * size
    cache = tokens * forward.cache_bytes_per_token() if kept else 0
    mask = tokens * width * size if kept else 0
    logits = forward.chunk * forward.vocabulary * 4
    return activations + cache + mask + 2 * logits


def resident_bytes() -> int:
    """What this process holds now; the most that it ever held where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
