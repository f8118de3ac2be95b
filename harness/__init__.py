"""Zero-shot benchmarks of the GPT-2 paper for any Hugging Face causal checkpoint.

The public Python API:

    import harness as h

    records = h.evaluate(model, tokenizer, ["lambada"], data_dir="data", limit=200)
    frame = h.scores(records)  # a pandas.DataFrame with one row per score

and its parts:

    task = h.load_task("lambada")
    protocol = task.protocol("paper", {"bos": "none"})
    rows = h.load_data(task.source(protocol.options), h.Where(sample=True))
    engine = h.Engine(h.load_checkpoint("gpt2", h.Settings(dtype="float32")))
    record = h.run_job(h.Job(task, protocol, rows), engine)

of a model behind a server: `h.evaluate("http://127.0.0.1:8000/v1", tasks=["lambada"])`, or

    engine = h.Engine(h.connect(h.EndpointSettings("http://...")))

and in training loops: `h.Evaluator` and, for the Trainer of transformers, `h.HarnessCallback`.

How data flows (`harness.runner`, `harness.engine`, `harness.analysis`):

    data file -> rows -> examples -> requests           a task reads and asks
    requests -> queries -> answers -> responses         an engine encodes, computes, decodes
    responses -> outcomes -> scores -> record           measures extract, metrics sum
    records -> comparison, baseline, verdict, report    analysis of one or more runs

Words (all of them in docs/glossary.md):

    task        one benchmark                      protocol    named values of a task's options
    row         one line of a data file            example     what a task asks about and scores
    request     what a task asks, in text          response    the answer to a request
    query       a request as token ids             outcome     numbers of one example
    metric      outcomes -> a score                record      scores of one task and checkpoint
    run         a record with its outcomes         checkpoint  a model with its weights
    baseline    scores to check later runs against verdict     result of such a check

Names are imported when they are first used, so `import harness` does not load torch.
"""

from importlib import import_module
from typing import Any

from harness import moved

_PUBLIC = {
    "EndpointSettings": ("harness.engine.endpoint.settings", "EndpointSettings"),
    "Engine": ("harness.engine.engine", "Engine"),
    "Evaluator": ("harness.training.evaluator", "Evaluator"),
    "HarnessCallback": ("harness.training.callback", "HarnessCallback"),
    "Job": ("harness.runner", "Job"),
    "Settings": ("harness.engine.checkpoint.settings", "Settings"),
    "Where": ("harness.data.load", "Where"),
    "connect": ("harness.engine.endpoint.connect", "connect"),
    "evaluate": ("harness.training.evaluate", "evaluate"),
    "load_checkpoint": ("harness.engine.checkpoint.load", "load"),
    "load_data": ("harness.data.load", "load"),
    "load_task": ("harness.plugins.registry", "load_task"),
    "run_job": ("harness.runner", "evaluate"),
    "scores": ("harness.analysis.scores", "scores"),
    "task_names": ("harness.plugins.registry", "task_names"),
}

__all__ = [*_PUBLIC]

moved.install()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
