"""Zero-shot benchmarks of the GPT-2 paper for any Hugging Face causal checkpoint.

The public Python API, all of it:

    task = load_task("lambada")
    protocol = task.protocol("paper", {"bos": "none"})
    rows = load_data(task.source(protocol.options), Where(sample=True))
    engine = Engine(load_checkpoint("gpt2", Settings(dtype="float32")))
    record = evaluate(Job(task, protocol, rows), engine)
    frame = scores([record])  # or paths of records: a pandas.DataFrame, one row per score

Names are imported when they are first used, so that `import harness` loads no torch.
"""

from importlib import import_module
from typing import Any

from harness import moved

_PUBLIC = {
    "Engine": ("harness.engine.engine", "Engine"),
    "Job": ("harness.runner", "Job"),
    "Settings": ("harness.engine.checkpoint.settings", "Settings"),
    "Where": ("harness.data.load", "Where"),
    "evaluate": ("harness.runner", "evaluate"),
    "load_checkpoint": ("harness.engine.checkpoint.load", "load"),
    "load_data": ("harness.data.load", "load"),
    "load_task": ("harness.plugins.registry", "load_task"),
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
