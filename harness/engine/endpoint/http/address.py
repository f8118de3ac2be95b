"""The address of a model server, as given by the user and as it is shown and asked."""

import re
from urllib.parse import urlsplit

from harness.errors import EndpointError

_EXPECTED = "expected one such as http://127.0.0.1:8000/v1"


def root(url: str) -> str:
    """The root of a server: its address without `/v1`, the name of a model, and a last slash.

    Raises:
        EndpointError: the address is not one of a server, or contains a user or a password.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    if "@" in url.partition("#")[0]:
        raise EndpointError(
            f"the address of the model server {host or ''} contains a user or a password; leave "
            "it out, and name the environment variable that holds the key by --api-key-env"
        )
    if not host or parts.scheme not in ("http", "https") or re.search(r"\s", url.strip()):
        raise EndpointError(f"{url!r} is not the address of a model server; {_EXPECTED}")
    if parts.query:
        raise EndpointError(
            f"the address of the model server {host} contains a query, '?...'; {_EXPECTED}"
        )
    name = f"[{host}]" if ":" in host else host
    path = re.sub(r"(/v1)?(/completions)?/*$", "", parts.path)
    return f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{path.rstrip('/')}"
