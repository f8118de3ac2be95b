"""Repeat the run of a record for single examples: same rows, requests, tokens and answers.

    record --> job --prepare--> requests --encode--> queries --response cache--> answers --> trace
                                                        `--> model, if the cache lacks some

Data, prompt, tokenizer, weights and the version of the task must be those of the record. Weights
are loaded only if they are needed.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from harness.commands.evaluate.session import open_store
from harness.commands.inspect.place import Place, place_of
from harness.commands.model_options import ModelOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.commands.server_options import ServerOptions
from harness.core import Example, Generated, Request, Response
from harness.data import load as data
from harness.display.preview import MAX_WINDOWS
from harness.errors import CheckpointError, RecordError, UsageError
from harness.jobs.repeated import check_same, job_of
from harness.plugins.registry import load_task
from harness.records.dump import Exchange
from harness.records.record import Record
from harness.records.trace import ItemTrace, Ranks, outcome_of, trace
from harness.runner import Job, Prepared, follow_up, prepare
from harness.task import encoding

if TYPE_CHECKING:
    from harness.engine.cache.response_cache import ResponseCache
    from harness.engine.cache.store import Store
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encoded, Encoder
    from harness.engine.tokenizer.tokenizer import Tokenizer


class Answered(NamedTuple):
    """One example with all its requests and responses."""

    example: Example
    exchanges: tuple[Exchange, ...]

    @property
    def responses(self) -> list[Response]:
        """The responses to all requests, in order."""
        return [exchange.response for exchange in self.exchanges]


def run_again(
    record: Record,
    model: ModelOptions,
    data_options: DataOptions,
    cache: CacheOptions,
    server: ServerOptions | None = None,
) -> "Again":
    """Prepare the run of a record again, up to its requests.

    The options say where the checkpoint or the server, the data and the response cache are;
    context, dtype and the selection of rows come from the record.

    Raises:
        RecordError: the record is from another program, task version or prompt.
        DataError: the data is missing or differs from the record's.
        UsageError: the task or one of its options does not exist any more, or an option of a
            checkpoint is given for a server.
    """
    task = load_task(record.task)
    if record.origin != "harness" or record.version != task.version:
        raise RecordError(
            f"a record of {record.task} version {record.version} by {record.origin} cannot be "
            f"repeated with version {task.version} of this harness; run the task again"
        )
    place = place_of(record, model, server or ServerOptions(), data_options)
    rows = replace(data_options, sample=record.data["source"] == "sample")
    job = job_of(record, task, rows.where(), strict=rows.strict)
    if task.few_shot and record.pool and record.pool["source"] == "sample":
        pool = task.few_shot.source(job.protocol.options)
        job = replace(job, pool=data.load(pool, data.Where(sample=True)))
    prepared = prepare(job)
    check_same(record, job, prepared, whose="record", remedy="run the task again")
    return Again(record, job, prepared, place, cache)


@dataclass(frozen=True)
class Again:
    """The run of a record, ready to be repeated for single examples."""

    record: Record
    job: Job
    asked: Prepared  # all examples and their first requests
    place: Place
    cache: CacheOptions
    cached_only: bool = False  # no model is loaded for responses that the cache lacks
    closing: ExitStack = field(default_factory=ExitStack)  # ends the connection to a server

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Id of each example -> its position."""
        return {example.id: i for i, example in enumerate(self.asked.examples)}

    def trace(self, item: Answered, *, ranks: bool = False) -> ItemTrace:
        """The trace of an example with its responses.

        Args:
            item: from `answered`.
            ranks: load the model to compute the rank of every scored token; of a long text, only
                in its first windows.
        """
        texts = self.tokenizer.token_texts
        requests = tuple(
            trace(request, encoded, texts, response, self._ranks(encoded, response, ranks))
            for request, encoded, response in item.exchanges
        )
        outcomes = tuple(
            outcome
            for measure in self.job.task.measures(self.job.protocol.options)
            if (outcome := outcome_of(measure, item.example, item.responses))
        )
        return ItemTrace(item.example.id, item.example.references, outcomes, requests)

    def answered(self, item: str) -> Answered:
        """An example with its responses, from the response cache or else from the model.

        Raises:
            UsageError: there is no such example.
            CheckpointError: the tokenizer or the model, if it is needed, cannot be loaded or is not
                the record's.
        """
        if item not in self.places:
            near = get_close_matches(item, self.places, n=3, cutoff=0.1) or list(self.places)[:3]
            raise UsageError(
                f"the record has no item {item!r} among its {len(self.places)}; near ones are: "
                f"{', '.join(near)}"
            )
        place = self.places[item]
        answered = Answered(self.asked.examples[place], ())
        requests = self.asked.groups[place]
        rounds = 0
        while requests:
            rounds += 1
            encoded = self._encoder.encode(requests, encoding(self.job.protocol.options))
            responses = self._responses(requests, encoded)
            exchanges = map(Exchange, requests, encoded, responses)
            answered = Answered(answered.example, (*answered.exchanges, *exchanges))
            requests = follow_up(
                self.job, self.asked.prompt, answered.example, answered.responses, rounds
            )
        return answered

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer; raises as `Place.tokenizer` does."""
        return self.place.tokenizer()

    @cached_property
    def engine(self) -> "Engine":
        """The model; raises as `Place.load` does, and a CheckpointError if none may be loaded."""
        from harness.engine.engine import Engine

        if self.cached_only:
            raise CheckpointError("its responses are not in the cache")
        return Engine(self.place.load(self._store, self.closing), store=self._store)

    @cached_property
    def _store(self) -> "Store | None":
        return open_store(self.cache)

    @cached_property
    def _cached(self) -> "ResponseCache | None":
        """The cached answers of the record's run; None if the record does not identify them."""
        from harness.engine.cache.response_cache import ResponseCache
        from harness.engine.checkpoint.settings import Identity

        engine = self.record.engine
        if self._store is None or not {"numerics", "ends"} <= set(engine):
            return None
        try:
            identity = Identity(**self.record.model)
            ends = [int(token) for token in engine["ends"]]
        except (TypeError, ValueError) as error:
            raise RecordError(f"the record does not describe its model: {error}") from None
        return ResponseCache(self._store, identity, engine["numerics"], ends)

    @cached_property
    def _encoder(self) -> "Encoder":
        from harness.engine.queries.encode import Encoder

        return Encoder(self.tokenizer, self.record.model["context"])

    def _responses(
        self, requests: Sequence[Request], encoded: "Sequence[Encoded]"
    ) -> list[Response]:
        """Responses from the response cache if it has all of them, else from the model."""
        from harness.engine.router import Router

        if self._cached:
            router = Router(requests, encoded)
            answers = self._cached.recall(router.queries, count=False)
            responses = dict([*router.without_queries(), *router.take(answers)])
            if len(responses) == len(requests):
                return [responses[i] for i in range(len(requests))]
        responses = dict(self.engine.answer(requests, encoded))
        return [responses[i] for i in range(len(requests))]

    def _ranks(self, encoded: "Encoded", response: Response, enabled: bool) -> Ranks:
        if not enabled or self.record.endpoint:
            return ()
        from harness.engine.backends.in_process import InProcess
        from harness.engine.queries.query import Span
        from harness.engine.scoring.ranks import ranks

        spans = [span for span in encoded.spans if span.targets][:MAX_WINDOWS]
        if isinstance(response, Generated) and response.tokens:
            [prompt] = encoded.spans
            spans = [Span((*prompt.inputs, *response.tokens[:-1]), response.tokens)]
        backend = self.engine.backend
        assert isinstance(backend, InProcess)
        return [ranks(backend.forward, span) for span in spans]
