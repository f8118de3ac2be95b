"""A model server in this process, in the shapes of real ones: `python tests/fake_server.py --help`.

    with FakeServer(from_folder(folder)) as server:
        harness("lambada", "--model", server.url)

`kill` closes the port and every connection, `start` opens the same port again.
"""

import argparse
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fake_others
import fake_vllm
import numpy as np
from fake_asked import Refusal
from fake_model import Model, Sampling, Text, constant, from_folder
from fake_traps import TRAPS, Hidden, Trap
from numpy.typing import NDArray

KINDS = ("vllm", "openai", "sglang", "llama.cpp")
BODIES = 10_000  # the last calls that are kept


class FakeServer:
    """One model behind the API of a kind of server.

    Args:
        model: what it computes with.
        kind: whose API it speaks.
        name: of the model, in the API.
        port: 0 chooses a free one.
        key: what calls must have as their bearer token.
        delay: seconds that every call takes before it is computed.
        trap: the name of a mistake that it makes.
        after: calls for log-probabilities or text that are answered without a mistake.
        times: how often the mistake is made.
        only: for which prompts the mistake is made.
        most_logprobs: as vLLM's `--max-logprobs`.
    """

    def __init__(
        self,
        model: Model,
        *,
        kind: str = "vllm",
        name: str = "tiny",
        port: int = 0,
        key: str | None = None,
        delay: float = 0.0,
        trap: str = "",
        after: int = 0,
        times: int = 1 << 60,
        only: Callable[[Sequence[int]], bool] = lambda prompt: True,
        most_logprobs: int = 20,
    ) -> None:
        self.model, self.name, self.key, self.delay = model, name, key, delay
        self.most_logprobs = most_logprobs
        self.port = port
        self.trap = Trap(trap, after, times, only)
        self.bodies: deque[tuple[str, Any]] = deque(maxlen=BODIES)
        self.calls = 0
        routes = {"sglang": fake_others.SGLANG, "llama.cpp": fake_others.LLAMA_CPP}
        self.routes: Mapping[str, Callable[..., Any]] = routes.get(kind) or fake_vllm.routes(kind)
        self.kind = kind
        self._lock = threading.RLock()
        self.failures: list[Exception] = []  # of this program, not of a trap
        self._sockets: set[socket.socket] = set()
        self._in_flight: list[Mapping[str, Any]] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """The address that clients are given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FakeServer":
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()
        if self.failures:
            raise self.failures[0]

    def start(self) -> None:
        """Listen; after `kill`, on the same port and with an empty prefix cache."""
        handler = type("Bound", (Handler,), {"fake": self})
        self._server = Listener(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        self.model.forget()
        self.trap.over.clear()
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Close the port and all connections, as a process that dies does."""
        server, self._server = self._server, None
        if server is None:
            return
        self.trap.over.set()
        server.shutdown()
        server.server_close()
        for connection in list(self._sockets):
            cut(connection)

    @contextmanager
    def connection(self, connection: socket.socket) -> Any:
        """Keep a connection where `kill` finds it."""
        self._sockets.add(connection)
        try:
            yield
        finally:
            self._sockets.discard(connection)

    def reply(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and body of the reply to one call."""
        route = self.routes.get(path)
        if route is None:
            return 404, {"detail": "Not Found"}
        if body is not None:
            if self.delay:
                time.sleep(self.delay)
            self._in_flight.append(body)
        try:
            with self._lock, self.model.lock:  # replicas of a test may share a model
                self.calls += body is not None
                self.bodies.append((path, body))
                self.trap.begin(path, body, self._in_flight)
                reply = route(self, self.trap.body(body, self.model))
                return 200, self.trap.reply(path, body, reply)
        except Refusal as refusal:
            return refusal.status, refusal.body
        except Hidden:
            raise
        except Exception as error:
            self.failures.append(error)
            return 500, {"error": {"message": repr(error), "type": "InternalServerError"}}
        finally:
            if body is not None:
                self._in_flight.remove(body)

    # --- what the routes compute with --------------------------------------------------------

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """The prompt that is computed."""
        return self.trap.prompt(list(ids), self.model)

    def rows(self, ids: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log-probabilities of the tokens of a prompt but the first, and of what comes next."""
        return self.trap.rows(ids, self.model)

    def write(self, ids: Sequence[int], how: Sampling) -> Text:
        """What is generated."""
        return self.trap.text(self.model.write(self.trap.written(ids, self.model), how))


class Listener(ThreadingHTTPServer):
    """Threads of their own for all connections; a port that was closed can be opened again."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that a client or `kill` has cut are no news."""


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between calls."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeServer

    def handle(self) -> None:
        with self.fake.connection(self.connection):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, data: bytes | None) -> None:
        try:
            status, reply = self._checked(data)
        except Hidden as trap:
            self._mistake(trap)
            return
        self._send(status, "application/json", json.dumps(reply).encode() if reply != "" else b"")

    def _checked(self, data: bytes | None) -> tuple[int, Any]:
        """The reply, unless something is wrong with the call as such."""
        path = self.path.partition("?")[0]
        key = self.fake.key
        # The key is repeated, as careless servers do.
        if key is not None and self.headers.get("Authorization") != f"Bearer {key}":
            return 401, {"error": f"Unauthorized: {self.headers.get('Authorization')}"}
        if data is None:
            posted = path not in ("/v1/models", "/models") and path in self.fake.routes
            takes_body = posted and path.rpartition("/")[2] in fake_others.POSTED
            return (405, {"detail": "Method Not Allowed"}) if takes_body else self._get(path)
        if "json" not in (self.headers.get("Content-Type") or ""):
            message = "1 validation error:\n  Unsupported Media Type"
            return 400, Refusal(message, validation=True).body
        try:
            body = json.loads(data)
        except json.JSONDecodeError:
            message = "1 validation error:\n  {'type': 'json_invalid'}"
            return 400, Refusal(message, "body.1", validation=True).body
        return self.fake.reply(path, body)

    def _get(self, path: str) -> tuple[int, Any]:
        return self.fake.reply(path, None)

    def _mistake(self, trap: Hidden) -> None:
        """Something else in the place of a reply."""
        if trap.wait is not None:
            trap.wait.wait()
            cut(self.connection)
        elif trap.cut_after is None:
            self._send(trap.status, trap.kind, trap.body, trap.headers)
        else:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n"
            with suppress(OSError):
                self.connection.sendall(head + b"\r\n" + trap.body)
            cut(self.connection)
        self.close_connection = True

    def _send(
        self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self._headers_buffer.append(b"\r\n" + body)  # type: ignore[attr-defined] # one packet
        self.flush_headers()


def cut(connection: socket.socket) -> None:
    """Close a connection with a reset, so that the other side sees it at once."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def main() -> None:
    """Serve until the process is stopped; prints the address."""
    parser = argparse.ArgumentParser(description="A model server with mistakes, for tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", type=Path, help="checkpoint folder; none: constant answers")
    parser.add_argument("--constant", action="store_true", help="only its tokenizer is used")
    parser.add_argument("--kind", choices=KINDS, default="vllm")
    parser.add_argument("--name", default="tiny")
    parser.add_argument("--key", help="what calls must have as their bearer token")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each call takes")
    parser.add_argument("--trap", choices=sorted(TRAPS), default="")
    parser.add_argument("--after", type=int, default=0, help="calls without a mistake")
    options = vars(parser.parse_args())
    folder, steady = options.pop("model"), options.pop("constant")
    model = from_folder(folder) if folder and not steady else _constant(folder)
    server = FakeServer(model, **options)
    server.start()
    print(server.url, flush=True)  # noqa: T201
    threading.Event().wait()


def _constant(folder: Path | None) -> Model:
    """A model that costs no time, with the tokenizer of a folder if there is one."""
    if folder is None:
        return constant()
    real = from_folder(folder)
    return constant(
        real.vocabulary,
        real.context,
        tokenizer=real.tokenizer,
        source=real.source,
        ends=real.ends,
    )


if __name__ == "__main__":
    main()
