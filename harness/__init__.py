"""Zero-shot benchmarks of the GPT-2 paper for any Hugging Face causal checkpoint.

    >>> from harness import load_task, read_data, load_checkpoint, Engine, Job, evaluate

Names are imported when they are first used, so that `import harness` loads no torch.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Engine": "harness.engine.engine",
    "Job": "harness.runner",
    "Where": "harness.data",
    "evaluate": "harness.runner",
    "load_task": "harness.plugins",
    "task_names": "harness.plugins",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
