"""Load a checkpoint: weights on a device, tokenizer, and the digests that identify them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
import torch

from harness.engine.checkpoint.config import (
    check_end_tokens,
    check_sizes,
    context_length,
    read_config,
    with_fused_activation,
)
from harness.engine.checkpoint.digest import file_digest
from harness.engine.checkpoint.formats.given_tokenizer import tokenizer_folder
from harness.engine.checkpoint.from_pretrained import (
    copy_weights,
    load_model,
    one_line_errors,
    silence_transformers,
)
from harness.engine.checkpoint.identity import model_digest
from harness.engine.checkpoint.locate import Located, locate
from harness.engine.checkpoint.onednn import (
    loading_dtype,
    pack,
    pack_in_bfloat16,
    should_keep_float32,
    trial,
)
from harness.engine.checkpoint.own.adapter import OwnModel, vocabulary
from harness.engine.checkpoint.own.function import call_function, names_function
from harness.engine.checkpoint.own.noise import add_noise, noisy_copy, noisy_name
from harness.engine.checkpoint.own.place import check_place, placed
from harness.engine.checkpoint.own.prepare import Prepared, prepare
from harness.engine.checkpoint.own.restore import use_full_precision
from harness.engine.checkpoint.placement.device import pick_device
from harness.engine.checkpoint.placement.place import Placement, place
from harness.engine.checkpoint.settings import BFLOAT16_PRODUCTS, Identity, Settings
from harness.engine.checkpoint.weight_files import weight_files
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError, short_reason

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOKENIZER_FILES = ("config.json", "*token*.json", "vocab.*", "merges.txt", "*.model", "*.py")
_MAX_UNUSED_IDS = 1_000_000  # a tokenizer whose ids go further beyond its entries is damaged
_tokenizers: dict[tuple[object, ...], Any] = {}  # by digests of their files


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model."""

    identity: Identity
    model: Any  # a transformers causal language model in eval mode, or an `OwnModel`
    tokenizer: Tokenizer
    device: torch.device  # where ids are put and logits appear
    end_tokens: frozenset[int]  # tokens that end a generated text
    compiled: bool = False  # whether plain forward passes go through torch.compile
    lent: bool = False  # whether the model is the caller's, who goes on with it
    tensor_parallel: int = 1  # processes that hold a part of each matrix and compute together


class _Found(NamedTuple):
    """What a checkpoint consists of, before any weights are read."""

    located: Located
    config: Any
    context: int
    files: Sequence[Path]  # of weights


def load(name: str, settings: Settings) -> Checkpoint:
    """Load a checkpoint onto its device.

    Raises:
        CheckpointError: it cannot be found or loaded, lacks weights or has some left over, has no
            tokenizer or one of another model, or is not a causal language model.
    """
    silence_transformers()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if names_function(name):
        return _from_function(name, settings)
    device = pick_device(settings.device)
    use_full_precision()
    found = _find(name, settings)
    dtype = DTYPES[settings.dtype]
    placement = place(found.config, settings, device, dtype, name)
    packed = placement.is_whole and not settings.compiled  # torch.compile lays out weights itself
    mixed = packed and should_keep_float32(dtype, device)
    read_as = loading_dtype(found.config) if mixed else dtype
    model = _read(found, placement, read_as, settings, name)
    stated_ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = check_end_tokens(stated_ends, "eos_token_id", name)
    with one_line_errors(name):
        digest = model_digest(model, found.config, found.files)
        model = placement.finish(model).eval()
    tokenizer = load_tokenizer(found.located.folder, name, settings)
    _check_vocabulary(model, tokenizer, name)
    parameters = sum(p.numel() for p in model.parameters())
    device = placement.computing_device(model)
    logits = _trial_logits(model, name, device)
    mixed = mixed and pack_in_bfloat16(model, logits)
    if packed and not mixed:
        pack(model, logits if model.dtype == logits.dtype else None)
    identity = Identity(
        name=noisy_name(name, settings.noise),
        revision=found.located.revision,
        digest=digest,
        tokenizer=tokenizer.digest,
        parameters=parameters,
        dtype=BFLOAT16_PRODUCTS if mixed else settings.dtype,
        device=placement.devices(),
        context=found.context,
        trust_remote_code=settings.trust_remote_code,
        threads=torch.get_num_threads(),
        step=found.located.step,
        options=dict(found.located.options),
    )
    ends |= tokenizer.end_tokens
    processes = settings.tensor_parallel
    return Checkpoint(
        identity, model, tokenizer, device, ends, settings.compiled, tensor_parallel=processes
    )


def _find(name: str, settings: Settings) -> _Found:
    """Find a checkpoint's files, and check what they say about themselves."""
    located = locate(name, settings)
    folder = located.folder
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    with one_line_errors(name):
        context = context_length(config, settings.context)
        files = weight_files(folder, getattr(config, "transformers_weights", None), name)
        check_sizes(config, files, name)
    return _Found(located, config, context, files)


def _read(
    found: _Found, placement: Placement, dtype: torch.dtype, settings: Settings, name: str
) -> Any:
    """The model with its weights, to which noise is added if the settings ask for it."""
    model = load_model(
        found.located.folder,
        with_fused_activation(found.config),
        name,
        found.files,
        dtype=dtype,
        trust_remote_code=settings.trust_remote_code,
        **placement.arguments,
    )
    if settings.copied:
        copy_weights(model)
    if settings.noise:
        add_noise(model, settings.noise, name)
    return model


