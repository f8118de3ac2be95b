"""The software and the machine that computed a record."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = {
    "harness": "zero-shot-harness",
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "numpy": "numpy",
    "sacrebleu": "sacrebleu",
    "rouge-score": "rouge-score",
    "sentencex": "sentencex",
}


def environment() -> dict[str, Any]:
    """Versions of packages and Python, the commit of the checkout, and the kind of machine."""
    return {
        "versions": {name: _version(package) for name, package in _PACKAGES.items()},
        "git": _git(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@cache  # the code that runs was loaded at the start
def _git(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout this package runs from, and whether it has changes; else None."""

    def run(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        run("ls-files", "--error-unmatch", "harness/core.py")
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
