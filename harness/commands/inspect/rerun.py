"""A record's run made again for single items: the same rows, requests, tokens and answers.

    record --> job --ask--> requests --encode--> questions --store--> answers --> ItemTrace
                                                     `--> model, where the store has not all

Nothing is shown that the record did not come from: data, prompt, tokenizer, weights and the version
of the benchmark must be those that it names. Weights are loaded only if they are needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from harness.commands.evaluate.session import job_for, open_store
from harness.commands.options import CacheOptions, DataOptions, ModelOptions
from harness.core import Example, Generated, Request, Response
from harness.data import load as data
from harness.display.preview import MAX_WINDOWS
from harness.errors import CheckpointError, DataError, RecordError, UsageError
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.records.trace import ItemTrace, Ranks, outcome_of, trace
from harness.runner import Job, Prepared, follow_up, prepare
from harness.task import encoding

if TYPE_CHECKING:
    from harness.engine.cache.response_cache import ResponseCache
    from harness.engine.cache.store import Store
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encoded
    from harness.engine.tokenizer.tokenizer import Tokenizer


class Answered(NamedTuple):
    """One item with all its requests and responses."""

    example: Example
    requests: tuple[Request, ...] = ()
    encoded: "tuple[Encoded, ...]" = ()
    responses: tuple[Response, ...] = ()


def run_again(
    record: Record, model: ModelOptions, data_options: DataOptions, cache: CacheOptions
) -> "Again":
    """The run of a record, made again up to its requests.

    Args:
        record: of this program.
        model: where the checkpoint is; context and number format are the record's.
        data_options: where the rows are; which of them are taken is the record's.
        cache: where the stored answers are.

    Raises:
        RecordError: the record is of another program, version or prompt.
        DataError: the rows are not found, or not the record's.
        UsageError: the benchmark or an option of it does not exist any more.
    """
    task = load_task(record.task)
    if record.origin != "harness" or record.version != task.version:
        raise RecordError(
            f"a record of {record.task} version {record.version} by {record.origin} cannot be made "
            f"again by version {task.version} of this harness; run the benchmark again"
        )
    overrides = {k: str(v) for k, v in record.options.items()}
    protocol = task.protocol(record.protocol.partition("+")[0], overrides)
    job = _with_pool(job_for(task, protocol, _same_rows(record, data_options)), record)
    asked = prepare(job)
    _check_data(record.data, job.data)
    if record.pool and job.pool:
        _check_data(record.pool, job.pool)
    if record.prompt and asked.prompt.sha256 != record.prompt["sha256"]:
        raise RecordError(
            f"the prompt {asked.prompt.name!r} has changed since the record was made; run the "
            "benchmark again"
        )
    return Again(record, job, asked, _same_model(record, model), cache)


def _same_model(record: Record, options: ModelOptions) -> ModelOptions:
    """The options with what moves a score taken from the record."""
    return replace(
        options,
        names=options.names or (record.model["name"],),
        revision=options.revision or record.model.get("revision"),
        dtype=record.model["dtype"],
        context=record.model["context"],
    )


def _same_rows(record: Record, options: DataOptions) -> DataOptions:
    """The options with the rows taken from the record."""
    sample = record.data["source"] == "sample"
    return replace(options, sample=sample, limit=record.limit, seed=record.seed)


def _with_pool(job: Job, record: Record) -> Job:
    """The job with built-in example pairs if those were the record's."""
    few_shot = job.task.few_shot
    if few_shot is None or record.pool is None or record.pool["source"] != "sample":
        return job
    source = few_shot.source(job.protocol.options)
    return replace(job, pool=data.load(source, data.Where(sample=True)))


def _check_data(facts: Mapping[str, object], found: data.Data) -> None:
    if found.sha256 != facts["sha256"]:
        sample = found.source_kind == "sample"
        remedy = "run the benchmark again" if sample else "give --data-dir the record's file"
        raise DataError(
            f"{found.name} has sha256 {found.sha256[:12]}..., the record's rows came from "
            f"{facts['name']} with {str(facts['sha256'])[:12]}...; {remedy}"
        )


