"""How to load a checkpoint, and what identifies a loaded one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

BFLOAT16_PRODUCTS = "bfloat16 products"  # a float32 model whose linear layers multiply in bfloat16


@dataclass(frozen=True, slots=True)
class Settings:
    """How to load a checkpoint."""

    device: str | None = None  # None: the accelerator if there is one, else the CPU
    dtype: str = "float32"
    context: int | None = None  # tokens; None: the smaller of 1,024 and the model's maximum
    revision: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None  # CPU threads; None: torch's default
    compiled: bool = False  # whether plain forward passes go through torch.compile
    options: tuple[tuple[str, str], ...] = ()  # model options: what the checkpoint does not say
    tokenizer: str | None = None  # folder, file, or name on the hub; None: the checkpoint's own
    config_file: Path | None = None  # config.json of a checkpoint without one
    data_dir: Path | None = None  # may have the tokenizer of GPT-2 in a folder `gpt2-bpe`
    copied: bool = False  # copy weights out of their files, which may be overwritten meanwhile
    noise: float = 0.0  # Gaussian noise in the weights: a share of each matrix's spread
    device_map: Literal["auto", "offload"] | None = None  # see `placement`
    tensor_parallel: int = 1  # processes that hold a part of each matrix and compute together


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies a checkpoint in records; `digest` covers bytes, not names."""

    name: str
    revision: str | None  # the hub's commit
    digest: str  # of the loaded tensors, the config, and code that came with the checkpoint
    tokenizer: str  # digest
    parameters: int | str  # shared ones counted once; "unknown" behind a server, as others here
    dtype: str  # as the option, or BFLOAT16_PRODUCTS
    device: str  # several ones, such as "cuda:0, cuda:1", of a model that is spread over them
    context: int
    trust_remote_code: bool
    threads: int | str  # CPU threads
    step: int | None = None  # of the training
    options: Mapping[str, str] = field(default_factory=dict)  # model options of its format
    endpoint: Mapping[str, Any] | None = None
    """Of a model behind a server, whose weights nobody can hash: `url`, `server`, `version`,
    `model` (its name there), `fingerprint` (see `harness.engine.endpoint`) and `tokenizer` (where
    it came from)."""


def dtype_option(dtype: str) -> str:
    """The value of `--dtype` that asks for the dtype of an identity."""
    return "bfloat16" if dtype == BFLOAT16_PRODUCTS else dtype
