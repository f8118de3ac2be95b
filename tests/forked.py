"""Commands in processes of their own, without the six seconds in which each would import torch.

They are forks of one process that has imported what commands need. A fork has memory, signals,
output and an exit code of its own. What is read while torch and transformers are imported, such as
HF_HOME, cannot be set for it, and what a start costs or imports cannot be seen of it.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

IMPORTED = [  # not what looks at standard output or the environment when it is imported
    "harness.engine.checkpoint.load",
    "harness.engine.engine",
    "scipy.stats",
    "transformers.models.gpt2.modeling_gpt2",
]


def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTED)  # the process starts with the first fork
    return found


def start(
    *words: object,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    out: Path,
    err: Path,
) -> ForkServerProcess:
    """Start `python -m WORDS`.

    Args:
        words: a module and its arguments.
        folder: where it runs; None stands for the current one.
        environment: all of its variables; None stands for those of this process.
        out, err: files for its output and its errors; may be one file.
    """
    given = dict(os.environ if environment is None else environment)
    texts = [*map(str, words)]
    process = context().Process(target=_run, args=(texts, folder or Path.cwd(), given, out, err))
    process.start()
    return process


def run(
    *words: object, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m WORDS` to its end; see `start`."""
    with TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        process = start(*words, folder=folder, environment=environment, out=out, err=err)
        process.join()
        assert process.exitcode is not None
        texts = out.read_text("utf-8"), err.read_text("utf-8")
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def calling(function: Callable[..., None], *words: object) -> ForkServerProcess:
    """Start a function of a module, in the current folder and with the current environment."""
    process = context().Process(target=_call, args=(dict(os.environ), function, words))
    process.start()
    return process


def _call(
    environment: dict[str, str], function: Callable[..., None], words: tuple[object, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*words)


def _run(words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    for handle, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(folder), *filter(None, places)]
    sys.argv = words
    _call(environment, _run_module, (words[0],))


def _run_module(name: str) -> None:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
