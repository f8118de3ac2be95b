"""Connect to a model server: dialect, tokenizer, self-test, identity, and then the backend.

address --transport--> dialect --> tokenizer --self-test--> Report --> Endpoint
"""

import logging
import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

from harness.engine.endpoint.backend import Endpoint, Verified
from harness.engine.endpoint.dialects.detect import detect
from harness.engine.endpoint.dialects.dialect import Abilities, Dialect
from harness.engine.endpoint.identity import Found, endpoint_identity, tokenizer_of
from harness.engine.endpoint.self_test.findings import Report
from harness.engine.endpoint.self_test.fingerprint import fingerprint
from harness.engine.endpoint.self_test.replicas import Original
from harness.engine.endpoint.self_test.run import Needs, self_test
from harness.engine.endpoint.sentinel import Sentinel
from harness.engine.endpoint.settings import EndpointSettings
from harness.engine.endpoint.transport import Transport
from harness.errors import EndpointError

log = logging.getLogger(__name__)

CONTEXT = 1024  # tokens, unless the server accepts less


class Examined(NamedTuple):
    """A server, and what was found out about it."""

    dialect: Dialect
    found: Found
    report: Report


def connect(settings: EndpointSettings, *, store_results: bool = True) -> Endpoint:
    """The model behind a server that passes the self-test; `close` ends the connection.

    Args:
        settings: how to reach it.
        store_results: whether results of the self-test are kept in the user's cache.

    Raises:
        EndpointError: the server cannot be reached or fails the self-test, or a replica differs.
        CheckpointError: the tokenizer cannot be loaded.
    """
    transport = open_transport(settings)
    try:
        examined = examine(transport, settings)
        abilities = refuse_failure(examined, transport.urls[0])
        _check_context(settings, abilities)
        if settings.replicas:
            for url in settings.replicas:
                check_replica(settings, examined, url)
            transport.close()
            transport = open_transport(settings, settings.replicas)
        return endpoint_of(transport, settings, examined, store_results=store_results)
    except BaseException:
        transport.close()
        raise


def open_transport(settings: EndpointSettings, replicas: Sequence[str] = ()) -> Transport:
    """Connections to the server, and to replicas.

    Raises:
        EndpointError: an address cannot be used, or the variable with the key is not set.
    """
    return _transport(settings, [settings.url, *replicas])


def examine(transport: Transport, settings: EndpointSettings) -> Examined:
    """Run the self-test of a server; raises as `connect`, except if a probe fails."""
    dialect = detect(transport, settings.url.partition("#")[2] or None)
    found = tokenizer_of(dialect.server, settings.tokenizer)
    needs = Needs(settings.context or CONTEXT, settings.concurrency, settings.max_spread)
    return Examined(dialect, found, self_test(transport, dialect, found.tokenizer, needs))


def refuse_failure(examined: Examined, url: str) -> Abilities:
    """What the server can do; raises an EndpointError if a probe failed."""
    report = examined.report
    if failure := report.failure:
        raise EndpointError(
            f"the model server {url} fails the self-test ({failure.probe}): {failure.seen}; "
            f"{failure.advice}"
        )
    assert report.abilities is not None
    for finding in report.findings:
        if finding.state == "warn":
            log.warning("%s: %s: %s; %s", url, finding.probe, finding.seen, finding.advice)
    return report.abilities


def _transport(settings: EndpointSettings, urls: Sequence[str]) -> Transport:
    return Transport(
        urls,
        concurrency=settings.concurrency,
        key=_key(settings.api_key_env),
        timeout=settings.timeout,
        patience=settings.patience,
    )


def _key(variable: str | None) -> str | None:
    """The key in an environment variable; a name that may be the key itself is not repeated."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EndpointError(
            "the environment variable that --api-key-env names is not set; expected the name of "
            "one whose value is the key of the server"
        )
    return key


def _check_context(settings: EndpointSettings, abilities: Abilities) -> None:
    if settings.context is not None and settings.context >= abilities.longest:
        raise EndpointError(
            f"--context {settings.context}: the server accepts prompts of {abilities.longest:,} "
            "tokens, the last of which is scored and not fed; expected at most "
            f"{abilities.longest - 1:,}"
        )


def check_replica(settings: EndpointSettings, examined: Examined, url: str) -> float:
    """The nats by which a replica differs from the first server.

    Raises:
        EndpointError: it cannot be reached, or does not have the same model.
    """
    report = examined.report
    assert report.abilities is not None
    original = Original(examined.dialect, report.abilities, report.known, settings.max_spread)
    with closing(_transport(settings, [url])) as transport:
        dialect = detect(transport, examined.dialect.server.model)
        return original.check(transport, dialect, transport.urls[0])


def endpoint_of(
    transport: Transport, settings: EndpointSettings, examined: Examined, *, store_results: bool
) -> Endpoint:
    """The backend over a server that has passed the self-test."""
    report, server = examined.report, examined.dialect.server
    abilities = report.abilities
    assert abilities is not None
    identity = endpoint_identity(
        transport.urls[0],
        server,
        examined.found,
        fingerprint=fingerprint(server, report.known, report.spread, store=store_results),
        context=settings.context or min(CONTEXT, abilities.longest - 1),
    )
    first = report.known[0]
    sentinel = Sentinel(first.tokens, first.logprobs, settings.max_spread)
    verified = Verified(abilities, sentinel, _facts(transport, settings, examined))
    return Endpoint(
        transport,
        examined.dialect,
        examined.found.tokenizer,
        identity,
        verified,
        examined.found.ends,
    )


def _facts(transport: Transport, settings: EndpointSettings, examined: Examined) -> dict[str, Any]:
    """What the record says of the server and its self-test."""
    report, server = examined.report, examined.dialect.server
    return {
        "server": {"source": server.source, "config": server.config},
        "replicas": list(transport.urls[1:]),
        "concurrency": settings.concurrency,
        "abilities": report.abilities._asdict() if report.abilities else None,
        "self_test": {
            "verdict": report.verdict,
            "spread": report.spread,
            "max_spread": settings.max_spread,
            "calls": report.calls,
            "seconds": round(report.seconds, 3),
            "findings": [finding._asdict() for finding in report.findings],
        },
    }
