"""The addresses of model servers: what is accepted, and the root below which calls go."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from harness.errors import UsageError

_EXPECTED = "expected an address such as http://127.0.0.1:8000/v1"


def roots(urls: Sequence[str]) -> tuple[str, ...]:
    """The root of each server: its address without `/v1`, the name of a model, and a last slash.

    Raises:
        UsageError: one is not the address of a server, may contain a secret, or is given twice.
            What may be a secret is not repeated.
    """
    found: list[str] = []
    for url in urls:
        root = _root(url)
        if root in found:
            raise UsageError(f"the server {url} is given twice; give each server once")
        found.append(root)
    return tuple(found)


def _root(url: str) -> str:
    address, hash_sign, model = url.partition("#")
    if "@" in address or "?" in address:
        raise UsageError(
            "the address of a server has a user, a password or a query in it, which would be "
            "recorded; put a key into an environment variable, and name that by --api-key-env"
        )
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:  # it may be part of a password with a # in it
        raise UsageError(
            f"the address of a server has no valid host and port; {_EXPECTED}"
        ) from None
    known = parts.scheme in ("http", "https")
    if not known or not host or port == 0 or re.search(r"\s", address):
        raise UsageError(f"{url!r} is not the address of a server; {_EXPECTED}")
    if hash_sign and not model:
        raise UsageError(f"{url!r} names no model after the #; name one that the server has")
    name = f"[{host}]" if ":" in host else host
    path = re.sub(r"(/v1)?(/completions)?/*$", "", parts.path)
    return f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{path.rstrip('/')}"
