"""A new plugin package from the files in `harness/template`: it works at once, and is then changed.

NAME/
  pyproject.toml           with the entry point
  README.md                what to change, in which order
  harness_NAME/__init__.py the task
  harness_NAME/prompt.txt  what the model reads
  harness_NAME/rows.jsonl  a few rows, for --sample
  tests/test_NAME.py       `harness.testing.conformance` on it
  tests/golden.json        its requests, word for word
"""

import re
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from string import Template

from harness.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40  # characters of a name: it is a column of tables and part of file names
FILES = {  # template -> where it goes
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "task.py.txt": "{package}/__init__.py",
    "prompt.txt": "{package}/prompt.txt",
    "rows.jsonl": "{package}/rows.jsonl",
    "test_task.py.txt": "tests/test_{module}.py",
    "golden.json": "tests/golden.json",
}


def check_name(name: str, taken: Collection[str]) -> None:
    """Refuse a name that no benchmark can have.

    Args:
        name: of the new benchmark.
        taken: names of commands and installed benchmarks.

    Raises:
        UsageError: it is not in lower case with single dashes, too long, or taken.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UsageError(
            f"{name!r} is no name for a benchmark; expected at most {LONGEST} lower-case letters, "
            "digits and single dashes, a letter first, such as my-riddles"
        )
    if name in taken:
        raise UsageError(
            f"{name!r} is already a command or an installed benchmark; choose another name"
        )


def write(name: str, out: Path) -> Path:
    """Write the package of a benchmark into a new folder `out / name`, and return that.

    Raises:
        UsageError: the folder is there already, or cannot be written.
    """
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
            f"{folder} is already there, and nothing is written over; choose another name or --out"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}; choose another --out"
        ) from error
    return folder
