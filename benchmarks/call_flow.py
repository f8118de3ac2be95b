"""How far does a reader jump to follow a run? `python -m benchmarks.call_flow`.

Two runs of the command line with a two-layer model of random weights: `lambada` on two passages and
`coqa` on one story, both from the built-in samples. Each runs twice, and the second run is counted:
the first stores the results of self-tests and the digests of files in the user's cache, as the
first use of a checkpoint does. The response cache is fresh in both, so that everything is scored.
Option `--first` counts the first run. Counted are calls of Python functions that are defined in
`harness/` or `tasks/`:

    files         files that a call enters
    functions     distinct functions that are called
    changes       consecutive calls in different files

A generator counts when it starts, not when it resumes. Generator expressions and lambdas are
functions of the file that they are written in. Bodies of modules and classes are not counted, nor
what they call: all modules are imported before the count begins.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import itertools
import os
import pkgutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from unittest import mock

import harness
import tasks

ROOT = Path(harness.__file__).parent.parent
FOLDERS = tuple(f"{ROOT / name}{os.sep}" for name in ("harness", "tasks"))
RUNS = {
    "lambada, 2 passages": ("lambada", "--limit", "2"),
    "coqa, 1 story": ("coqa", "--limit", "1"),
}


class Flow(NamedTuple):
    """The calls of one run, in order."""

    calls: list[tuple[str, str]]  # file, function

    @property
    def files(self) -> list[str]:
        """Files entered, in order of their first call."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    @property
    def changes(self) -> list[tuple[str, str]]:
        """(file left, file entered) for each change."""
        pairs = itertools.pairwise(file for file, _ in self.calls)
        return [(left, entered) for left, entered in pairs if left != entered]


def record_calls(action: Callable[[], None]) -> Flow:
    """The calls of Python functions of this project that an action makes, in any thread."""
    calls: list[tuple[str, str]] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(FOLDERS):
            return
        if code.co_flags & inspect.CO_OPTIMIZED and not _resumes(frame):
            calls.append((str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return Flow(calls)


def _resumes(frame: FrameType) -> bool:
    """Whether a call event is a generator that goes on; the operand of RESUME is 0 at a start."""
    return bool(frame.f_code.co_code[frame.f_lasti + 1] & 3)


def run_command(words: Sequence[str]) -> None:
    """Run the command line in this process, its output discarded."""
    from harness.cli.group import main

    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["harness", *words]),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main()
    if not output.getvalue():
        raise RuntimeError(f"harness {' '.join(words)} printed nothing")


def import_all() -> None:
    """Import every module of the project that can be imported here."""
    for package in (harness, tasks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and "template" not in module.name:
                importlib.import_module(module.name)


def save_model(folder: Path) -> None:
    """Write the two-layer model with its tokenizer."""
    from harness.engine.checkpoint import random_model

    tokenizer = random_model.byte_tokenizer()
    tokenizer.save_pretrained(folder)
    random_model.model(tokenizer, context=1024).save_pretrained(folder)


def places(folder: Path, run: str) -> tuple[str, ...]:
    """Options for a run whose records and response cache are its own."""
    return "--out", str(folder / run / "records"), "--cache", str(folder / run / "cache")


def print_flow(flow: Flow, *, top: int) -> None:
    """The most frequent changes, and the files in order of their first call."""
    print(f"\n{top} most frequent changes of file:\n")
    for (left, right), count in Counter(flow.changes).most_common(top):
        print(f"  {count:4d}  {left} -> {right}")
    print("\nfiles and how often they are entered:\n")
    entered = Counter(file for _, file in flow.changes)
    for file in flow.files:
        print(f"  {entered[file]:4d}  {file}")


def main() -> None:
    """Print one line per run; with --top also where the changes are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--top", type=int, default=0, help="show this many kinds of changes")
    parser.add_argument("--calls", type=Path, help="write every call of each run to this folder")
    parser.add_argument("--first", action="store_true", help="count the first run of a checkpoint")
    options = parser.parse_args()
    import_all()
    print("| run | files | functions | changes of file |\n|---|--:|--:|--:|")
    for title, words in RUNS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save_model(folder / "model")
            command = (*words, "--sample", "--model", str(folder / "model"))
            with mock.patch.dict(os.environ, HARNESS_CACHE=str(folder / "user-cache")):
                if not options.first:
                    run_command((*command, *places(folder, "first")))
                counted = (*command, *places(folder, "counted"))
                flow = record_calls(lambda words=counted: run_command(words))  # type: ignore[misc]
        functions = len(set(flow.calls))
        print(f"| {title} | {len(flow.files)} | {functions} | {len(flow.changes)} |", flush=True)
        if options.top:
            print_flow(flow, top=options.top)
        if options.calls:
            options.calls.mkdir(parents=True, exist_ok=True)
            lines = [f"{file} {function}\n" for file, function in flow.calls]
            (options.calls / f"{words[0]}.txt").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
