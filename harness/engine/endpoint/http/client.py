"""The HTTP client of one server: a call is sent once, and its reply becomes parsed JSON."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from html import unescape
from textwrap import shorten
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2

from harness.engine.endpoint.call import Call
from harness.engine.endpoint.http.network import Network
from harness.engine.endpoint.http.retries import ATTEMPTS, LATE_ATTEMPTS, Failure, refusal
from harness.errors import EndpointError

_CONNECT = 10.0  # seconds until a server that does not accept a connection is given up
_FACT = 30.0  # seconds until one that does not say what it is, which takes no computing
_KEEP = 4.0  # seconds; servers close idle connections after 5
_MAX_MESSAGE_CHARS = 300


class Client:
    """Sends calls to the server at `root`; used in the thread of the transport alone.

    It works with httpcore2, the lower half of httpx2, which keeps connections open: the upper half
    costs as much time again for cookies, redirects and the like.
    """

    def __init__(self, root: str, *, connections: int, key: str | None) -> None:
        self.root = root
        self._key = key
        self._headers = [
            (b"Host", urlsplit(root).netloc.encode()),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),
            *([(b"Authorization", f"Bearer {key}".encode())] if key else []),
        ]
        self._urls: dict[str, httpcore2.URL] = {}
        self._pool = _pool(root, connections)

    async def ask(self, call: Call, timeout: float) -> Any:
        """Send a call once and return its reply.

        Raises:
            Failure: another attempt may succeed.
            EndpointError: the server refuses the call, or what it sends is no JSON.
        """
        timeout = timeout if call.body is not None else min(timeout, _FACT)
        request = self._request(call, timeout)
        try:
            async with asyncio.timeout(timeout):
                response = await self._pool.handle_async_request(request)
                try:
                    content = await response.aread()
                finally:
                    await response.aclose()
        except TimeoutError:
            raise self._late(timeout) from None
        except httpcore2.TimeoutException:
            raise self._late(min(timeout, _CONNECT)) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            raise self._broken(error) from None
        if response.status != 200:
            raise self._refused(call, response, content)
        return self._parsed(call, response, content)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    def _request(self, call: Call, timeout: float) -> httpcore2.Request:
        url = self._urls.get(call.path)
        if url is None:
            url = self._urls[call.path] = httpcore2.URL(f"{self.root}/{call.path}")
        extensions = {"timeout": {"connect": min(timeout, _CONNECT)}}
        if call.body is None:
            return httpcore2.Request("GET", url, headers=self._headers, extensions=extensions)
        body = json.dumps(dict(call.body), separators=(",", ":"), allow_nan=False).encode()
        headers = [
            *self._headers,
            (b"Content-Type", b"application/json"),
            (b"Content-Length", str(len(body)).encode()),
        ]
        return httpcore2.Request("POST", url, headers=headers, content=body, extensions=extensions)

    def _parsed(self, call: Call, response: httpcore2.Response, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            announced = {b"content-length", b"transfer-encoding"} & set(_headers(response))
        if not announced:  # where the reply ends: it may have been cut
            raise Failure("sent a reply that is no JSON", attempts=ATTEMPTS)
        raise EndpointError(
            f"{self.root} answers {call.path} with {self._shown(content)} instead of JSON; is this "
            "the address of a model server?",
            status=200,
        )

    def _refused(self, call: Call, response: httpcore2.Response, content: bytes) -> Exception:
        status, message = response.status, self._shown(content)
        headers = _headers(response)
        failure = refusal(status, message, headers.get(b"retry-after"))
        if failure is not None:
            return failure
        if target := headers.get(b"location"):
            message = f"it redirects to {self._scrubbed(target)}; give that address instead"
        elif status in (401, 403):
            message += "; name the environment variable that holds the key by --api-key-env"
        return EndpointError(
            f"{self.root} refuses {call.path} with HTTP {status}: {message}", status=status
        )

    def _late(self, seconds: float) -> Failure:
        return Failure(f"does not answer within {seconds:g} s", attempts=LATE_ATTEMPTS)

    def _broken(self, error: Exception) -> Exception:
        """What became of a connection, in plain words."""
        causes = list(_causes(error))
        connecting = isinstance(error, (httpcore2.ConnectError, httpcore2.ProxyError))
        unsafe = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
        if connecting and unsafe is not None and not isinstance(unsafe, ssl.SSLEOFError):
            return EndpointError(f"{self.root} has no secure connection: {self._scrubbed(error)}")
        if isinstance(error, httpcore2.LocalProtocolError):
            return EndpointError(f"{self.root} cannot be asked: {self._scrubbed(error)}")
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return Failure("does not answer (connection refused)")
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return Failure("is not known to the name service")
        if connecting:
            return Failure(f"does not answer ({self._scrubbed(error)})")
        return Failure("cut the connection before its reply was complete", attempts=ATTEMPTS)

    def _shown(self, content: bytes) -> str:
        """The message in the body of a reply, in one line."""
        text = content.decode("utf-8", "replace")
        if re.match(r"\s*<(!doctype html|html|head)", text, re.IGNORECASE):
            title = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
            name = f" titled {self._scrubbed(unescape(title[1]))!r}" if title else ""
            return f"an HTML page{name}"
        try:
            return self._scrubbed(_message(json.loads(text)))
        except ValueError:
            return self._scrubbed(text) or "an empty reply"

    def _scrubbed(self, text: object) -> str:
        """Text of the server's or of a library's in one line, without the key."""
        line = " ".join(str(text).split())
        for key in (self._key, self._key and json.dumps(self._key)[1:-1]):
            line = line.replace(key, "[key]") if key else line
        return shorten(line, _MAX_MESSAGE_CHARS, placeholder=" ...") or line[:_MAX_MESSAGE_CHARS]


def _pool(root: str, connections: int) -> httpcore2.AsyncConnectionPool:
    """Connections to a server, through the proxy that the environment names for it, if any."""
    parts = urlsplit(root)
    options: dict[str, Any] = {
        "max_connections": None,
        "max_keepalive_connections": connections,
        "keepalive_expiry": _KEEP,
        "network_backend": Network(),
    }
    if parts.scheme == "http":  # certificates are loaded only where they are needed
        options["ssl_context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    host = parts.hostname or ""
    local = host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host)
    proxy = None if local else getproxies().get(parts.scheme)
    if not proxy:
        return httpcore2.AsyncConnectionPool(**options)
    given = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    if given.scheme not in ("http", "https"):
        raise EndpointError(f"the proxy for {root} is one for {given.scheme}; expected http")
    if given.username is not None:
        options["proxy_auth"] = (unquote(given.username), unquote(given.password or ""))
    address = f"{given.scheme}://{given.netloc.rpartition('@')[2]}"
    return httpcore2.AsyncHTTPProxy(address, **options)


def _headers(response: httpcore2.Response) -> dict[bytes, str]:
    return {name.lower(): value.decode("latin-1") for name, value in response.headers}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _message(body: Any) -> str:
    """The message of an error in the forms that servers use."""
    if isinstance(body, Mapping):
        for name in ("error", "message", "detail", "msg"):
            if body.get(name):
                return _message(body[name])
    if isinstance(body, list) and body:
        return "; ".join(_message(entry) for entry in body[:3])
    return body if isinstance(body, str) else json.dumps(body)
