"""How to reach a model server, and how much of its noise is accepted."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from harness.errors import UsageError

CONCURRENCY = 16
TIMEOUT = 300.0
PATIENCE = 600.0
MAX_SPREAD = 1e-3


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How to reach a model server; `url` is its address, `#name` chooses one of its models."""

    url: str  # such as http://127.0.0.1:8000/v1#name
    tokenizer: str | None = None  # folder, file, or name on the hub; None: what the server names
    replicas: tuple[str, ...] = ()  # addresses of further servers with the same model
    concurrency: int = CONCURRENCY  # calls in flight at each server
    api_key_env: str | None = None  # environment variable that holds the key
    timeout: float = TIMEOUT  # seconds until a call is given up and repeated
    patience: float = PATIENCE  # seconds without any reply until the run ends
    context: int | None = None  # tokens; None: 1,024, or less if the server accepts less
    max_spread: float = MAX_SPREAD  # nats between answers to the same question

    def __post_init__(self) -> None:
        least = {"concurrency": 1, "timeout": 0.001, "patience": 0, "max_spread": 0}
        for name, value in least.items():
            if not getattr(self, name) >= value:  # NaN is refused, too
                raise UsageError(f"{name} {getattr(self, name)}: expected at least {value}")
        for url in (self.url, *self.replicas):
            _check_address(url)
        addresses = [url.partition("#")[0].rstrip("/") for url in (self.url, *self.replicas)]
        for number, url in enumerate(self.replicas, start=1):
            if "#" in url:
                raise UsageError(
                    f"the replica {url} names a model; leave out what follows #: all replicas have "
                    "the model of the first server"
                )
            if addresses[number] in addresses[:number]:
                raise UsageError(f"the server {url} is given twice; give each server once")


def is_endpoint(name: str) -> bool:
    """Whether the name of a model is the address of a server."""
    return name.startswith(("http://", "https://"))


def _check_address(url: str) -> None:
    """Raise a UsageError unless a URL is the address of a server, without any secret in it.

    A part that may be a secret is not repeated.
    """
    address, hash_sign, model = url.partition("#")
    if "@" in address or "?" in address:
        raise UsageError(
            "the address of a server has a user, a password or a query in it, which would be "
            "recorded; put a key into an environment variable, and name that by --api-key-env"
        )
    expected = "expected an address such as http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # it may be part of a password with a # in it
        raise UsageError(
            f"the address of a server has no valid host and port; {expected}"
        ) from None
    if not is_endpoint(url) or not has_host:
        raise UsageError(f"{url!r} is not the address of a server; {expected}")
    if hash_sign and not model:
        raise UsageError(f"{url!r} names no model after the #; name one that the server has")