def _from_function(name: str, settings: Settings) -> Checkpoint:
    """The checkpoint that a function of the user's returns."""
    returned = call_function(name, settings)
    tokenizer = given_tokenizer(settings.tokenizer or returned.tokenizer, name)
    model = placed(returned.model, pick_device(settings.device), DTYPES[settings.dtype])
    if settings.noise:
        model = noisy_copy(model, settings.noise, name)
    prepared = prepare(
        model,
        tokenizer,
        name=noisy_name(name, settings.noise),
        context=settings.context,
        options=dict(settings.options),
    )
    check_place(prepared, settings)
    return lent_checkpoint(prepared, tokenizer, compiled=settings.compiled)


def given_tokenizer(tokenizer: Any, name: str) -> Tokenizer:
    """The tokenizer that comes with a model: of transformers or tokenizers, or by its name.

    The settings of an object are changed.

    Raises:
        CheckpointError: it is something else, or nothing has that name.
    """
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if isinstance(tokenizer, str | Path):
        return load_tokenizer(Path(), name, Settings(tokenizer=str(tokenizer)))
    if isinstance(tokenizer, tokenizers.Tokenizer):
        kind: Any = PreTrainedTokenizerFast
        tokenizer = kind(tokenizer_object=tokenizer)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return Tokenizer(tokenizer, name=name)
    given = "no tokenizer" if tokenizer is None else f"a {type(tokenizer).__name__} as tokenizer"
    raise CheckpointError(
        f"model {name!r} comes with {given}; expected one of transformers or tokenizers"
    )


def lent_checkpoint(
    prepared: Prepared, tokenizer: Tokenizer, *, compiled: bool = False
) -> Checkpoint:
    """A checkpoint over a model that is a Python object, in which nothing is replaced.

    Raises:
        CheckpointError: the model does not run, or the tokenizer is not its own.
    """
    model, identity = prepared.model, prepared.identity
    _check_vocabulary(model, tokenizer, identity.name)
    if not isinstance(model, OwnModel):
        _trial_logits(model, identity.name)
    elif compiled:
        raise CheckpointError(
            f"--compile: model {identity.name!r} is run as it is; leave out --compile"
        )
    ends = prepared.end_tokens | tokenizer.end_tokens
    return Checkpoint(identity, model, tokenizer, model.device, ends, compiled, lent=True)


def load_tokenizer(folder: Path, name: str, settings: Settings) -> Tokenizer:
    """Load the tokenizer in a checkpoint's folder, or the one that the settings name instead.

    Checkpoints with the same files share it.

    Raises:
        CheckpointError: there is none, or it has ids far beyond its number of entries.
    """
    from transformers import AutoTokenizer

    whose, place = f"model {name!r}", ", next to its weights"
    if settings.tokenizer is not None:
        folder = tokenizer_folder(settings.tokenizer)
        whose, place = f"--tokenizer {settings.tokenizer!r}", ""
    files = sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)})
    try:
        key = (settings.trust_remote_code, *(file_digest(path) for path in files))
        if key not in _tokenizers:
            _tokenizers[key] = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=settings.trust_remote_code
            )
    except Exception as error:
        raise CheckpointError(
            f"{whose} has no tokenizer that can be loaded ({short_reason(error)}); expected "
            f"tokenizer.json, or vocab.json with merges.txt{place}"
        ) from error
    tokenizer = _tokenizers[key]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest > len(tokenizer) + _MAX_UNUSED_IDS:
        raise CheckpointError(
            f"{whose}: its tokenizer has {len(tokenizer)} entries and the token id "
            f"{largest}; expected ids near the number of entries"
        )
    return Tokenizer(tokenizer, name=name)


def tokenizer_and_context(name: str, settings: Settings) -> tuple[Tokenizer, int]:
    """Load only the tokenizer and the context length, to look at requests without a model."""
    silence_transformers()
    if names_function(name):
        checkpoint = _from_function(name, settings)
        return checkpoint.tokenizer, checkpoint.identity.context
    folder = locate(name, settings).folder
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    tokenizer = load_tokenizer(folder, name, settings)
    with one_line_errors(name):
        return tokenizer, context_length(config, settings.context)


def _check_vocabulary(model: Any, tokenizer: Tokenizer, name: str) -> None:
    """Refuse the tokenizer of another model.

    A few entries more than embeddings are common, such as a token for images. Encoding refuses
    such a token where it would be fed.
    """
    rows = vocabulary(model)
    if len(tokenizer) > max(rows + 64, 1.2 * rows):
        raise CheckpointError(
            f"model {name!r}: its tokenizer has {len(tokenizer)} entries, its vocabulary only "
            f"{rows}; they do not belong together"
        )


def _trial_logits(model: Any, name: str, device: torch.device | None = None) -> torch.Tensor:
    """Logits (T, V) of a few tokens; refuses a model whose forward pass fails."""
    try:
        with torch.no_grad():
            return trial(model, device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"model {name!r} cannot run: {type(error).__name__}: {short_reason(error)}; its "
            "config.json may hold sizes that do not fit each other"
        ) from error
