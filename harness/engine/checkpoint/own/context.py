"""How many tokens a model of one's own reads at once."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from harness.engine.checkpoint.config import PAPER_CONTEXT
from harness.engine.checkpoint.own.adapter import OwnModel, owner_of
from harness.errors import CheckpointError, short_reason

_FIELDS = (
    "block_size", "n_positions", "max_position_embeddings", "n_ctx", "context_length",
    "max_seq_len", "max_seq_length", "max_sequence_length", "sequence_len", "seq_len",
    "context_size", "ctx_len",
)  # fmt: skip
_CONFIGS = ("config", "cfg", "args", "params", "hparams")


def own_context(model: OwnModel, requested: int | None, name: str) -> int:
    """The number of tokens fed at most; by default the smaller of 1,024 and the model's maximum.

    Raises:
        CheckpointError: the model cannot read so many, or does not say how many it can.
    """
    maximum = next(_stated(owner_of(model.call)), None)
    if maximum is None:
        return _tried(model, requested, name)
    if requested is not None and requested > maximum:
        raise CheckpointError(
            f"--context {requested} is longer than the model's {maximum} positions"
        )
    return requested or min(PAPER_CONTEXT, maximum)


def _stated(owner: Any) -> Iterator[int]:
    """Lengths that a model or its config says it reads."""
    for place in (*(getattr(owner, name, None) for name in _CONFIGS), owner):
        for field in _FIELDS:
            value = place.get(field) if isinstance(place, Mapping) else getattr(place, field, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                yield value


def _tried(model: OwnModel, requested: int | None, name: str) -> int:
    """The requested length, or 1,024, if the model can read so many tokens.

    Without a request nothing is tried on an accelerator, because an index beyond a table of
    positions ends the whole process there.
    """
    length = requested or PAPER_CONTEXT
    reason = "it does not say how many tokens it reads"
    if requested is not None or model.device.type == "cpu":
        try:
            with torch.no_grad():
                model(torch.zeros((1, length), dtype=torch.long, device=model.device))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the model may raise anything
            reason = f"{length} tokens end in {type(error).__name__}: {short_reason(error)}"
        else:
            return length
    raise CheckpointError(
        f"model {name!r}: {reason}; give --context, or give the model an attribute block_size"
    )
