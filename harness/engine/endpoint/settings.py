"""How to reach a model server, and how much of its noise is accepted."""

from dataclasses import dataclass

from harness.engine.endpoint.http.address import roots
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
        roots([self.url, *self.replicas])
        for url in self.replicas:
            if "#" in url:
                raise UsageError(
                    f"the replica {url} names a model; leave out what follows #: all replicas have "
                    "the model of the first server"
                )


def is_endpoint(name: str) -> bool:
    """Whether the name of a model is the address of a server."""
    return name.startswith(("http://", "https://"))
