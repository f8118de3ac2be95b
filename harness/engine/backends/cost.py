"""What requests will cost, without a forward pass over them: tokens, rows, memory, time.

Time is arithmetic over the very batches that will be run, with rates that are measured on made-up
tokens in a few seconds, or were measured before on this machine. Texts are priced as if each were
as long as it may be, so that their time is an upper bound.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.digest import cache_root
from harness.engine.decoding.generator import Generator
from harness.engine.decoding.rows import Limits
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.queries.prefix_tree import TreeRow, batches
from harness.engine.queries.query import GenerationQuery, Query, Span, WordQuery
from harness.engine.scoring.planner import Planner

log = logging.getLogger(__name__)

SHORT, LONG = 85, 1024  # tokens of a row at most: a passage of LAMBADA, a window
ROWS = 256  # whose logits are read to time the head
PATHS, SEARCHED = 6, 8  # a search for a word: paths behind its context, their tokens (on LAMBADA)
FILE = "rates.json"
SLOWEST = 3600.0  # seconds for one token; a file that says more does not hold rates


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
    generator: Generator


def estimate(owners: Mapping[Query, int], known: Collection[Query], means: Means) -> Estimate:
    """The cost of questions.

    Args:
        owners: question -> how many requests ask it.
        known: those that are answered from disk.
        means: the model and how it is run.
    """
    asked = {question: _asked(question) * count for question, count in owners.items()}
    left = [question for question in owners if question not in known]
    spans = list(dict.fromkeys(q.span for q in left if not isinstance(q, GenerationQuery)))
    limits = means.limits.prefill, means.forward.rope_limit
    read = list(batches(means.planner.rows(spans), *limits)) if spans else []
    written = [question for question in left if isinstance(question, GenerationQuery)]
    rows = [planned.row for planned in means.generator.plan(written)]
    searches = sum(span.top for span in spans)
    new = sum(question.max_new_tokens for question in written)
    again = list(_lengths_fed_again(means.generator.full_passes(written)))
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
        + sum(len(row) for row in rows) + new - len(written) + sum(again),
        rows=sum(len(b) for b in read) + len(rows),
        largest=max((size for size, _, _ in sizes), default=0),
        seconds=seconds + written_seconds(rows, new, means.rates)
        + sum(n * means.rates.token + n**2 * means.rates.path for n in again),
        peak_bytes=(resident_bytes() or weight_bytes(means.forward)) + peak,
        at_most=bool(written),
    )  # fmt: skip


def _lengths_fed_again(written: Sequence[GenerationQuery]) -> Iterator[int]:
    """For each token of answers without a cache, how many tokens are fed before it once more."""
    for question in written:
        yield from range(len(question.prompt), len(question.prompt) + question.max_new_tokens - 1)


def _asked(question: Query) -> int:
    """Tokens that a separate run would feed; of texts the most, of searches the usual number."""
    if isinstance(question, GenerationQuery):
        return len(question.prompt) + question.max_new_tokens - 1
    if isinstance(question, WordQuery):
        return len(question.inputs) * (1 + PATHS) + SEARCHED
    return len(question.inputs)


def rates(forward: Forward, key: str) -> Rates:
    """Rates that were measured before under this key, else measured now and kept."""
    memory = cache_root() / FILE
    known = _load(memory)
    if key in known:
        return Rates(**known[key])
    found = measure(forward)
    _store(memory, {**known, key: asdict(found)})
    return found


def _load(memory: Path) -> dict[str, dict[str, float]]:
    """What was measured before; nothing of a file, or an entry, that does not hold rates."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: entry for key, entry in known.items() if _holds_rates(entry)}


def _holds_rates(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != set(Rates.__dataclass_fields__):
        return False
    numbers = [value for value in entry.values() if type(value) in (int, float)]
    return len(numbers) == len(entry) and all(0 <= n <= SLOWEST for n in numbers)


def _store(memory: Path, known: dict[str, dict[str, float]]) -> None:
    """Write rates; a folder that cannot be written only costs time."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        return


def measure(forward: Forward) -> Rates:
    """Time the trunk on short and long rows, under a mask, on few tokens, and the head."""
    width = min(LONG, forward.context)
    narrow, few_tokens = max(1, min(SHORT, width // 4)), min(8, width)
    rows = width // narrow
    with torch.inference_mode():
        _seconds(forward, rows=1, width=few_tokens)  # the first call of all is slower
        short = _seconds(forward, rows=rows, width=narrow)
        long = _seconds(forward, rows=1, width=width)
        masked = _masked_seconds(forward, width)
        few = _seconds(forward, rows=8, width=few_tokens)
        states = forward.trunk(_ids(forward, 1, min(ROWS, forward.context)))[0]
        head = _timed(lambda: forward.head(states), forward)
    # Two kinds of rows give two equations: tokens * a + pairs * b = seconds.
    path = max((long / width - short / (rows * narrow)) / max(width - narrow, 1), 0.0)
    if path * width >= long / width:  # noise has left nothing for the products
        path = 0.0
    token = long / width - path * width
    tree = path if masked is None else max((masked - token * width) / width**2, path)
    return Rates(token, path, tree, head / len(states), few / (8 * few_tokens))


def _masked_seconds(forward: Forward, width: int) -> float | None:
    """The time of a row under a mask; None for a model that is never given one."""
    if forward.sharing(1)[0] is None:
        return None
    try:
        return _seconds(forward, rows=1, width=width, mask=True)
    except Exception as error:  # models raise whatever their own code raises
        if is_out_of_memory(error):
            raise
        log.debug("no time under a mask: %s", error)
        return None


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
    hidden = int(forward.model.get_input_embeddings().weight.shape[1])
    inner = _inner_size(forward.model.config.get_text_config()) or 4 * hidden
    size = int(forward.model.dtype.itemsize)
    activations = tokens * (8 * hidden + 3 * inner) * size
    cache = tokens * forward.cache_bytes_per_token() if kept else 0
    mask = tokens * width * size if kept else 0
    logits = forward.chunk * forward.vocabulary * 4
    # A model whose own head is used computes logits at every position, and scales them in a copy.
    everywhere = tokens * forward.vocabulary * size if forward.whole else 0
    return activations + cache + mask + 2 * (logits + everywhere)


def _inner_size(config: Any) -> int:
    """Width of the widest feed-forward layer, by the config; 0 where it does not say."""
    for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"):
        value = getattr(config, name, None)
        sizes = value if isinstance(value, list | tuple) else [value]
        if sizes and all(isinstance(size, int) for size in sizes):
            return int(max(sizes))
    return 0


def resident_bytes() -> int:
    """What this process holds now; the most that it ever held where the system does not say.

    0 on Windows, where neither can be read.
    """
    try:
        import resource
    except ImportError:
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def weight_bytes(forward: Forward) -> int:
    """Memory of the weights alone."""
    return sum(p.numel() * p.element_size() for p in forward.model.parameters())
