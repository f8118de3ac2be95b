"""`harness.evaluate`: the scores of a model that has just been trained, in one call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import moved
from harness.records.record import Record
from harness.runner import Job
from harness.runner import evaluate as run_job
from harness.training.evaluator import Evaluator


def evaluate(  # noqa: D417, PLR0913  # the others are explained by `Evaluator`
    model: Any,
    tokenizer: Any = None,
    tasks: str | Sequence[str] = "table3",
    *,
    protocol: str = "paper",
    set: Mapping[str, str | int] | None = None,
    data_dir: str | Path | None = None,
    sample: bool = False,
    hub: bool = False,
    limit: int | None = None,
    budget: str | float | None = None,
    seed: int = 0,
    context: int | None = None,
    batch_tokens: int | None = None,
    strict: bool = False,
    cache: bool | str | Path = False,
    out: str | Path | None = None,
    name: str | None = None,
    step: int | None = None,
) -> list[Record]:
    """Evaluate a model in memory, which stays as it is.

        records = harness.evaluate(model, tokenizer, ["lambada"], data_dir="data", limit=200)
        print(harness.scores(records)[["task", "metric", "value"]])

    For a model that is evaluated while it is trained, make an `Evaluator`: it reads data once.

    Args:
        model: a causal language model of transformers, any function from token ids (B, T) to logits
            (B, T, V), the name or path of a checkpoint, or a server: its address, or
            `harness.EndpointSettings`.
        tokenizer: of transformers or tokenizers, or the name of one.
        tasks: names of tasks; `table3` and `section3` stand for all tasks of those tables.
        name: of the model, in the records.
        step: of the training, in the records.

    The other arguments are those of `Evaluator`.

    Raises:
        HarnessError: any of its kinds, such as a DataError for a task without data.
    """
    evaluator = Evaluator(
        tasks,
        tokenizer=tokenizer,
        protocol=protocol,
        set=set or {},
        data_dir=data_dir,
        sample=sample,
        hub=hub,
        limit=limit,
        budget=budget,
        seed=seed,
        context=context,
        batch_tokens=batch_tokens,
        strict=strict,
        cache=cache,
        out=out,
    )
    return evaluator(model, name=name, step=step)


def _is_of_a_job(*args: Any, **kwargs: Any) -> bool:
    return "job" in kwargs or isinstance(args[0] if args else None, Job)


if not TYPE_CHECKING:  # the old function of this name
    note = "harness.evaluate(job, engine) is now harness.run_job(job, engine)"
    evaluate = moved.call(evaluate, run_job, _is_of_a_job, note)
