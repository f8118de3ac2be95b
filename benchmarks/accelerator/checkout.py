"""Use this checkout without installing it: where its tasks are, and which there are.

An installed package has `tasks` and `prompts` below `harness`; a checkout has them beside it.
"""

import os
import tomllib
from importlib import import_module
from pathlib import Path

import harness
from harness.task import Task

ROOT = Path(__file__).parents[2]


def prepare() -> None:
    """Let `harness.tasks` be found, and let nothing look for a network or a home directory."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if str(ROOT) not in harness.__path__:
        harness.__path__.append(str(ROOT))


def tasks() -> dict[str, Task]:
    """Every task of this checkout by its name; installed entry points are not needed."""
    prepare()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, Task] = {}
    for name, place in project["entry-points"]["harness.tasks"].items():
        module, _, attribute = place.partition(":")
        found[name] = getattr(import_module(module), attribute)
    return found
