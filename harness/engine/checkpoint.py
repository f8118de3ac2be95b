"""A model's name -> weights on the device, tokenizer, and what identifies them.

A name is a local folder, a GGUF file, the demo `smollm2-135m`, or a model on the Hugging Face
hub. Every road ends in a local folder of safetensors, which is what gets loaded and digested.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.engine.digest import combined, file_digest
from harness.engine.locate import locate, short
from harness.engine.packed import pack
from harness.engine.tokenizer import Tokenizer
from harness.errors import CheckpointError, HarnessError

PAPER_CONTEXT = 1024  # Radford et al. 2019, section 2.3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
_TOKENIZER_FILES = ("config.json", "*token*.json", "vocab.*", "merges.txt", "*.model", "*.py")
_loaded: dict[tuple[object, ...], Any] = {}  # by their files' digests: checkpoints share them
_NOT_IDENTITY = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is to be loaded."""

    device: str | None = None  # None: the accelerator if there is one, else the CPU
    dtype: str = "float32"
    context: int | None = None  # None: the smaller of 1,024 and what the model has
    revision: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None  # of the CPU; None: torch's own choice
    compiled: bool = False  # whether plain passes go through torch.compile


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one checkpoint from another, for records; `digest` covers bytes, not names."""

    name: str
    revision: str | None  # the hub's commit
    digest: str  # of the weights' bytes and the architecture
    tokenizer: str  # digest
    parameters: int  # shared ones counted once
    dtype: str
    device: str
    context: int
    trust_remote_code: bool
    threads: int  # of the CPU


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model."""

    identity: Identity
    model: Any  # a transformers causal language model in eval mode
    tokenizer: Tokenizer
    device: torch.device
    ends: frozenset[int]  # tokens after which a generated text is over
    compiled: bool = False  # whether plain passes are to go through torch.compile


def load(name: str, settings: Settings) -> Checkpoint:
    """Load a checkpoint onto its device.

    Raises:
        CheckpointError: it cannot be found or loaded, has no tokenizer, a tokenizer larger than
            its vocabulary, or is no causal language model.
    """
    from transformers import AutoModelForCausalLM

    _quiet()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    folder, revision = locate(name, settings)
    config = _config(folder, name, settings)
    digest = _digest(folder, name, config)
    _fuse_activation(config)
    with _one_line(name):
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[settings.dtype],
            weights_only=True,
            local_files_only=True,
            trust_remote_code=settings.trust_remote_code,
        )
    model: Any = loaded
    model = model.to(device).eval()
    tokenizer = load_tokenizer(folder, name, settings.trust_remote_code)
    _check_vocabulary(model, tokenizer, name)
    parameters = sum(p.numel() for p in model.parameters())
    if not settings.compiled:  # torch.compile lays weights out itself
        pack(model)
    identity = Identity(
        name=name,
        revision=revision,
        digest=digest,
        tokenizer=tokenizer.digest,
        parameters=parameters,
        dtype=settings.dtype,
        device=str(device),
        context=context_length(config, settings.context),
        trust_remote_code=settings.trust_remote_code,
        threads=torch.get_num_threads(),
    )
    ends = tokenizer.ends | _stated_ends(model)
    return Checkpoint(identity, model, tokenizer, device, ends, settings.compiled)


def _stated_ends(model: Any) -> frozenset[int]:
    """End tokens that the checkpoint's generation config names."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
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
        reason = short(error)
        raise CheckpointError(f"device {wish!r} cannot be used ({reason}); {there}") from error
    if device.type == "meta":
        raise CheckpointError(f"device {wish!r} holds no numbers; {there}")
    return device


def load_tokenizer(folder: Path, name: str, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer in a checkpoint's folder; one with the same files is loaded once.

    Raises:
        CheckpointError: there is none.
    """
    from transformers import AutoTokenizer

    files = sorted({path for kind in _TOKENIZER_FILES for path in folder.glob(kind)})
    key = (trust_remote_code, *(file_digest(path) for path in files))
    try:
        if key not in _loaded:
            _loaded[key] = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        reason = short(error)
        raise CheckpointError(
            f"model {name!r} has no tokenizer that can be loaded ({reason}); expected "
            "tokenizer.json, or vocab.json with merges.txt, beside its weights"
        ) from error
    return Tokenizer(_loaded[key], name=name)


def tokenizer_and_context(name: str, settings: Settings) -> tuple[Tokenizer, int]:
    """Tokenizer and context length alone, for looking at requests without a forward pass."""
    _quiet()
    folder, _ = locate(name, settings)
    config = _config(folder, name, settings)
    tokenizer = load_tokenizer(folder, name, settings.trust_remote_code)
    return tokenizer, context_length(config, settings.context)


def context_length(config: Any, wish: int | None) -> int:
    """How many tokens are fed at most: the smaller of 1,024 and what the model has.

    Raises:
        CheckpointError: more is asked for than the model has.
    """
    sizes = [getattr(config.get_text_config(), name, None) for name in _CONTEXT_NAMES]
    model = next((int(size) for size in sizes if size), None)
    if wish is None:
        return min(PAPER_CONTEXT, model) if model else PAPER_CONTEXT
    if model and wish > model:
        raise CheckpointError(f"--context {wish} is longer than the model's {model} positions")
    return wish


def _quiet() -> None:
    """Keep transformers' own bars and advice off the terminal."""
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _config(folder: Path, name: str, settings: Settings) -> Any:
    from transformers import AutoConfig

    with _one_line(name):
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"model {name!r} is an encoder-decoder ({config.model_type}); expected a causal "
            "language model"
        )
    masked = [a for a in getattr(config, "architectures", None) or () if "MaskedLM" in a]
    if masked:
        raise CheckpointError(
            f"model {name!r} is an encoder ({masked[0]}); expected a causal language model"
        )
    return config


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn whatever transformers raises while loading into one line."""
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        reason = short(error)
        raise CheckpointError(
            f"model {name!r} cannot be loaded as a causal language model: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _digest(folder: Path, name: str, config: Any) -> str:
    """Digest of the weight files' bytes and of the architecture; names and paths play no part."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise CheckpointError(f"model {name!r} has no weights; expected *.safetensors in {folder}")
    identity = {k: v for k, v in config.to_dict().items() if k not in _NOT_IDENTITY}
    architecture = json.dumps(identity, sort_keys=True, default=str)
    return combined([*(file_digest(file) for file in files), architecture])


def _fuse_activation(config: Any) -> None:
    """Let torch compute GPT-2's GELU in one kernel.

    `gelu_new` is the tanh approximation composed of seven tensor operations; the fused one is
    the same function and took a quarter off GPT-2's time on a CPU.
    """
    for name in ("activation_function", "hidden_act", "activation"):
        if getattr(config, name, None) in ("gelu_new", "gelu_fast"):
            setattr(config, name, "gelu_pytorch_tanh")


def _check_vocabulary(model: Any, tokenizer: Tokenizer, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"model {name!r}: its tokenizer has {len(tokenizer)} entries, its vocabulary only "
            f"{rows}; they do not belong together"
        )
