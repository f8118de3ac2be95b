"""The weights of a GPT-2 of nanoGPT's kind, as those and the config of transformers.

These programs use GPT-2's names, but store each linear layer as (out, in), where transformers has
(in, out). They may leave out all biases, for which transformers has no switch: zeros stand in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    all_of,
    without_wrappers,
)
from harness.engine.checkpoint.formats.gpt2.tokenizer import GPT2_TOKENS, find_tokenizer
from harness.errors import CheckpointError, clipped_repr

ACTIVATIONS = ("gelu", "gelu_new")  # exact, and by the tanh approximation
_EMBEDDING, _HEAD = "transformer.wte.weight", "lm_head.weight"


class Sizes(NamedTuple):
    """The sizes of a GPT-2."""

    layers: int
    heads: int
    width: int
    positions: int
    rows: int  # of the embedding: the size of the vocabulary, with padding if it counts
    biases: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """What a program wrote."""

    program: str
    path: Path  # of the file
    state: Mapping[str, torch.Tensor]
    sizes: Sizes
    step: int | None
    dataset: str | None = None  # the name of the folder that the training data was in


def read_sizes(path: Path | str, stated: Mapping[str, Any]) -> Sizes:
    """The sizes in the settings of nanoGPT or build-nanogpt.

    Raises:
        CheckpointError: one is missing or makes no sense.
    """

    def size(name: str) -> int:
        value = stated.get(name)
        if type(value) is not int or value < 1:
            raise CheckpointError(
                f"{path}: its {name} is {clipped_repr(value)}; expected a positive number"
            )
        return value

    biases = stated.get("bias", True)  # nanoGPT had no such setting at first
    if not isinstance(biases, bool):
        raise CheckpointError(f"{path}: its bias is {clipped_repr(biases)}; expected true or false")
    return Sizes(
        layers=size("n_layer"),
        heads=size("n_head"),
        width=size("n_embd"),
        positions=size("block_size"),
        rows=size("vocab_size"),
        biases=biases,
    )


def read_state(path: Path | str, value: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict without the prefixes of wrappers and without causal masks.

    Raises:
        CheckpointError: something is no tensor of numbers, or is there twice.
    """
    state: dict[str, torch.Tensor] = {}
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path}: {clipped_repr(key)} in its model is a {type(tensor).__name__}; expected "
                "tensors by name"
            )
        if not (key.endswith(".attn.bias") and tensor.ndim == 4):  # written by torch before 2.0
            state[key] = tensor
    return without_wrappers(state, path)


def open_checkpoint(
    source: Source, options: ReadOptions, activation: str, vocabulary: int | None = None
) -> TensorCheckpoint:
    """A checkpoint that can be written for transformers.

    Args:
        source: what the program wrote.
        options: the user's.
        activation: one of `ACTIVATIONS`.
        vocabulary: how many rows of the embedding are kept; None: all.

    Raises:
        CheckpointError: a tensor is missing, left over or of a wrong shape, or there is no
            tokenizer.
    """
    sizes = source.sizes
    tensors = transformers_tensors(source.path, source.state, sizes)
    if vocabulary is not None:
        tensors[_EMBEDDING] = tensors[_EMBEDDING][:vocabulary]
        sizes = sizes._replace(rows=vocabulary)
    tokenizer = find_tokenizer(
        Candidate(source.path), options, rows=source.sizes.rows, dataset=source.dataset
    )
    step = "" if source.step is None else f" at step {source.step:,}"
    described = (
        f"a checkpoint of {source.program}{step}: GPT-2 with {sizes.layers} layers, "
        f"{sizes.heads} heads, {sizes.width} wide; tokenizer: {tokenizer.origin}"
    )
    return TensorCheckpoint(
        description=described,
        config=gpt2_config(sizes, activation, tensors[_EMBEDDING].dtype),
        tensors=tensors,
        tokenizer=tokenizer.write,
        tokenizer_key=tokenizer.key,
        step=source.step,
    )


def transformers_tensors(
    path: Path | str, state: Mapping[str, torch.Tensor], sizes: Sizes
) -> dict[str, torch.Tensor]:
    """The tensors of a GPT2LMHeadModel; linear weights are transposed views.

    Raises:
        CheckpointError: one is missing, left over or of a wrong shape, or the head is not tied.
    """
    if sizes.width % sizes.heads:
        raise CheckpointError(
            f"{path}: its width of {sizes.width} is not a multiple of its {sizes.heads} heads"
        )
    weights = {name: value for name, value in state.items() if name != _HEAD}
    tensors = {
        name: value.t() if value.ndim == 2 and ".h." in name else value
        for name, value in all_of(_shapes(sizes), weights, path).items()
    }
    _check_head(path, state)
    zeros = {} if sizes.biases else _zero_biases(tensors[_EMBEDDING], sizes)
    return {**tensors, **zeros}


def _zero_biases(like: torch.Tensor, sizes: Sizes) -> dict[str, torch.Tensor]:
    """The biases of a model that has none, on the device and in the number format of a tensor."""
    shapes = _shapes(sizes._replace(biases=True))
    return {name: like.new_zeros(shape) for name, shape in shapes if name.endswith(".bias")}


def _shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor as these programs store it, in their order."""
    width = sizes.width
    yield _EMBEDDING, (sizes.rows, width)
    yield "transformer.wpe.weight", (sizes.positions, width)
    for layer in range(sizes.layers):
        block = f"transformer.h.{layer}"
        for part, shape in (
            ("ln_1", (width,)),
            ("attn.c_attn", (3 * width, width)),
            ("attn.c_proj", (width, width)),
            ("ln_2", (width,)),
            ("mlp.c_fc", (4 * width, width)),
            ("mlp.c_proj", (width, 4 * width)),
        ):
            yield f"{block}.{part}.weight", shape
            if sizes.biases:
                yield f"{block}.{part}.bias", shape[:1]
    yield "transformer.ln_f.weight", (width,)
    if sizes.biases:
        yield "transformer.ln_f.bias", (width,)


def _check_head(path: Path | str, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse a head of its own: GPT-2's is the embedding."""
    head, embedding = state.get(_HEAD), state[_EMBEDDING]
    if head is None or head.data_ptr() == embedding.data_ptr():
        return
    if head.shape != embedding.shape or not torch.equal(head, embedding):
        raise CheckpointError(
            f"{path}: {_HEAD} differs from {_EMBEDDING}; expected the tied head of a GPT-2"
        )


def gpt2_config(sizes: Sizes, activation: str, dtype: torch.dtype) -> Any:
    """The config of transformers; what it does not state is as in GPT-2."""
    from transformers import GPT2Config

    # GPT-2's token for both is the last one of its tokenizer.
    tokens: dict[str, Any] = {}
    if sizes.rows < GPT2_TOKENS:
        tokens = {"bos_token_id": None, "eos_token_id": None}
    return GPT2Config(
        n_layer=sizes.layers,
        n_head=sizes.heads,
        n_embd=sizes.width,
        n_positions=sizes.positions,
        vocab_size=sizes.rows,
        activation_function=activation,
        architectures=["GPT2LMHeadModel"],
        dtype=dtype,
        **tokens,
    )
