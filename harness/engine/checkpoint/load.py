"""Load a checkpoint: weights on a device, tokenizer, and the digests that identify them."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from harness.engine.checkpoint.from_pretrained import copy_weights, load_model, one_line_errors
from harness.engine.checkpoint.identity import model_digest
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.onednn import pack, trial
from harness.engine.checkpoint.own.adapter import OwnModel, vocabulary
from harness.engine.checkpoint.own.function import call_function, names_function
from harness.engine.checkpoint.own.noise import add_noise, noisy_copy, noisy_name
from harness.engine.checkpoint.own.place import check_place, placed
from harness.engine.checkpoint.own.prepare import Prepared, prepare
from harness.engine.checkpoint.settings import Identity, Settings
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
    device: torch.device
    end_tokens: frozenset[int]  # tokens that end a generated text
    compiled: bool = False  # whether plain forward passes go through torch.compile
    lent: bool = False  # whether the model is the caller's, who goes on with it


def load(name: str, settings: Settings) -> Checkpoint:
    """Load a checkpoint onto its device.

    Raises:
        CheckpointError: it cannot be found or loaded, lacks weights or has some left over, has no
            tokenizer or one of another model, or is not a causal language model.
    """
    _silence_transformers()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if names_function(name):
        return _from_function(name, settings)
    device = pick_device(settings.device)
    located = locate(name, settings)
    folder = located.folder
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    with one_line_errors(name):
        context = context_length(config, settings.context)
        files = weight_files(folder, getattr(config, "transformers_weights", None), name)
        check_sizes(config, files, name)
    model = load_model(
        folder,
        with_fused_activation(config),
        name,
        files,
        dtype=DTYPES[settings.dtype],
        trust_remote_code=settings.trust_remote_code,
    )
    if settings.copied:
        copy_weights(model)
    if settings.noise:
        add_noise(model, settings.noise, name)
    stated_ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = check_end_tokens(stated_ends, "eos_token_id", name)
    with one_line_errors(name):
        digest = model_digest(model, config, files)
        model = model.to(device).eval()
    tokenizer = load_tokenizer(folder, name, settings)
    _check_vocabulary(model, tokenizer, name)
    identity = Identity(
        name=noisy_name(name, settings.noise),
        revision=located.revision,
        digest=digest,
        tokenizer=tokenizer.digest,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=settings.dtype,
        device=str(device),
        context=context,
        trust_remote_code=settings.trust_remote_code,
        threads=torch.get_num_threads(),
        step=located.step,
        options=dict(located.options),
    )
    logits = _trial_logits(model, name)
    if not settings.compiled:  # torch.compile lays out the weights itself
        pack(model, logits)
    ends |= tokenizer.end_tokens
    return Checkpoint(identity, model, tokenizer, device, ends, settings.compiled)


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


def pick_device(requested: str | None) -> torch.device:
    """The requested device; by default the accelerator if there is one, else the CPU.

    Raises:
        CheckpointError: torch does not know the device, or the machine does not have it.
    """
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if requested is None:
        return accelerator or torch.device("cpu")
    available = f"this machine has: cpu{f', {accelerator}' if accelerator else ''}"
    try:
        device = torch.device(requested)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(
            f"device {requested!r} cannot be used ({short_reason(error)}); {available}"
        ) from error
    if device.type == "meta":
        raise CheckpointError(f"device {requested!r} holds no numbers; {available}")
    return device


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
    _silence_transformers()
    if names_function(name):
        checkpoint = _from_function(name, settings)
        return checkpoint.tokenizer, checkpoint.identity.context
    folder = locate(name, settings).folder
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    tokenizer = load_tokenizer(folder, name, settings)
    with one_line_errors(name):
        return tokenizer, context_length(config, settings.context)


def _silence_transformers() -> None:
    """Hide transformers' progress bars and logs; problems are raised as errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


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


def _trial_logits(model: Any, name: str) -> torch.Tensor:
    """Logits (T, V) of a few tokens; refuses a model whose forward pass fails."""
    try:
        with torch.no_grad():
            return trial(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"model {name!r} cannot run: {type(error).__name__}: {short_reason(error)}; its "
            "config.json may hold sizes that do not fit each other"
        ) from error
