"""Checks of the installation for `harness doctor`: versions, machine, hub and data."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"  # in a checkout; a wheel has none
SLOW_GFLOPS = 5.0  # one CPU core of the last ten years reaches ten times that
MAX_ERROR_CHARS = 200  # of an error that is not one of this program's
HUB_TIMEOUT = 3.0  # seconds


class Finding(NamedTuple):
    """The result of one check."""

    name: str
    state: State
    seen: str
    advice: str = ""  # what to do; empty if all is well


Check = Callable[[], Finding | Iterator[Finding]]


def guarded(name: str, check: Check, advice: str) -> Iterator[Finding]:
    """The findings of a check; an exception becomes a failed finding with this advice."""
    try:
        findings = check()
        yield from [findings] if isinstance(findings, Finding) else findings
    except HarnessError as error:
        yield Finding(name, "fail", str(error), advice)
    except Exception as error:  # the code of a model or a library may raise anything
        text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
        yield Finding(name, "fail", text[:MAX_ERROR_CHARS], advice)


def versions(
    tested: Mapping[str, str] | None = None, needed: Sequence[Requirement] | None = None
) -> Finding:
    """Compare installed packages with what is required, and with the versions of the checkout."""
    tested = tested_versions() if tested is None else tested
    needed = requirements() if needed is None else needed
    installed = {canonicalize_name(need.name): _installed(need.name) for need in needed}
    wrong = [
        f"{need.name} {have or 'missing'} (needs {need.specifier or 'any version'})"
        for need, have in zip(needed, installed.values(), strict=True)
        if have is None or not need.specifier.contains(Version(have).public, prereleases=True)
    ]
    if wrong:
        return Finding("versions", "fail", ", ".join(wrong), "pip install -c constraints.txt .")
    untested = [
        f"{name} {have} (tested with {tested[name]})"
        for name, have in installed.items()
        if have and name in tested and Version(have).public != Version(tested[name]).public
    ]
    if untested:
        advice = "pip install -c constraints.txt . if numbers differ from published ones"
        return Finding("versions", "warn", ", ".join(untested), advice)
    seen = f"{len(installed)} packages as required"
    if tested:
        seen += f", {sum(name in tested for name in installed)} of them in the tested version"
    return Finding("versions", "ok", seen)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements() -> list[Requirement]:
    """The requirements of this program without extras; none if it is not installed."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    needs = [Requirement(line) for line in lines]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def tested_versions() -> dict[str, str]:
    """Package -> version in the constraints of the checkout; empty for an installed wheel."""
    if not CONSTRAINTS.is_file():
        return {}
    pairs = (line.partition("==") for line in CONSTRAINTS.read_text("utf-8").split())
    return {canonicalize_name(name): number for name, _, number in pairs}


def hardware(device: str | None, threads: int | None) -> Iterator[Finding]:
    """Check device, threads and the speed of matrix products, which takes a second."""
    from harness.engine.backends.machine import bfloat16_gain, machine, product_rate
    from harness.engine.checkpoint.onednn import lacking_instructions

    try:
        here = machine(device, threads)
    except CheckpointError as error:
        yield Finding("device", "fail", str(error), "omit --device, or name one of these")
        return
    yield Finding("device", "ok", here.device)
    yield threading_of(here.threads, here.cores)
    yield rate(product_rate(here.device), here.device)
    if here.device == "cpu":
        yield bfloat16(bfloat16_gain(), lacking_instructions())


def threading_of(threads: int, cores: int) -> Finding:
    """Compare CPU threads with the available cores."""
    seen = f"{threads} threads on {cores} cores"
    if threads > cores:
        return Finding("threads", "warn", seen, f"use --threads {cores}: more compete for cores")
    limit = os.environ.get("OMP_NUM_THREADS")
    if threads * 2 <= cores and limit is not None:
        advice = "unset OMP_NUM_THREADS for speed"
        return Finding("threads", "warn", f"{seen} (OMP_NUM_THREADS={limit})", advice)
    return Finding("threads", "ok", seen)


def rate(gflops: float, device: str) -> Finding:
    """Judge the measured speed of matrix products."""
    seen = f"{gflops:,.0f} GFLOP/s in float32 on {device}"
    if gflops < SLOW_GFLOPS:
        advice = "is the machine busy, or torch built without a BLAS? reinstall torch"
        return Finding("products", "warn", seen, advice)
    return Finding("products", "ok", seen)


def bfloat16(gain: float, lacks: str = "") -> Finding:
    """Judge how many times as fast products are in bfloat16; `lacks` is what the CPU lacks."""
    seen = f"products of large matrices run at {gain:.2g} times the rate of float32"
    if gain < 1:
        seen += ": --dtype bfloat16 is slower here, and less exact"
    return Finding("bfloat16", "ok", f"{lacks}; {seen}" if lacks else seen)


def hub(endpoint: str | None = None, timeout: float = HUB_TIMEOUT) -> Finding:
    """Check that the hub answers; a host name that does not resolve cannot block this either."""
    from huggingface_hub import constants

    if endpoint is None and constants.HF_HUB_OFFLINE:
        return Finding("hub", "ok", "not tried: HF_HUB_OFFLINE is set, cached files are used")
    address = endpoint or constants.ENDPOINT
    answers: list[str] = []
    thread = threading.Thread(target=_try_hub, args=(address, timeout, answers), daemon=True)
    thread.start()
    thread.join(timeout + 1)
    seen = answers[0] if answers else f"no answer within {timeout:g} s"
    if seen == "reachable":
        return Finding("hub", "ok", f"{address} is reachable")
    advice = "use local models and data, or the hub's cache with HF_HUB_OFFLINE=1"
    return Finding("hub", "warn", f"{address}: {seen}", advice)


def _try_hub(address: str, timeout: float, answers: list[str]) -> None:
    try:
        with urlopen(Request(address, method="HEAD"), timeout=timeout):
            answers.append("reachable")
    except (OSError, ValueError) as error:
        answers.append(" ".join(str(error).split())[:MAX_ERROR_CHARS])


def rows(folder: Path | None) -> Iterator[Finding]:
    """Check the data of every task of the paper, as its default protocol reads it."""
    if folder is None:
        advice = "give --data-dir or set HARNESS_DATA; --sample and --hub work without"
        yield Finding("data", "warn", "no data folder", advice)
        return
    if not folder.is_dir():
        seen = f"{str(folder)!r} is not a folder"
        yield Finding("data", "fail", seen, "give --data-dir a folder")
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
            files = " or ".join(file.removeprefix("./") for file in source.files)
            return Finding(name, "warn", f"missing: {files}", f"get it from {source.origin}")
        loaded = data.load(source, data.Where(folder=folder))
    except DataError as error:
        return Finding(name, "fail", str(error), f"get the file again from {source.origin}")
    if loaded.warnings:
        advice = f"scores will be those of this file, not of the published one ({source.origin})"
        return Finding(name, "warn", "; ".join(loaded.warnings), advice)
    checksum = "checksum as published" if source.sha256 else "no published checksum"
    return Finding(name, "ok", f"{loaded.name}, {len(loaded.rows):,} rows, {checksum}")