@dataclass(frozen=True)
class Again:
    """A record's run, made again.

    Attributes:
        record: what the run came to.
        job: the benchmark, its protocol and rows.
        asked: all examples and their first requests.
        model: how the checkpoint is found and loaded.
        cache: where the stored answers are.
    """

    record: Record
    job: Job
    asked: Prepared
    model: ModelOptions
    cache: CacheOptions

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Id of each item -> its place among the examples."""
        return {example.id: i for i, example in enumerate(self.asked.examples)}

    def traces(self, ids: Sequence[str], *, ranks: bool = False) -> list[ItemTrace]:
        """Traces of some items, in the order given.

        Args:
            ids: of items.
            ranks: whether the rank of every scored token is computed, which loads the model; of a
                long text, of those in its first windows.

        Raises:
            UsageError: there is no such item.
            CheckpointError: tokenizer or, where it is needed, model cannot be loaded, or are not
                the record's.
        """
        return [self.trace(self.answered(item), ranks=ranks) for item in ids]

    def trace(self, item: Answered, *, ranks: bool = False) -> ItemTrace:
        """The trace of an answered item; raises as `traces` does."""
        requests = tuple(
            trace(q, e, self.tokenizer.token_texts, r, self._ranks(e, r) if ranks else ())
            for q, e, r in zip(item.requests, item.encoded, item.responses, strict=True)
        )
        found = tuple(
            outcome
            for measure in self.job.task.measures(self.job.protocol.options)
            if (outcome := outcome_of(measure, item.example, item.responses))
        )
        return ItemTrace(item.example.id, item.example.references, found, requests)

    def answered(self, item: str) -> Answered:
        """An item with its responses, from the store if it has all, else from the model.

        Raises:
            UsageError: there is no such item.
            CheckpointError: as `traces`.
        """
        place = self._place(item)
        found = Answered(self.asked.examples[place])
        requests = self.asked.groups[place]
        rounds = 0
        while requests:
            rounds += 1
            encoded = self._encode(requests)
            found = Answered(
                found.example,
                (*found.requests, *requests),
                (*found.encoded, *encoded),
                (*found.responses, *self._responses(requests, encoded)),
            )
            requests = follow_up(
                self.job, self.asked.prompt, found.example, found.responses, rounds
            )
        return found

    def _place(self, item: str) -> int:
        if item not in self.places:
            near = get_close_matches(item, self.places, n=3, cutoff=0.1)
            raise UsageError(
                f"the record has no item {item!r} among its {len(self.places)}; near ones are: "
                f"{', '.join(near) or ', '.join(list(self.places)[:3])}"
            )
        return self.places[item]

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The record's tokenizer.

        Raises:
            CheckpointError: it cannot be loaded, or is another one.
        """
        from harness.engine.checkpoint.load import tokenizer_and_context

        name = self.model.names[0]
        found, _ = tokenizer_and_context(name, self.model.settings())
        _check_digest(name, "tokenizer", found.digest, self.record.model["tokenizer"])
        return found

    @cached_property
    def engine(self) -> "Engine":
        """The record's model.

        Raises:
            CheckpointError: it cannot be loaded, or is another one.
        """
        from harness.engine.checkpoint.load import load
        from harness.engine.engine import Engine

        name = self.model.names[0]
        checkpoint = load(name, self.model.settings())
        _check_digest(name, "weights", checkpoint.identity.digest, self.record.model["digest"])
        return Engine(checkpoint, store=self._store)

    @cached_property
    def _store(self) -> "Store | None":
        return open_store(self.cache)

    @cached_property
    def _memory(self) -> "ResponseCache | None":
        """What the store has of the record's run; None if there is no telling."""
        from harness.engine.cache.response_cache import ResponseCache
        from harness.engine.checkpoint.settings import Identity

        if self._store is None or not {"numerics", "ends"} <= set(self.record.engine):
            return None
        engine = self.record.engine
        try:
            identity = Identity(**self.record.model)
            ends = [int(token) for token in engine["ends"]]
        except (TypeError, ValueError) as error:
            raise RecordError(f"the record's model is not described as here: {error}") from None
        return ResponseCache(self._store, identity, engine["numerics"], ends)

    def _encode(self, requests: Sequence[Request]) -> "list[Encoded]":
        from harness.engine.queries.encode import Encoder

        encoder = Encoder(self.tokenizer, self.record.model["context"])
        return encoder.encode(requests, encoding(self.job.protocol.options))

    def _responses(
        self, requests: Sequence[Request], encoded: "Sequence[Encoded]"
    ) -> list[Response]:
        """Responses from the run's stored answers, or from the model."""
        from harness.engine.router import Router

        if self._memory:
            desk = Router(requests, encoded)
            known = self._memory.recall(desk.queries, count=False)
            found = dict([*desk.without_queries(), *desk.take(known)])
            if len(found) == len(requests):
                return [found[i] for i in range(len(requests))]
        found = dict(self.engine.answer(requests, encoded))
        return [found[i] for i in range(len(requests))]

    def _ranks(self, encoded: "Encoded", response: Response) -> Ranks:
        from harness.engine.backends.in_process import InProcess
        from harness.engine.queries.query import Span
        from harness.engine.scoring.ranks import ranks

        spans = [span for span in encoded.spans if span.targets][:MAX_WINDOWS]
        if isinstance(response, Generated) and response.tokens:
            [prompt] = encoded.spans
            spans = [Span((*prompt.inputs, *response.tokens[:-1]), response.tokens)]
        solver = self.engine.backend
        assert isinstance(solver, InProcess), "the engine of this module is in this process"
        return [ranks(solver.forward, span) for span in spans]


def _check_digest(name: str, what: str, found: str, recorded: str) -> None:
    if found != recorded:
        raise CheckpointError(
            f"model {name!r} has other {what} ({found[:12]}...) than the record "
            f"({recorded[:12]}...); give --model the record's checkpoint"
        )
