"""Is this installation sane? Versions, machine, hub and data, a finding each; for `doctor`."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.analysis.paper import published
from harness.core import Source
from harness.data import load as data
from harness.errors import CheckpointError, DataError, HarnessError
from harness.plugins.registry import load_task

State = Literal["ok", "warn", "fail"]
DISTRIBUTION = "zero-shot-harness"
CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"  # of a checkout; a wheel has none
SLOW = 5.0  # GFLOP/s; a single core of the last ten years does ten times that
SEEN = 200  # characters of an error that is no message of this program's own
PATIENCE = 3.0  # seconds that the hub may take


class Finding(NamedTuple):
    """One line of the doctor."""

    name: str
    state: State
    seen: str
    advice: str = ""  # what to do; nothing where all is well


def guarded(name: str, check: Callable[[], Iterable[Finding]], advice: str) -> Iterator[Finding]:
    """The findings of a check; one that raises has failed, and those after it go on.

    Args:
        name: of the check.
        check: gives its findings.
        advice: what to do if it raises.
    """
    try:
        yield from check()
    except HarnessError as error:
        yield Finding(name, "fail", str(error), advice)
    except Exception as error:  # whatever a model's or a library's code raises is a finding
        words = " ".join(str(error).split())
        seen = f"{type(error).__name__}: {words}" if words else type(error).__name__
        yield Finding(name, "fail", seen[:SEEN], advice)


# --- versions ---------------------------------------------------------------------------------


def versions(tested: Mapping[str, str], needed: Sequence[Requirement]) -> Finding:
    """Installed packages against what is needed, and against the versions that were tested.

    Args:
        tested: package, by its canonical name -> version.
        needed: packages with the range of versions that this program declares.
    """
    found = {canonicalize_name(need.name): _installed(need.name) for need in needed}
    wrong = [
        f"{need.name} {here or 'missing'} (needs {need.specifier or 'any version'})"
        for need, here in zip(needed, found.values(), strict=True)
        if not _fits(need, here)
    ]
    if wrong:
        return Finding("versions", "fail", ", ".join(wrong), "pip install -c constraints.txt .")
    other = [
        f"{name} {here} (tested with {tested[name]})"
        for name, here in found.items()
        if here and name in tested and Version(here).public != Version(tested[name]).public
    ]
    if other:
        advice = "pip install -c constraints.txt . if numbers differ from published ones"
        return Finding("versions", "warn", ", ".join(other), advice)
    compared = sum(name in tested for name in found)
    beside = f", {compared} of them as tested" if tested else ""
    return Finding("versions", "ok", f"{len(found)} packages as declared{beside}")


def _fits(need: Requirement, here: str | None) -> bool:
    return here is not None and need.specifier.contains(Version(here).public, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def declared() -> list[Requirement]:
    """What this program declares that it needs, extras apart; nothing if it is not installed."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    needs = [Requirement(line) for line in lines]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def tested() -> dict[str, str]:
    """Package -> version in the checkout's constraints; empty for an installed wheel."""
    if not CONSTRAINTS.is_file():
        return {}
    lines = CONSTRAINTS.read_text("utf-8").split()
    pairs = (line.partition("==") for line in lines)
    return {canonicalize_name(name): number for name, _, number in pairs}


# --- the machine ------------------------------------------------------------------------------


def hardware(device: str | None, threads: int | None) -> Iterator[Finding]:
    """Device, threads and the rate of matrix products, which takes a second."""
    from harness.engine.backends.machine import machine, product_rate

    try:
        here = machine(device, threads)
    except CheckpointError as error:
        yield Finding("device", "fail", str(error), "leave --device out, or name one of these")
        return
    yield Finding("device", "ok", here.device)
    yield threading_of(here.threads, here.cores)
    yield rate(product_rate(here.device), here.device)


def threading_of(threads: int, cores: int) -> Finding:
    """Threads of the CPU against the cores that may be used."""
    seen = f"{threads} threads on {cores} cores"
    if threads > cores:
        return Finding("threads", "warn", seen, f"give --threads {cores}: more take turns")
    if threads * 2 <= cores and "OMP_NUM_THREADS" in os.environ:
        limit = os.environ["OMP_NUM_THREADS"]
        return Finding("threads", "warn", f"{seen} (OMP_NUM_THREADS={limit})", "unset it for speed")
    return Finding("threads", "ok", seen)


def rate(gflops: float, device: str) -> Finding:
    """The measured rate of matrix products."""
    seen = f"{gflops:,.0f} GFLOP/s in float32 on {device}"
    if gflops < SLOW:
        advice = "is the machine busy, or torch built without its BLAS? reinstall torch"
        return Finding("products", "warn", seen, advice)
    return Finding("products", "ok", seen)


# --- hub --------------------------------------------------------------------------------------


def hub(endpoint: str | None = None, patience: float = PATIENCE) -> Finding:
    """Whether the hub answers; a name that does not resolve cannot hold this up either."""
    from huggingface_hub import constants

    if endpoint is None and constants.HF_HUB_OFFLINE:
        return Finding("hub", "ok", "not asked: HF_HUB_OFFLINE is set, what is cached is used")
    address = endpoint or constants.ENDPOINT
    answers: list[str] = []
    thread = threading.Thread(target=_ask, args=(address, patience, answers), daemon=True)
    thread.start()
    thread.join(patience + 1)
    seen = answers[0] if answers else f"no answer within {patience:g} s"
    if seen == "reachable":
        return Finding("hub", "ok", f"{address} is reachable")
    advice = "models and data must be local, or in the hub's cache (then set HF_HUB_OFFLINE=1)"
    return Finding("hub", "warn", f"{address}: {seen}", advice)


def _ask(address: str, patience: float, answers: list[str]) -> None:
    try:
        with urlopen(Request(address, method="HEAD"), timeout=patience):
            answers.append("reachable")
    except (OSError, ValueError) as error:
        answers.append(" ".join(str(error).split())[:120])


# --- data -------------------------------------------------------------------------------------


def rows(folder: Path | None) -> Iterator[Finding]:
    """The data of every benchmark of the paper, as its default protocol would read it."""
    if folder is None:
        advice = "give --data-dir, or set HARNESS_DATA; --sample and --hub do without"
        yield Finding("data", "warn", "no data folder", advice)
        return
    if not folder.is_dir():
        yield Finding("data", "fail", f"{str(folder)!r} is no folder", "give --data-dir a folder")
        return
    for name in published.tasks((*published.COLUMNS, *published.SECTION3)):
        check = partial(_task_files, name, folder)
        yield from guarded(f"data {name}", check, "get its files again, or reinstall")


def _task_files(name: str, folder: Path) -> Iterator[Finding]:
    task = load_task(name)
    options = task.protocol().options
    yield _file(f"data {name}", task.source(options), folder)
    if task.few_shot:
        yield _file(f"data {name} pairs", task.few_shot.source(options), folder)


def _file(name: str, source: Source, folder: Path) -> Finding:
    try:
        if data.find_file(source, folder) is None:
            wanted = " or ".join(file.removeprefix("./") for file in source.files)
            return Finding(name, "warn", f"missing: {wanted}", f"get it from {source.origin}")
        found = data.load(source, data.Where(folder=folder))
    except DataError as error:
        return Finding(name, "fail", str(error), f"get the file again from {source.origin}")
    if found.warnings:
        advice = f"scores are of this file, not of the published one ({source.origin})"
        return Finding(name, "warn", "; ".join(found.warnings), advice)
    known = "checksum as published" if source.sha256 else "no checksum is published"
    return Finding(name, "ok", f"{found.name}, {len(found.rows):,} rows, {known}")
