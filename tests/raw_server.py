"""An HTTP server over bare sockets, which can do what no HTTP library would."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, NamedTuple

HANG = b""  # an answer: none, until the client hangs up


class Asked(NamedTuple):
    """A request as it came, and how many came before it."""

    path: str
    headers: dict[str, str]
    body: Any
    number: int

    @property
    def probe(self) -> bool:
        return self.path == "/v1/models"


def reply(value: Any, status: int = 200, **headers: str) -> bytes:
    return raw(json.dumps(value), status, **{"Content-Type": "application/json", **headers})


def raw(text: str, status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(text.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", text]).encode()


class RawServer:
    """Answers each request with the bytes that `answer` returns, and cuts after half a reply.

    `stop` is a kill: the port is refused and all connections are cut. `asked` has the requests in
    their order, `hung_up` counts clients that did not wait.
    """

    def __init__(self, answer: Callable[[Asked], bytes], port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.hung_up = 0
        self._answer = answer
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", port))
        self._listening.listen(64)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "RawServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def calls(self) -> list[Any]:
        """The bodies of all requests but probes."""
        return [asked.body for asked in self.asked if not asked.probe]

    def stop(self) -> None:
        with self._lock:
            for opened in (self._listening, *self._open):
                with suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)
            self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            with suppress(OSError):
                while (asked := self._read(stream)) is not None:
                    answer = self._answer(asked)
                    if answer == HANG:
                        ended = not connection.recv(1)
                        self.hung_up += ended
                        break
                    connection.sendall(answer)
                    head, _, body = answer.partition(b"\r\n\r\n")
                    length = f"Content-Length: {len(body)}\r\n".encode()
                    if length not in head + b"\r\n":  # cut, or ended by the end of the connection
                        break
            with self._lock:
                self._open.discard(connection)

    def _read(self, stream: Any) -> Asked | None:
        first = stream.readline().decode()
        if not first:
            return None
        headers: dict[str, str] = {}
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        content = stream.read(int(headers.get("content-length", 0)))
        with self._lock:
            body = json.loads(content) if content else None
            asked = Asked(first.split()[1], headers, body, len(self.asked))
            self.asked.append(asked)
        return asked


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "waited in vain"
        sleep(0.005)
