"""The tokenizers that come with a model that is a Python object."""

from typing import Any

from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError


def wrapped(tokenizer: Any, name: str) -> Tokenizer:
    """Ours around a tokenizer of transformers or tokenizers, whose settings it changes.

    Raises:
        CheckpointError: it is anything else.
    """
    if isinstance(tokenizer, Backend):
        kind: Any = PreTrainedTokenizerFast
        tokenizer = kind(tokenizer_object=tokenizer)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return Tokenizer(tokenizer, name=name)
    given = "no tokenizer" if tokenizer is None else f"a {type(tokenizer).__name__} as tokenizer"
    raise CheckpointError(
        f"model {name!r} comes with {given}; expected one of transformers or tokenizers"
    )
