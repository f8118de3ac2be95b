"""How to reach a model server, and how much of its noise is accepted."""

from dataclasses import dataclass

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


def is_endpoint(name: str) -> bool:
    """Whether the name of a model is the address of a server."""
    return name.startswith(("http://", "https://"))
