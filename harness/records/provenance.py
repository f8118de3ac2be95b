"""What software a record was made with: versions, commit, machine class."""

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
    """Versions, the checkout's commit and whether it has changes, Python and machine."""
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


@cache  # what runs is what was loaded at the start
def _git(root: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this package runs from; None if it is installed."""

    def run(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        run("ls-files", "--error-unmatch", "harness/core.py")
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
