"""Who may import whom, read from the syntax trees, and what `--help` may load."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TENSORS = "torch transformers huggingface_hub safetensors gguf tokenizers numpy"
NO_TENSORS = {"torch", "transformers", "tokenizers", "safetensors", "datasets"}
ANY = None


class Rule(NamedTuple):
    """What the files of a folder may import besides the standard library and each other."""

    ours: str  # folders and modules of `harness`
    libraries: str | None = ""  # None: everything but tensors


# Folder by folder, lowest first: a folder may import only from folders above it in this table.
RULES = {
    "core": Rule(""),
    "errors": Rule(""),
    "moved": Rule(""),
    "files": Rule("errors"),
    "text": Rule(""),
    "metrics": Rule("core errors moved", "numpy sacrebleu rouge_score sentencex evaluate datasets"),
    "prompt": Rule("errors"),
    "task": Rule("core errors metrics moved prompt"),
    "plugins": Rule("core errors metrics prompt task"),
    "data": Rule("core errors files", "huggingface_hub pyarrow"),
    "tasks": Rule("core errors data.parsers data.encodings files metrics prompt task text"),
    "stats": Rule("core errors metrics task", "numpy scipy"),
    "records": Rule("core errors files metrics task", ANY),
    "records.readers": Rule("core errors files metrics task records", ANY),
    "canaries": Rule("core errors records"),
    "engine.tokenizer": Rule("core errors files", TENSORS),
    "engine.queries": Rule("core errors engine.tokenizer", "numpy"),
    "engine.checkpoint": Rule(
        "core errors files engine.tokenizer", f"{TENSORS} accelerate platformdirs xxhash yaml"
    ),
    "engine.model": Rule("core errors files engine.checkpoint engine.queries", TENSORS),
    "engine.scoring": Rule(
        "core errors engine.checkpoint engine.model engine.queries engine.tokenizer", TENSORS
    ),
    "engine.attention": Rule("", TENSORS),
    "engine.decoding": Rule(
        "core errors engine.attention engine.checkpoint engine.model engine.queries "
        "engine.scoring engine.tokenizer",
        TENSORS,
    ),
    "engine.cache": Rule(
        "core errors files engine.checkpoint engine.queries", "numpy platformdirs"
    ),
    "engine.backends": Rule("core errors files engine", f"{TENSORS} platformdirs ray"),
    "engine.endpoint": Rule("core errors files engine", f"{TENSORS} platformdirs httpcore2"),
    "engine": Rule("core errors files engine", TENSORS),
    "runner": Rule("canaries core errors data metrics prompt records stats task", "numpy"),
    "analysis.paper": Rule("canaries core errors files metrics records", ANY),
    "analysis": Rule(
        "core errors files metrics plugins records stats task analysis.paper "
        "engine.checkpoint.steps",
        ANY,
    ),
    "jobs": Rule("core errors data plugins records runner task analysis.paper"),
    "gate": Rule(
        "core errors files data jobs metrics plugins records runner stats task analysis", "numpy"
    ),
    "training": Rule(
        "core errors files data engine engine.cache engine.checkpoint engine.endpoint "
        "engine.queries jobs moved records runner analysis analysis.paper",
        "transformers torch",
    ),
    "overlap": Rule(
        "core errors files text data metrics records stats task runner analysis analysis.paper",
        "numpy pyarrow rbloom",
    ),
    "testing": Rule(
        "core errors files text data metrics plugins prompt records runner task engine "
        "engine.checkpoint"
    ),
    "report.page": Rule(
        "core errors files metrics plugins records stats task analysis analysis.paper report", ANY
    ),
    "report": Rule("core errors files records stats analysis analysis.paper", ANY),
    "display": Rule(
        "core errors files gate metrics records stats task analysis analysis.paper overlap report",
        ANY,
    ),
    "commands": Rule("errors data engine.checkpoint engine.endpoint"),
    "commands.evaluate": Rule("* display analysis records runner engine plugins data", ANY),
    "commands.compare": Rule("* commands.evaluate", ANY),
    "commands.inspect": Rule("* commands.evaluate", ANY),
    "commands.setup": Rule("* commands.evaluate", ANY),
    "cli": Rule("*", ANY),
    "__main__": Rule("cli"),
}  # fmt: skip


def folder_of(module: str) -> str:
    """`harness.engine.cache.store` -> `engine.cache`; a module at the top counts as a folder."""
    parts = module.split(".")[1:]
    for end in range(len(parts), 0, -1):
        if (name := ".".join(parts[:end])) in RULES:
            return name
    raise AssertionError(f"{module} has no row in the table of this test; add one")


def module_of(path: str) -> str:
    """`harness/engine/engine.py` or `tasks/ptb.py` -> its dotted name."""
    dotted = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return dotted if dotted.startswith("harness") else f"harness.{dotted}"


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("harness", "tasks")
    for path in (ROOT / folder).rglob("*.py")
)
MODULES = {module_of(path) for path in FILES}


def imported(source: str, module: str, *, typing: bool = False) -> Iterator[str]:
    """Every module that a source imports, in functions too; type-checking imports on demand."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level or module.startswith("harness.tasks"), "imports are absolute"
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base
        todo.extend(ast.iter_child_nodes(node))


