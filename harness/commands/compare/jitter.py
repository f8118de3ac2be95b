"""`harness jitter`: measure how far scores move between runs that should all agree."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis import noise_floor
from harness.commands.evaluate.session import compute, job_for
from harness.commands.options import Dtype, RunOptions
from harness.display import comparisons, terminal
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job

BUDGETS = (512, 2048, 8192)  # padded tokens per batch
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a benchmark."""

    dtype: Dtype
    budget: int
    threads: int | None = None  # None: torch's own choice

    def __str__(self) -> str:
        plural = "s" * (self.threads != 1)
        threads = f", {self.threads} thread{plural}" if self.threads else ""
        return f"{self.dtype}, {self.budget} tokens a batch{threads}"


def variants(threads: int) -> list[Variant]:
    """The first run, which used `threads`, then other budgets, threads and number formats."""
    first, middle = DTYPES[0], BUDGETS[1]
    others = [Variant(first, budget, threads) for budget in BUDGETS if budget != middle]
    fewer = sorted({1, max(1, threads // 2)} - {threads})
    others += [Variant(first, middle, count) for count in fewer]
    others += [Variant(dtype, middle, threads) for dtype in DTYPES[1:]]
    return [Variant(first, middle), *others]


def run_jitter(names: Sequence[str], options: RunOptions, file: Path) -> None:
    """Run each benchmark in all variants, show how far its scores move, and save that."""
    options.model.only_name("jitter")
    noise_floor.check(file)
    terminal.start_logging()
    tasks = [load_task(name) for name in names]
    name, overrides = options.protocol.name, options.protocol.overrides()
    jobs = [job_for(task, task.protocol(name, overrides), options.data) for task in tasks]
    for job in jobs:
        records = _records(job, options)
        noise = noise_floor.measure_noise([(variant.dtype, record) for variant, record in records])
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


def _records(job: Job, options: RunOptions) -> list[tuple[Variant, Record]]:
    """One record per variant; the response cache is not used, so each is computed."""
    [first, *_] = variants(1)
    record = _compute(job, options, first)
    others = variants(int(record.model["threads"]))[1:]
    return [(first, record), *((other, _compute(job, options, other)) for other in others)]


def _compute(job: Job, options: RunOptions, variant: Variant) -> Record:
    terminal.note(f"{job.task.name}: {variant}")
    model = replace(
        options.model,
        dtype=variant.dtype,
        batch_tokens=variant.budget,
        threads=variant.threads or options.model.threads,
    )
    record = compute(job, replace(options, model=model))
    for warning in record.warnings:
        terminal.ERR.print(f"warning: {job.task.name}: {warning}")
    return record
