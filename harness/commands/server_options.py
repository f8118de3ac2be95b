"""The options of models behind servers, and which options of a checkpoint go with them."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from harness.commands.declare import OptionGroup, Seconds, option
from harness.engine.endpoint.settings import (
    CONCURRENCY,
    MAX_SPREAD,
    PATIENCE,
    TIMEOUT,
    EndpointSettings,
    is_endpoint,
)
from harness.errors import UsageError

MAX_CONCURRENCY = 4096
_OF_SERVERS_TOO = ("names", "context", "tokenizer")  # of the options of a model
_CONSTANT = re.compile("[A-Z]+(_[A-Z0-9]+)+")  # what nobody's key looks like


@dataclass(frozen=True, slots=True)
class ServerOptions(OptionGroup):
    """How models behind servers are reached."""

    concurrency: int | None = option(
        None, f"keep N calls in flight at each server; default: {CONCURRENCY}",
        min=1, max=MAX_CONCURRENCY, metavar="N",
    )  # fmt: skip
    replicas: tuple[str, ...] = option(
        (), "send calls to this server, too, which has the same model; repeatable",
        flag="replica", metavar="URL",
    )  # fmt: skip
    api_key_env: str | None = option(
        None, "send the key in this environment variable; it is recorded nowhere", metavar="NAME"
    )
    timeout: Seconds | None = option(
        None, f"repeat a call without a reply after this time; default: {TIMEOUT / 60:g}m",
        metavar="TIME",
    )  # fmt: skip
    patience: Seconds | None = option(
        None, "give up after this time without a reply to any call; default: "
        f"{PATIENCE / 60:g}m", metavar="TIME",
    )  # fmt: skip
    max_spread: float | None = option(
        None, "accept a server whose answers to one question differ by up to this; recorded; "
        f"default: {MAX_SPREAD:g}", min=0, max=100, metavar="NATS",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse the name of an environment variable that has no key.

        A name that may be the key itself is not repeated.
        """
        name = self.api_key_env
        if name is not None and not os.environ.get(name):
            variable = name if _CONSTANT.fullmatch(name) else "that it names"
            raise UsageError(
                f"--api-key-env: the environment variable {variable} is not set; it is the name of "
                "a variable, whose value is the key"
            )

    def check_models(self, names: Sequence[str], *others: OptionGroup) -> None:
        """Refuse options of checkpoints for a server, and options of servers without one.

        Args:
            names: of the models.
            others: the options of models, and those of Ray workers.
        """
        servers = [name for name in names if is_endpoint(name)]
        if not servers:
            for flag in _given(self):
                raise UsageError(
                    f"{flag} is for a model behind a server; name the server, such as --model "
                    "http://127.0.0.1:8000/v1, or leave it out"
                )
            return
        for name in servers:
            self.settings(name)  # checks the address
        for flag in (flag for group in others for flag in _given(group)):
            raise UsageError(
                f"{flag} is for a checkpoint that the harness runs itself; leave it out for "
                f"the server {servers[0]}"
            )
        if self.replicas and len(servers) > 1:
            raise UsageError(f"--replica is for one server; {len(servers)} are models of this run")

    def settings(
        self, url: str, tokenizer: str | None = None, context: int | None = None
    ) -> EndpointSettings:
        """How to reach a server; raises a `UsageError` for an address that is none."""
        return EndpointSettings(
            url,
            tokenizer=tokenizer,
            replicas=self.replicas,
            concurrency=CONCURRENCY if self.concurrency is None else self.concurrency,
            api_key_env=self.api_key_env,
            timeout=TIMEOUT if self.timeout is None else self.timeout,
            patience=PATIENCE if self.patience is None else self.patience,
            context=context,
            max_spread=MAX_SPREAD if self.max_spread is None else self.max_spread,
        )


def _given(group: OptionGroup) -> Iterator[str]:
    """The flags of the options that have another value than their default.

    Those of models that servers have, too, are left out.
    """
    for declared in fields(group):  # type: ignore[arg-type]  # every group is a dataclass
        if declared.name in _OF_SERVERS_TOO:
            continue
        if getattr(group, declared.name) != declared.default:
            flag: str = declared.metadata.get("flag", declared.name)
            yield f"--{flag.replace('_', '-')}"
