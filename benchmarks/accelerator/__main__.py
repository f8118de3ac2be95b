"""A day with a GPU in nine minutes: parity, memory, waiting and speed on an accelerator.

    python -m benchmarks.accelerator [--device cuda] [--out DIR] [--only parity,trees]
    python -m benchmarks.accelerator --device cpu --small

Needs this checkout, torch, transformers, numpy and safetensors, and no file besides. The most
important parts come first, each has its time, and the results are written after every part, as
accelerator.json and accelerator.md. `--small` tries everything out with tiny models.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from benchmarks.accelerator.page import PAGE, Result, write
from benchmarks.accelerator.parts import PARTS, SECONDS, run_part
from benchmarks.accelerator.setting import Setting


def main() -> int:
    """Run the parts; the exit code is 1 if one has not ended, or found something wrong."""
    options = _options()
    setting = Setting(options.device or _accelerator(), options.small)
    chosen = [part for part in PARTS if not options.only or part.name in options.only.split(",")]
    results = [Result(part.name, part.title) for part in chosen]
    about = _about(setting)
    begun, saved = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HARNESS_CACHE", folder)
        for i, part in enumerate(chosen):
            allowed = part.seconds + saved if options.limit else float("inf")
            results[i] = run_part(part, setting, allowed, Path(folder) / f"{part.name}.jsonl")
            saved = allowed - results[i].seconds  # what a part leaves is the next one's
            about["seconds"] = round(time.monotonic() - begun)
            write(options.out, about, results)
            _report(results[i])
    print(f"wrote {options.out / PAGE}")
    return int(any(result.wrong or result.state != "done" for result in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", help="such as cuda or cpu; default: the accelerator")
    parser.add_argument("--small", action="store_true", help="tiny models, to try everything out")
    parser.add_argument("--only", help=f"some of {', '.join(part.name for part in PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("results/accelerator"))
    parser.add_argument(
        "--no-limit",
        dest="limit",
        action="store_false",
        help=f"let parts take longer than their time, {SECONDS} s in all",
    )
    options = parser.parse_args()
    unknown = {*(options.only or PARTS[0].name).split(",")} - {part.name for part in PARTS}
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: expected some of these parts: "
                     f"{', '.join(part.name for part in PARTS)}")  # fmt: skip
    return options


def _accelerator() -> str:
    """The accelerator of this machine."""
    found = torch.accelerator.current_accelerator()
    if found is None or not torch.accelerator.is_available():
        sys.exit("no accelerator was found; --device cpu --small tries everything out on the CPU")
    return str(found)


def _about(setting: Setting) -> dict[str, Any]:
    """What runs where."""
    names = {"device": setting.device, "models": "tiny" if setting.small else "full size"}
    if setting.on_cuda:
        found = torch.cuda.get_device_properties(torch.device(setting.device))
        names["device"] = f"{found.name}, {found.total_memory / 1e9:.0f} GB"
    names |= {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**names, "python": platform.python_version(), "CPU threads": torch.get_num_threads()}


def _report(result: Result) -> None:
    """One line a part on the terminal."""
    wrong = f", {len(result.wrong)} wrong" if result.wrong else ""
    line = f"{result.name}: {result.state}, {result.seconds:.0f} s, {len(result.rows)} rows{wrong}"
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
