"""`harness jitter`: measure how far scores move between runs that should all agree."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis import noise_floor
from harness.commands.evaluate.session import compute, job_for
from harness.commands.model_options import Dtype
from harness.commands.options import RunOptions
from harness.display import comparisons, terminal
from harness.engine.endpoint.settings import CONCURRENCY, is_endpoint
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job

CONCURRENCIES = (1, 4, 16)  # calls in flight at a server
BUDGETS = (512, 2048, 8192)  # padded tokens per batch
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a benchmark with a checkpoint."""

    dtype: Dtype
    budget: int
    threads: int | None = None  # None: torch's own choice

    def __str__(self) -> str:
        plural = "s" * (self.threads != 1)
        threads = f", {self.threads} thread{plural}" if self.threads else ""
        return f"{self.dtype}, {self.budget} tokens a batch{threads}"

    def applied(self, options: RunOptions) -> RunOptions:
        """The options for a run of this kind."""
        threads = self.threads or options.model.threads
        model = replace(options.model, dtype=self.dtype, batch_tokens=self.budget, threads=threads)
        return replace(options, model=model)


@dataclass(frozen=True, slots=True)
class ServerVariant:
    """One way to run a benchmark with a server, which forms other batches of more calls."""

    concurrency: int
    again: bool = False

    def __str__(self) -> str:
        plural = "s" * (self.concurrency != 1)
        return f"{self.concurrency} call{plural} in flight{', again' * self.again}"

    def applied(self, options: RunOptions) -> RunOptions:
        """The options for a run of this kind."""
        return replace(options, server=replace(options.server, concurrency=self.concurrency))


def variants(threads: int) -> list[Variant]:
    """The first run, which used `threads`, then other budgets, threads and number formats."""
    first, middle = DTYPES[0], BUDGETS[1]
    others = [Variant(first, budget, threads) for budget in BUDGETS if budget != middle]
    fewer = sorted({1, max(1, threads // 2)} - {threads})
    others += [Variant(first, middle, count) for count in fewer]
    others += [Variant(dtype, middle, threads) for dtype in DTYPES[1:]]
    return [Variant(first, middle), *others]


def server_variants(concurrency: int | None) -> list[ServerVariant]:
    """Two runs of the given kind, then runs with fewer or more calls in flight."""
    first = ServerVariant(CONCURRENCY if concurrency is None else concurrency)
    others = [ServerVariant(calls) for calls in CONCURRENCIES if calls != first.concurrency]
    return [first, replace(first, again=True), *others]


def run_jitter(names: Sequence[str], options: RunOptions, file: Path) -> None:
    """Run each benchmark in all variants, show how far its scores move, and save that."""
    options.check()
    options.model.only_name("jitter")
    noise_floor.check(file)
    terminal.start_logging()
    tasks = [load_task(name) for name in names]
    name, overrides = options.protocol.name, options.protocol.overrides()
    jobs = [job_for(task, task.protocol(name, overrides), options.data) for task in tasks]
    for job in jobs:
        records = _records(job, options)
        noise = noise_floor.measure_noise([(r.model["dtype"], r) for _, r in records])
        model = records[0][1].model
        about = {
            "model": model["name"],
            "digest": model["digest"],
            "examples": records[0][1].examples,
            "device": model["device"],
            "variants": [str(variant) for variant, _ in records],
        }
        noise_floor.write(file, noise, about)
        comparisons.show_noise(noise, about["variants"])
    terminal.ERR.print(f"wrote {file}")


def _records(
    job: Job, options: RunOptions
) -> list[tuple[Variant, Record]] | list[tuple[ServerVariant, Record]]:
    """One record per variant; the response cache is not used, so each is computed."""
    if is_endpoint(options.model.names[0]):
        return [(v, _compute(job, options, v)) for v in server_variants(options.server.concurrency)]
    [first, *_] = variants(1)
    record = _compute(job, options, first)
    others = variants(int(record.model["threads"]))[1:]
    return [(first, record), *((other, _compute(job, options, other)) for other in others)]


def _compute(job: Job, options: RunOptions, variant: Variant | ServerVariant) -> Record:
    terminal.note(f"{job.task.name}: {variant}")
    record = compute(job, variant.applied(options))
    for warning in record.warnings:
        terminal.ERR.print(f"warning: {job.task.name}: {warning}")
    return record
