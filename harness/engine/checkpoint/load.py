"""A model's name -> weights on the device, tokenizer, and what identifies them.

A name is a local folder, a GGUF file, the demo `smollm2-135m`, or a model on the Hugging Face
hub. Every road ends in a local folder of safetensors, which is what gets loaded and digested.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.config import context_length, read_config, with_fused_activation
from harness.engine.checkpoint.digest import file_digest
from harness.engine.checkpoint.from_pretrained import load_model, one_line
from harness.engine.checkpoint.identity import model_digest
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.onednn import pack, trial
from harness.engine.checkpoint.settings import Identity, Settings
from harness.engine.checkpoint.weight_files import check_sizes, is_ends, weight_files
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError, clipped_repr, short_reason

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOKENIZER_FILES = ("config.json", "*token*.json", "vocab.*", "merges.txt", "*.model", "*.py")
_loaded: dict[tuple[object, ...], Any] = {}  # by their files' digests: checkpoints share them
_MANY_IDS = 1_000_000  # a tokenizer with ids this far beyond its entries is damaged


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model."""

    identity: Identity
    model: Any  # a transformers causal language model in eval mode
    tokenizer: Tokenizer
    device: torch.device
    end_tokens: frozenset[int]  # tokens after which a generated text is over
    compiled: bool = False  # whether plain passes are to go through torch.compile


def load(name: str, settings: Settings) -> Checkpoint:
    """Load a checkpoint onto its device.

    Raises:
        CheckpointError: it cannot be found or loaded, lacks weights or has some left over, has no
            tokenizer or one of another model, or is not a causal language model.
    """
    _quiet()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    folder, revision = locate(name, settings)
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    with one_line(name):
        context = context_length(config, settings.context)
        files = weight_files(folder, getattr(config, "transformers_weights", None), name)
        check_sizes(config, files, name)
    fused = with_fused_activation(config)
    model = load_model(
        folder,
        fused,
        name,
        files,
        dtype=DTYPES[settings.dtype],
        trust_remote_code=settings.trust_remote_code,
    )
    ends = _stated_ends(model, name)
    with one_line(name):
        digest = model_digest(model, config, files)
        model = model.to(device).eval()
    tokenizer = load_tokenizer(folder, name, settings.trust_remote_code)
    _check_vocabulary(model, tokenizer, name)
    parameters = sum(p.numel() for p in model.parameters())
    logits = _trial(model, name)
    if not settings.compiled:  # torch.compile lays weights out itself
        pack(model, logits)
    identity = Identity(
        name=name,
        revision=revision,
        digest=digest,
        tokenizer=tokenizer.digest,
        parameters=parameters,
        dtype=settings.dtype,
        device=str(device),
        context=context,
        trust_remote_code=settings.trust_remote_code,
        threads=torch.get_num_threads(),
    )
    return Checkpoint(
        identity, model, tokenizer, device, tokenizer.end_tokens | ends, settings.compiled
    )


def _stated_ends(model: Any, name: str) -> frozenset[int]:
    """End tokens that the checkpoint's generation config names, or its config.

    Raises:
        CheckpointError: they are not token ids.
    """
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if not is_ends(stated):
        raise CheckpointError(
            f"model {name!r}: eos_token_id is {clipped_repr(stated)}; expected a token id or "
            "a list of them"
        )
    return frozenset([stated] if isinstance(stated, int) else stated or ())


def pick_device(wish: str | None) -> torch.device:
    """The accelerator if there is one, else the CPU; or the device that is asked for.

    Raises:
        CheckpointError: torch does not know the device, or it is not there.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wish is None:
        return found or torch.device("cpu")
    there = f"this machine has: cpu{f', {found}' if found else ''}"
    try:
        device = torch.device(wish)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = short_reason(error)
        raise CheckpointError(f"device {wish!r} cannot be used ({reason}); {there}") from error
    if device.type == "meta":
        raise CheckpointError(f"device {wish!r} holds no numbers; {there}")
    return device


def load_tokenizer(folder: Path, name: str, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer in a checkpoint's folder; one with the same files is loaded once.

    Raises:
        CheckpointError: there is none, or its token ids are out of all proportion.
    """
    from transformers import AutoTokenizer

    files = sorted({path for kind in _TOKENIZER_FILES for path in folder.glob(kind)})
    try:
        key = (trust_remote_code, *(file_digest(path) for path in files))
        if key not in _loaded:
            _loaded[key] = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        reason = short_reason(error)
        raise CheckpointError(
            f"model {name!r} has no tokenizer that can be loaded ({reason}); expected "
            "tokenizer.json, or vocab.json with merges.txt, beside its weights"
        ) from error
    found = _loaded[key]
    highest = max(found.get_vocab().values(), default=0)
    if highest > len(found) + _MANY_IDS:
        raise CheckpointError(
            f"model {name!r}: its tokenizer has {len(found)} entries and the token id {highest}; "
            "expected ids near the number of entries"
        )
    return Tokenizer(found, name=name)


def tokenizer_and_context(name: str, settings: Settings) -> tuple[Tokenizer, int]:
    """Tokenizer and context length alone, for looking at requests without a forward pass."""
    _quiet()
    folder, _ = locate(name, settings)
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    tokenizer = load_tokenizer(folder, name, settings.trust_remote_code)
    with one_line(name):
        return tokenizer, context_length(config, settings.context)


def _quiet() -> None:
    """Keep transformers' own bars, advice and complaints off the terminal: errors are raised."""
    from transformers.utils import logging as theirs

    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]


def _check_vocabulary(model: Any, tokenizer: Tokenizer, name: str) -> None:
    """Refuse the tokenizer of another model.

    A few entries more than the model has embeddings are common, such as a token for images; what
    is refused where text is encoded is a token that would be fed.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > max(rows + 64, 1.2 * rows):
        raise CheckpointError(
            f"model {name!r}: its tokenizer has {len(tokenizer)} entries, its vocabulary only "
            f"{rows}; they do not belong together"
        )


def _trial(model: Any, name: str) -> torch.Tensor:
    """Logits (T, V) of a few tokens.

    Raises:
        CheckpointError: the pass ends in an error, as it does where sizes do not fit each other.
    """
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
