"""What bfloat16 gains on this CPU and what it costs in nats, for `harness doctor`."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.commands.setup.checkpoint_checks import sample_text, span_answers
from harness.commands.setup.installation_checks import Finding
from harness.core import Encoding

if TYPE_CHECKING:
    from harness.engine.checkpoint.load import Checkpoint
    from harness.engine.checkpoint.settings import Settings
    from harness.engine.engine import Engine

FILE = "bfloat16.json"  # measured costs, in the cache folder
MAX_PARAMETERS = 1_500_000_000  # the model is loaded a second time
ROUNDS = 3  # the fastest counts
ENOUGH = 20.0  # seconds, after which no other round begins
MAX_SPEED, MAX_NATS = 1e4, 1e6  # larger values in the file were not measured


class Cost(NamedTuple):
    """bfloat16 against float32, on built-in text with one checkpoint and one machine."""

    speed: float  # times that of float32
    mean: float  # difference of a token's log-probability, in nats, its sign dropped
    high: float  # 99 % of the differences are smaller
    largest: float


def cost(checkpoint: "Checkpoint", settings: "Settings") -> Finding:
    """Score built-in text in float32 and in bfloat16; the result is kept in the cache folder."""
    from harness.engine.checkpoint.digest import cache_root, cached_entries, store_entry

    path, key = cache_root() / FILE, _key(checkpoint)
    stored = cached_entries(path, _is_cost)
    if key in stored:
        return judge(Cost(**stored[key]))
    measured = _measured(checkpoint, settings)
    store_entry(path, key, measured._asdict(), _is_cost)
    return judge(measured)


def judge(found: Cost) -> Finding:
    """What --dtype bfloat16 would bring this model."""
    seen = (
        f"{found.speed:.2g} times the speed of float32; a token's log-probability differs by "
        f"{found.mean:.2g} nats on average, 99 % by less than {found.high:.2g}, at most "
        f"{found.largest:.2g}"
    )
    if found.speed < 1:
        return Finding("bfloat16 cost", "ok", f"{seen}: keep --dtype float32, which is faster")
    return Finding("bfloat16 cost", "ok", seen)


def is_measurable(checkpoint: "Checkpoint", name: str) -> bool:
    """Whether a checkpoint can be loaded in float32 and in bfloat16 beside it, on the CPU."""
    from harness.engine.checkpoint.own.function import names_function

    identity = checkpoint.identity
    small = isinstance(identity.parameters, int) and identity.parameters <= MAX_PARAMETERS
    in_memory = identity.device == "cpu"  # not partly on disk
    return small and in_memory and not names_function(name)


def _measured(checkpoint: "Checkpoint", settings: "Settings") -> Cost:
    from harness.engine.cache.store import Store
    from harness.engine.checkpoint.load import load
    from harness.engine.engine import Engine

    engines: list[Engine] = []
    for dtype in ("float32", "bfloat16"):
        other = replace(settings, dtype=dtype)
        loaded = checkpoint if other == settings else load(checkpoint.identity.name, other)
        engines.append(Engine(loaded, store=Store(None)))
    return compare(*engines)


def compare(full: "Engine", half: "Engine") -> Cost:
    """Measure two engines of the same checkpoint, in turn.

    In CPU seconds, since the result is kept and others may use this machine at the moment.
    """
    [encoded] = full.encode([sample_text(full)], Encoding())
    seconds: dict[Any, list[float]] = {full: [], half: []}
    found: dict[Any, Any] = {}
    until = time.perf_counter() + ENOUGH
    while len(seconds[half]) < ROUNDS and (not found or time.perf_counter() < until):
        for engine in (full, half):
            begun = time.process_time()
            answers = span_answers(engine, encoded.spans)
            seconds[engine].append(time.process_time() - begun)
            logprobs = [answers[span].value.logprobs for span in encoded.spans]
            found[engine] = np.concatenate(logprobs).astype("float64")
    differences = np.abs(found[full] - found[half])
    return Cost(
        min(seconds[full]) / min(seconds[half]),
        float(differences.mean()),
        float(np.quantile(differences, 0.99)),
        float(differences.max()),
    )


def _key(checkpoint: "Checkpoint") -> str:
    """Everything that a cost depends on: weights, machine, versions."""
    from harness.engine.backends.machine import cpu_name
    from harness.engine.cache.response_cache import numerics

    identity = checkpoint.identity
    return f"{identity.digest}|{identity.threads}|{cpu_name()}|{numerics(checkpoint)}"


def _is_cost(entry: Any) -> bool:
    if not isinstance(entry, dict) or [*entry] != [*Cost._fields]:
        return False
    limits = {"speed": MAX_SPEED}
    return all(
        type(n) in (int, float) and 0 <= n <= limits.get(name, MAX_NATS)
        for name, n in entry.items()
    )
