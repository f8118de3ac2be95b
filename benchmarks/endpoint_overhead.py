"""What asking a model server costs this process: `python -m benchmarks.endpoint_overhead`.

Two servers on this machine take a fixed time for each call: one of a few lines, asked by the
transport alone, and the fake server of the tests, asked for log-probabilities by the whole backend.
The overhead of a call is the time beyond that of a perfect client, which includes what the server
itself takes; the CPU time is that of our process alone. Each line is a process of its own, whose
memory is that at its end beyond that before the first call.
"""

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROMPT = 400  # tokens of a call of the transport alone
TARGET = 1e-3  # seconds of CPU time per call
FAKE = Path(__file__).parents[1] / "tests" / "fake_server.py"


class Cost(NamedTuple):
    """What a number of calls cost."""

    wall: float  # seconds
    cpu: float  # seconds
    grown: float  # bytes


def serve(seconds: float) -> None:
    """Answer every call after a fixed time; prints the address."""
    body = json.dumps({"choices": [{"prompt_token_ids": list(range(PROMPT)), "logprobs": None}]})
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    reply = f"{head}{len(body)}\r\n\r\n{body}".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            while (line := await reader.readline()).strip():
                head += line
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            await asyncio.sleep(seconds)
            writer.write(reply)
        writer.close()

    async def listen() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    asyncio.run(listen())


@contextmanager
def server(command: list[str]) -> Iterator[str]:
    """Run a server that prints its address; the address."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measured(work: Callable[[], None]) -> Cost:
    """What a piece of work costs this process."""
    memory, wall, cpu = resident(), time.perf_counter(), time.process_time()
    work()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(*spent, resident() - memory)


def transport(url: str, calls: int, concurrency: int) -> Cost:
    """Calls by the transport alone."""
    from harness.engine.endpoint.call import Call
    from harness.engine.endpoint.transport import Transport

    sender = Transport([url], concurrency=concurrency)
    prompt = list(range(PROMPT))

    def ask(number: int) -> Call:
        return Call("v1/completions", {"prompt": prompt, "max_tokens": 1, "seed": number})

    def work() -> None:
        assert sum(1 for _ in sender.send((n, ask(n)) for n in range(calls))) == calls

    list(sender.send((number, ask(number)) for number in range(concurrency)))
    cost = measured(work)
    sender.close()
    return cost


def backend(url: str, calls: int, concurrency: int) -> Cost:
    """Queries for the log-probability of one token after 50, answered by the whole backend."""
    from harness.engine.endpoint.connect import connect
    from harness.engine.endpoint.settings import EndpointSettings
    from harness.engine.queries.query import Span

    endpoint = connect(EndpointSettings(url, concurrency=concurrency), store_results=False)

    def queries(first: int, count: int) -> list[Span]:
        numbers = range(first, first + count)
        return [Span((*divmod(n, 100), *[n % 97] * 48), (n % 89,)) for n in numbers]

    def answer(asked: list[Span]) -> None:
        found = 0
        for answers in endpoint.answer(asked, set(), lambda done, total: None):
            found += len(answers)
        assert found == len(asked)

    answer(queries(0, concurrency))
    asked = queries(10**4 // 2, calls)
    cost = measured(lambda: answer(asked))
    endpoint.close()
    return cost


def tiny_checkpoint(folder: Path) -> Path:
    """A checkpoint folder whose tokenizer the fake server uses."""
    from harness.engine.checkpoint.random_model import byte_tokenizer, model

    tokenizer = byte_tokenizer()
    model(tokenizer, context=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    """Print one line per way and number of calls; fail if a call costs too much CPU time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", default="500,2000")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.02, help="that the server takes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.seconds)
    print("| asked by | calls | seconds | perfect client | overhead of a call | CPU time of a call "
          "| memory grown |\n|---|--:|--:|--:|--:|--:|--:|", flush=True)  # fmt: skip
    dear = False
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_checkpoint(Path(name))
        bare = ["-m", "benchmarks.endpoint_overhead", "--serve"]
        fake = [str(FAKE), "--model", str(folder), "--constant"]
        ways = ((transport, [*bare, "--seconds"]), (backend, [*fake, "--delay"]))
        for ask, command in ways:
            for calls in map(int, options.calls.split(",")):
                with (
                    server([*command, str(options.seconds)]) as url,
                    multiprocessing.get_context("spawn").Pool(1) as pool,
                ):
                    cost = pool.apply(ask, (url, calls, options.concurrency))
                ideal = calls / options.concurrency * options.seconds
                over, cpu = (cost.wall - ideal) / calls, cost.cpu / calls
                dear |= cpu >= TARGET
                print(f"| {ask.__name__} | {calls:,} | {cost.wall:.2f} | {ideal:.2f} "
                      f"| {over * 1e3:.2f} ms | {cpu * 1e3:.2f} ms | {cost.grown / 1e6:.1f} MB |",
                      flush=True)  # fmt: skip
    sys.exit(1 if dear else 0)


if __name__ == "__main__":
    main()
