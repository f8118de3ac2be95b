"""How a checkpoint is loaded, and what identifies it once it is."""

from dataclasses import dataclass


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
    digest: str  # of the loaded tensors, the config, and code that came with the checkpoint
    tokenizer: str  # digest
    parameters: int  # shared ones counted once
    dtype: str
    device: str
    context: int
    trust_remote_code: bool
    threads: int  # of the CPU
