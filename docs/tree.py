"""Print the source tree with one line per file, as docs/architecture.md shows it.

The line is the first sentence of the module's docstring.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("harness", "tasks", "benchmarks")
NOTES = {
    "prompts/": "prompt templates, exactly as the model reads them",
    "results/paper/": "published numbers, with their sources",
    "tests/": "one file per module or topic",
    "examples/": "a benchmark in a package of its own, and a CI workflow",
    "docs/": "these pages, and the scripts that make parts of them",
}


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    line = " ".join(text.partition("\n\n")[0].split())
    return line.partition(". ")[0].rstrip(".")


def lines(folder: Path, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Indented names of a folder's modules and subfolders, each with its line."""
    init = folder / "__init__.py"
    yield f"{'  ' * depth}{folder.name}/", summary(init)
    for path in sorted(folder.glob("*.py")):
        if path != init:
            yield f"{'  ' * (depth + 1)}{path.name}", summary(path)
    for sub in sorted(folder.iterdir()):
        if (sub / "__init__.py").is_file():
            yield from lines(sub, depth + 1)


def tree() -> str:
    """The whole tree as text."""
    found = [line for folder in FOLDERS for line in lines(ROOT / folder)]
    found += NOTES.items()
    width = max(len(name) for name, _ in found) + 2
    return "\n".join(f"{name:{width}}{text}".rstrip() for name, text in found)


if __name__ == "__main__":
    print(tree())