def within(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def allowed_of_ours(name: str, own: str) -> bool:
    """Whether a folder may import this module of ours."""
    if name.startswith("harness.tasks") and own != "tasks":
        return False  # benchmarks come through entry points
    ours = RULES[own].ours.split()
    folders = list(RULES)
    below = folders.index(folder_of(name)) < folders.index(own)
    return (
        folder_of(name) == own
        or within(name.removeprefix("harness."), ours)
        or ("*" in ours and below)
    )


def allowed(name: str, own: str) -> bool:
    """Whether a folder may import this module, ours or a third party's."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or name == "harness":
        return True
    if top == "harness":
        return allowed_of_ours(name, own)
    libraries = RULES[own].libraries
    return top not in NO_TENSORS if libraries is None else top in libraries.split()


def offences(source: str, path: str) -> list[str]:
    """The imports of a source that the row of its folder does not allow."""
    module = module_of(path)
    return sorted(n for n in set(imported(source, module)) if not allowed(n, folder_of(module)))


@pytest.mark.parametrize("path", [f for f in FILES if f not in ("harness/__init__.py",)])
def test_imports_go_one_way(path: str) -> None:
    wrong = offences((ROOT / path).read_text("utf-8"), path)
    assert not wrong, f"{path} must not import {', '.join(wrong)}"


def graph(*, folders: bool) -> dict[str, set[str]]:
    """Who imports whom, imports for type checkers included."""
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        if path == "harness/__init__.py":  # names for users, imported when they are first used
            continue
        module = module_of(path)
        for name in imported((ROOT / path).read_text("utf-8"), module, typing=not folders):
            if name in MODULES and name != "harness":
                ends = (folder_of(module), folder_of(name)) if folders else (module, name)
                if ends[0] != ends[1]:
                    arrows.setdefault(ends[0], set()).add(ends[1])
    return arrows


@pytest.mark.parametrize("folders", [False, True], ids=["modules", "folders"])
def test_no_import_circle(folders: bool) -> None:
    try:
        tuple(TopologicalSorter(graph(folders=folders)).static_order())
    except CycleError as error:
        raise AssertionError(f"circle: {' -> '.join(error.args[1])}") from None


def test_every_folder_is_small() -> None:
    folders: dict[str, int] = {}
    for path in FILES:
        if not path.endswith("__init__.py"):
            folders[str(Path(path).parent)] = folders.get(str(Path(path).parent), 0) + 1
    assert folders.pop("harness") <= 7 + len(["__main__"])
    assert {folder: n for folder, n in folders.items() if n > 12} == {}


def test_every_folder_is_packaged() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {module_of(path) for path in FILES if path.endswith("__init__.py")}
    data = {"harness.prompts", "harness.results", "harness.results.paper"}
    assert set(packages["packages"]) == folders | data


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("harness/core.py", "import numpy as np", ["numpy"]),
        ("harness/task.py", "def f():\n    import torch.nn", ["torch.nn"]),
        ("harness/engine/scoring/logprobs.py", "from harness import task", ["harness.task"]),
        ("harness/engine/queries/prefix_tree.py", "from torch import Tensor", ["torch"]),
        ("harness/records/record.py", "from harness.runner import Job", ["harness.runner"]),
        (
            "harness/runner/evaluation.py",
            "from harness.engine.engine import Engine",
            ["harness.engine.engine"],
        ),
        ("harness/cli/group.py", "import harness.tasks.lambada", ["harness.tasks.lambada"]),
        (
            "harness/commands/evaluate/grid.py",
            "from harness.cli import options",
            ["harness.cli.options"],
        ),
        ("harness/analysis/runs.py", "import torch.nn", ["torch.nn"]),
        ("tasks/lambada.py", "from harness.data import load", ["harness.data.load"]),
        ("tasks/lambada.py", "import json\nfrom .shared import running_text", []),
        ("tasks/lambada.py", "from tasks import cbt", ["tasks"]),
        ("harness/plugins/registry.py", "if TYPE_CHECKING:\n    import torch", []),
    ],
)
def test_the_table_would_notice(path: str, source: str, wrong: list[str]) -> None:
    assert offences(source, path) == wrong


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = (
        f"import sys\n{statement}\nprint('loaded', *{{m.partition('.')[0] for m in sys.modules}})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.strip().split("\n")[-1].split()[1:])


HEAVY = {
    "torch", "transformers", "datasets", "numpy", "pandas", "scipy", "tokenizers", "httpx2",
    "httpcore2", "asyncio",
}  # fmt: skip


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
            {"torch", "transformers", "datasets", "tokenizers", "httpx2"},
        ),
    ],
)
def test_little_is_loaded(statement: str, heavy: set[str]) -> None:
    found = loaded_by(statement)
    assert "harness" in found
    assert not found & heavy
