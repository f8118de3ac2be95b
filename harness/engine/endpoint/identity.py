"""What identifies a model behind a server, whose weights nobody can hash, and its tokenizer."""

from pathlib import Path
from typing import NamedTuple

from harness.engine.checkpoint.config import check_end_tokens
from harness.engine.checkpoint.digest import combined_digest
from harness.engine.checkpoint.formats.given_tokenizer import tokenizer_folder
from harness.engine.checkpoint.load import load_tokenizer
from harness.engine.checkpoint.settings import Identity, Settings
from harness.engine.checkpoint.weight_files import read_json
from harness.engine.endpoint.dialects.dialect import Server
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError, EndpointError

UNKNOWN = "unknown"  # as records of other programs say it


def endpoint_identity(
    root: str, server: Server, found: "Found", *, fingerprint: str, context: int
) -> Identity:
    """The identity of a model.

    Args:
        root: address of the server.
        server: what it says about itself.
        found: the tokenizer of the model.
        fingerprint: of its log-probabilities, so that another model behind the same name has
            another digest.
        context: tokens that it may be fed.
    """
    parts = (server.kind, server.version, server.model, fingerprint)
    return Identity(
        name=f"{root}/v1#{server.model}",
        revision=None,
        digest=combined_digest(["endpoint", *parts]),
        tokenizer=found.tokenizer.digest,
        parameters=UNKNOWN,
        dtype=UNKNOWN,
        device=UNKNOWN,
        context=context,
        trust_remote_code=False,
        threads=UNKNOWN,
        endpoint={
            "url": root,
            "server": server.kind,
            "version": server.version,
            "model": server.model,
            "fingerprint": fingerprint,
            "tokenizer": found.name,
        },
    )


class Found(NamedTuple):
    """A tokenizer, and the ids of the tokens that end a generated text."""

    tokenizer: Tokenizer
    ends: frozenset[int]
    name: str  # folder, file, or name on the hub


def tokenizer_of(server: Server, given: str | None) -> Found:
    """The tokenizer that is given, or else that of what the server says it has loaded.

    Args:
        server: what it says about itself.
        given: folder, file, or name on the hub; None if the user names none.

    Raises:
        CheckpointError: what is given is no tokenizer.
        EndpointError: none is given, and what the server names is neither here nor on the hub.
    """
    if given is not None:
        return _load(given, server.model)
    candidates = dict.fromkeys(name for name in (server.source, server.model) if name)
    for name in candidates:
        try:
            return _load(name, server.model)
        except CheckpointError:
            continue
    raise EndpointError(
        f"the tokenizer of the server's model is not here: {' and '.join(map(repr, candidates))} "
        "is neither a folder on this machine nor a model that the hub provides; name the model's "
        "tokenizer by --tokenizer"
    )


def _load(name: str, model: str) -> Found:
    folder = tokenizer_folder(name)
    tokenizer = load_tokenizer(folder, model, Settings(tokenizer=str(folder)))
    return Found(tokenizer, tokenizer.end_tokens | _stated_ends(folder, model), name)


def _stated_ends(folder: Path, model: str) -> frozenset[int]:
    """The end tokens that the files of a model state, as for a model in this process."""
    stated = read_json(folder, "generation_config.json", model)
    stated = stated or read_json(folder, "config.json", model)
    return check_end_tokens(stated.get("eos_token_id"), "eos_token_id", model)
