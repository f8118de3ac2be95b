"""Who may import whom, read from the syntax trees, and what `--help` may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOUNDATION = tuple(
    f"harness.{name}"
    for name in (
        "core", "errors", "prompt", "text", "metrics", "extract", "formats", "task", "answers",
        "calibration", "modules", "summaries", "translations", "strict_json",
    )
)  # fmt: skip
PACKAGES = (
    "harness", "harness.cli", "harness.commands", "harness.display", "harness.engine",
    "harness.overlap", "harness.report", "harness.tasks",
)  # fmt: skip
METRIC_LIBRARIES = ("sacrebleu", "rouge_score", "sentencex", "evaluate", "numpy")
NO_TENSORS = ("torch", "transformers", "datasets")
UPSTAIRS = (
    "harness.runner", "harness.cli", "harness.commands", "harness.display", "harness.conformance",
)  # fmt: skip


class Layer(NamedTuple):
    """Files and what they may import: `only` these beside the standard library, or all but `no`."""

    files: tuple[str, ...]
    only: tuple[str, ...] | None = None
    no: tuple[str, ...] = ()


LAYERS = (
    Layer(("harness/core.py", "harness/errors.py"), only=()),
    Layer(
        tuple(f"{name.replace('.', '/')}.py" for name in FOUNDATION[2:] if name != "harness.text"),
        only=(*FOUNDATION, *METRIC_LIBRARIES, "datasets"),
    ),
    Layer(("harness/text/ngrams.py",), only=("harness.text", "numpy")),
    Layer(
        ("harness/overlap/corpora.py", "harness/overlap/ngram_sets.py"),
        only=("harness.errors", "harness.strict_json", "harness.text", "numpy", "pyarrow",
              "rbloom"),
    ),
    Layer(
        ("harness/overlap/scan.py",),
        only=("harness.overlap.corpora", "harness.overlap.ngram_sets", "harness.text", "numpy"),
    ),
    Layer(
        ("harness/overlap/*.py",),
        no=(*NO_TENSORS, "harness.tasks", "harness.engine", "harness.cli", "harness.commands",
            "harness.display"),
    ),
    Layer(("harness/text/*.py",), only=("harness.text",)),
    Layer(("harness/plugin_guard.py",), only=FOUNDATION),
    Layer(("harness/plugins.py",), only=(*FOUNDATION, "harness.plugin_guard")),
    Layer(("harness/stats.py",), only=(*FOUNDATION, "numpy", "scipy")),
    Layer(
        ("harness/paired.py", "harness/sample_size.py"),
        only=("harness.core", "harness.errors", "harness.metrics", "harness.modules",
              "harness.stats", "harness.paired", "numpy", "scipy"),
    ),
    Layer(("harness/selection.py",), only=FOUNDATION[:2]),
    Layer(("harness/data.py",), only=(*FOUNDATION[:2], "huggingface_hub", "datasets")),
    Layer(
        tuple(f"harness/engine/{n}.py" for n in ("encode", "plan", "tokenizer", "digest", "store")),
        only=(
            "harness.core", "harness.errors", "harness.engine", "harness.safe_files",
            "harness.strict_json", "numpy", "platformdirs", "xxhash",
        ),
    ),
    Layer(
        ("harness/engine/*.py",),
        only=(
            "harness.core", "harness.errors", "harness.engine", "harness.safe_files",
            "harness.strict_json", "numpy", "platformdirs", "torch", "transformers",
            "huggingface_hub", "safetensors", "gguf", "tokenizers", "xxhash",
        ),
    ),
    Layer(
        ("harness/report/*.py", "harness/report/page/*.py"),
        no=(*NO_TENSORS, "harness.tasks", "harness.engine", *UPSTAIRS),
    ),
    Layer(
        ("harness/runner.py",),
        no=(*NO_TENSORS, "harness.tasks", "harness.engine", "harness.cli", "harness.commands",
            "harness.display", "click", "rich"),
    ),
    Layer(
        ("harness/display/*.py",),
        no=(*NO_TENSORS, "harness.tasks", "harness.engine", "harness.cli", "harness.commands"),
    ),
    Layer(("harness/commands/*.py",), no=("torch", "datasets", "harness.tasks", "harness.cli")),
    Layer(("harness/cli/*.py", "harness/*.py"), no=("torch", "datasets", "harness.tasks")),
    Layer(("tasks/*.py",), only=(*FOUNDATION, "harness.tasks")),
)  # fmt: skip


def imported(source: str, *, within_tasks: bool = False) -> Iterator[str]:
    """Every module that a source imports, in functions too, but not for type checkers only.

    The benchmarks' folder is `tasks` in the checkout and `harness.tasks` where it is installed, so
    that its files import each other relatively.
    """
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= within_tasks, "imports are absolute, but among the benchmarks"
            above = ["harness.tasks"] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            parts = module in PACKAGES
            yield from (f"{module}.{a.name}" for a in node.names) if parts else [module]
        todo.extend(ast.iter_child_nodes(node))


def offences(source: str, layer: Layer) -> list[str]:
    """The imports of a source that its layer does not allow."""

    def within(module: str, names: tuple[str, ...]) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    def allowed(module: str) -> bool:
        if module.partition(".")[0] in sys.stdlib_module_names:
            return True
        return not within(module, layer.no) if layer.only is None else within(module, layer.only)

    found = set(imported(source, within_tasks=layer.files == ("tasks/*.py",)))
    return sorted(module for module in found if not allowed(module))


def layer_of(path: str) -> Layer:
    """The first layer with a pattern for the file; folders are not crossed."""
    for layer in LAYERS:
        for pattern in layer.files:
            if Path(path).match(pattern) and path.count("/") == pattern.count("/"):
                return layer
    raise AssertionError(f"{path} belongs to no layer of this test; add it")


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("harness", "tasks")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES)
def test_imports_go_one_way(path: str) -> None:
    wrong = offences((ROOT / path).read_text("utf-8"), layer_of(path))
    assert not wrong, f"{path} must not import {', '.join(wrong)}"


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("harness/core.py", "import numpy as np", ["numpy"]),
        ("harness/task.py", "def f():\n    import torch.nn", ["torch.nn"]),
        ("harness/engine/score.py", "from harness import task", ["harness.task"]),
        ("harness/engine/plan.py", "from torch import Tensor", ["torch"]),
        ("harness/report/record.py", "from harness.runner import Job", ["harness.runner"]),
        (
            "harness/runner.py",
            "from harness.engine.engine import Engine",
            ["harness.engine.engine"],
        ),
        ("harness/cli/group.py", "import harness.tasks.lambada", ["harness.tasks.lambada"]),
        (
            "harness/commands/grid.py",
            "from harness.cli import options",
            ["harness.cli.options"],
        ),
        ("tasks/lambada.py", "from harness import data, task", ["harness.data"]),
        ("tasks/lambada.py", "import json\nfrom . import lines", []),
        ("tasks/lambada.py", "from tasks import lines", ["tasks"]),
        ("harness/plugins.py", "if TYPE_CHECKING:\n    import torch", []),
    ],
)
def test_the_table_would_notice(path: str, source: str, wrong: list[str]) -> None:
    assert offences(source, layer_of(path)) == wrong


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = (
        f"import sys\n{statement}\nprint('loaded', *{{m.partition('.')[0] for m in sys.modules}})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.strip().split("\n")[-1].split()[1:])


HEAVY = {"torch", "transformers", "datasets", "numpy", "pandas", "scipy", "tokenizers"}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import harness; harness.__all__", HEAVY),
        ("from harness.cli.group import cli; cli.main(['--help'], standalone_mode=False)", HEAVY),
        (
            "from harness.cli.group import cli; "
            "cli.main(['lambada', '--help'], standalone_mode=False)",
            HEAVY,
        ),
        (
            "from harness.cli.group import cli; cli.main(['tasks', 'ptb'], standalone_mode=False)",
            {"torch", "transformers", "datasets", "tokenizers"},
        ),
    ],
)
def test_little_is_loaded(statement: str, heavy: set[str]) -> None:
    found = loaded_by(statement)
    assert "harness" in found
    assert not found & heavy
