"""The self-test: a few short questions that a server must answer right before it is used."""

from dataclasses import dataclass
from time import perf_counter

from harness.engine.endpoint.dialects.dialect import Abilities, Dialect
from harness.engine.endpoint.self_test.asking import Asking, Sender
from harness.engine.endpoint.self_test.findings import Finding, Report
from harness.engine.endpoint.self_test.generation import check_flags, check_generation
from harness.engine.endpoint.self_test.limits import measure
from harness.engine.endpoint.self_test.log_probabilities import Seen, ask_all
from harness.engine.endpoint.self_test.probing import ProbeFailed, Probing
from harness.engine.endpoint.self_test.prompts import fixed_prompts
from harness.engine.endpoint.self_test.sums import check_loss, check_options, check_sum
from harness.engine.endpoint.self_test.tokens import check_tokenizer
from harness.engine.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs of a server."""

    context: int  # tokens that the model is fed at most
    concurrency: int  # calls in flight
    max_spread: float  # nats


def self_test(sender: Sender, dialect: Dialect, tokenizer: Tokenizer, needs: Needs) -> Report:
    """Ask a server all that is known of it, up to the first probe that fails.

    Raises:
        EndpointError: the server cannot be reached.
    """
    start = perf_counter()
    asking = Asking(sender)
    prompts = fixed_prompts(tokenizer, dialect.server.longest)
    probing = Probing(asking, dialect, tokenizer, prompts, needs.max_spread)
    report = Report(findings=probing.findings)
    report.findings.append(Finding("server", "ok", _server(dialect)))
    try:
        check_tokenizer(probing)
        seen = ask_all(probing)
        check_sum(probing, seen)
        check_loss(probing, seen)
        check_options(probing, seen)
        generates = check_generation(probing, seen)
        check_flags(probing, seen)
        probing.check_spread()
        report.abilities = _abilities(probing, seen, needs, generates=generates)
        report.known = seen.known(prompts.sequences)
    except ProbeFailed as failed:
        report.findings.append(failed.finding)
    report.spread = probing.spread.largest
    report.calls, report.seconds = asking.calls, perf_counter() - start
    return report


def _server(dialect: Dialect) -> str:
    server = dialect.server
    source = f" from {server.source}" if server.source not in ("", server.model) else ""
    return f"{server.kind} {server.version or 'of unknown version'}: model {server.model}{source}"


def _abilities(probing: Probing, seen: Seen, needs: Needs, *, generates: bool) -> Abilities:
    prompted = seen.prompted is not None
    limits = measure(
        probing, wanted=needs.context + 1, concurrency=needs.concurrency, prompted=prompted
    )
    return Abilities(
        longest=limits.longest,
        prompt_logprobs=prompted,
        named=probing.named,
        top=probing.top,
        generates=generates,
        block=limits.block,
        seconds_per_call=limits.seconds_per_call,
        seconds_per_token=limits.seconds_per_token,
        unscored_share=limits.unscored_share,
    )
