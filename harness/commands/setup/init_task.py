"""`harness init-task`: write a working plugin package from the files in `template/`.

NAME/
  pyproject.toml           with the entry point
  README.md                what to change, in which order
  harness_NAME/__init__.py the task
  harness_NAME/prompt.txt  the prompt
  harness_NAME/rows.jsonl  a few rows, for --sample
  tests/test_NAME.py       the checks of `harness.testing.conformance`
  tests/golden.json        the exact requests
"""

import re
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from string import Template

from harness.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME_CHARS = 40  # a name is a column of tables and part of file names
FILES = {  # template -> path in the package
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "task.py.txt": "{package}/__init__.py",
    "prompt.txt": "{package}/prompt.txt",
    "rows.jsonl": "{package}/rows.jsonl",
    "test_task.py.txt": "tests/test_{module}.py",
    "golden.json": "tests/golden.json",
}


def check_name(name: str, taken: Collection[str]) -> None:
    """Refuse a name that no task can have.

    Args:
        name: of the new task.
        taken: names of commands and installed tasks.
    """
    if not NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise UsageError(
            f"{name!r} is not a valid name for a task; expected at most {MAX_NAME_CHARS} "
            "lower-case letters, digits and single dashes, starting with a letter, such as "
            "my-riddles"
        )
    if name in taken:
        raise UsageError(f"{name!r} is already a command or an installed task; choose another name")


def write(name: str, out: Path) -> Path:
    """Write the package of a task into a new folder `out / name`; return the folder."""
    folder = out / name
    module = name.replace("-", "_")
    words = {"name": name, "package": f"harness_{module}"}
    try:
        folder.mkdir(parents=True)
        for template, target in FILES.items():
            text = (files("harness.commands.setup") / "template" / template).read_text("utf-8")
            path = folder / target.format(module=module, **words)
            path.parent.mkdir(exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8", newline="\n")
    except FileExistsError:
        raise UsageError(
            f"{folder} exists already and is not overwritten; choose another name or --out"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}; choose another --out"
        ) from error
    return folder
