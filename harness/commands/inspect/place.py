"""Where the model of a record is now: as it was loaded, from where the options say."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.evaluate.session import connected
from harness.commands.model_options import ModelOptions
from harness.commands.options import DataOptions
from harness.commands.server_options import ServerOptions
from harness.engine.checkpoint.settings import dtype_option
from harness.engine.checkpoint.steps import path_exists, split_revision
from harness.engine.endpoint.settings import is_endpoint
from harness.errors import CheckpointError, UsageError
from harness.records.record import Record

if TYPE_CHECKING:
    from harness.engine.backends.backend import Backend
    from harness.engine.cache.store import Store
    from harness.engine.checkpoint.load import Checkpoint
    from harness.engine.checkpoint.settings import Settings
    from harness.engine.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Place:
    """The model of a record, to be loaded or connected to."""

    record: Record
    model: ModelOptions
    server: ServerOptions
    data_dir: Path | None
    is_given: bool  # the options name the model

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.names[0]

    def tokenizer(self) -> "Tokenizer":
        """The tokenizer, without the weights.

        Raises:
            CheckpointError: it cannot be loaded, or is not the record's.
        """
        from harness.engine.checkpoint.load import load_tokenizer, tokenizer_and_context

        if not is_endpoint(self.name):
            with self._saying_where():
                tokenizer, _ = tokenizer_and_context(self.name, self._settings)
        elif self.model.tokenizer is None:
            raise CheckpointError(
                f"the record does not name the tokenizer of {self.name}; give --tokenizer"
            )
        else:
            tokenizer = load_tokenizer(Path(), self.name, self._settings)
        self._check_digest("tokenizer", tokenizer.digest, self.record.model["tokenizer"])
        return tokenizer

    def load(self, store: "Store | None", closing: ExitStack) -> "Checkpoint | Backend":
        """The checkpoint, or the server, whose connection ends with `closing`.

        Raises:
            CheckpointError: it cannot be loaded or reached, or is not the record's.
        """
        with self._saying_where():
            model = self._load(store, closing)
        part = "answers to the self-test" if self.record.endpoint else "weights"
        self._check_digest(part, model.identity.digest, self.record.model["digest"])
        return model

    def _load(self, store: "Store | None", closing: ExitStack) -> "Checkpoint | Backend":
        from harness.engine.checkpoint.load import load

        if is_endpoint(self.name):
            settings = self.server.settings(self.name, self.model.tokenizer, self.model.context)
            return connected(settings, store, closing)
        return load(self.name, self._settings)

    @property
    def _settings(self) -> "Settings":
        return self.model.settings(self.data_dir)

    @contextmanager
    def _saying_where(self) -> Iterator[None]:
        """Say what to do if the model is not where the record says, or was only in memory."""
        try:
            yield
        except CheckpointError as error:
            if self.is_given:
                raise
            what = (
                "server is elsewhere"
                if self.record.endpoint
                else "checkpoint is elsewhere, or was a model in memory that has been saved"
            )
            raise CheckpointError(
                f"{error}; if the record's {what}, `harness explain --model` says where"
            ) from error

    def _check_digest(self, part: str, digest: str, recorded: str) -> None:
        if digest != recorded:
            whose = "server" if self.record.endpoint else "checkpoint"
            raise CheckpointError(
                f"model {self.name!r} has other {part} ({digest[:12]}...) than the record "
                f"({recorded[:12]}...); give --model the record's {whose}"
                + (", and --tokenizer if the run had it" if part == "tokenizer" else "")
            )


def place_of(
    record: Record, given: ModelOptions, server: ServerOptions, data: DataOptions
) -> Place:
    """Where the model of a record is; context and dtype come from the record.

    Raises:
        UsageError: options of a checkpoint are given for a server, or the other way round.
    """
    if given.names and is_endpoint(given.names[0]) != bool(record.endpoint):
        expected = "the address of its server" if record.endpoint else "its checkpoint"
        raise UsageError(
            f"--model {given.names[0]}: the record is of {record.model['name']}; give {expected}"
        )
    model = _served(record, given) if record.endpoint else _loaded(record, given)
    server.check_models(model.names, model)
    return Place(record, model, server, data.data_dir, bool(given.names))


def _served(record: Record, given: ModelOptions) -> ModelOptions:
    """How to connect to the server of a record."""
    recorded, endpoint = record.model, record.endpoint or {}
    return replace(
        given,
        names=given.names or (str(recorded["name"]),),
        tokenizer=given.tokenizer or endpoint.get("tokenizer"),
        context=recorded["context"],
    )


def _loaded(record: Record, given: ModelOptions) -> ModelOptions:
    """How to load the checkpoint of a record."""
    recorded = record.model
    name, commit = str(recorded["name"]), recorded.get("revision")
    if given.names:
        name = given.names[0]
        if path_exists(name) or split_revision(name)[1] is not None:
            commit = None
    elif commit is not None:
        name, _ = split_revision(name)  # the commit says it more precisely
    options = given.options
    if not options and not path_exists(f"{name}/config.json"):  # it would say everything itself
        options = tuple(f"{k}={v}" for k, v in recorded.get("options", {}).items())
    dtype: Any = dtype_option(recorded["dtype"])
    return replace(
        given,
        names=(name,),
        revision=given.revision or commit,
        options=options,
        dtype=dtype,
        context=recorded["context"],
    )
