"""The options of models: which ones, how they are loaded, and on what they run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.commands.declare import OptionGroup, option
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.engine.checkpoint.settings import Settings

Dtype = Literal["float32", "bfloat16", "float16"]
DeviceMap = Literal["auto", "offload"]
DTYPE: Dtype = "float32"  # unless another one is given
MAX_THREADS = 4096


@dataclass(frozen=True, slots=True)
class ModelOptions(OptionGroup):
    """Which models are evaluated, and how each is loaded and run."""

    names: tuple[str, ...] = option(
        (), "evaluate this model: checkpoint file or folder, name or name@revision on the hub, a "
        "quoted pattern of them such as 'out/checkpoint-*', module:function that returns a model; "
        "smollm2-135m, the demo; or the address of a server, such as http://127.0.0.1:8000/v1, "
        "with #name if it has several models; repeatable",
        flag="model", metavar="MODEL", required=True,
    )  # fmt: skip
    revision: str | None = option(
        None, "load this commit, branch or tag from the hub; of all models"
    )
    trust_remote_code: bool = option(False, "run Python code that comes with the model; recorded")
    device: str | None = option(
        None, "run on cpu, cuda, cuda:1, ...; default: an accelerator if there is one, else cpu"
    )
    dtype: Dtype | None = option(None, f"load weights in this number format; default: {DTYPE}")
    context: int | None = option(
        None, "feed at most N tokens at a time; default: 1024, or less if the model or the server "
        "has less",
        min=8, metavar="N",
    )  # fmt: skip
    batch_tokens: int | None = option(
        None, "put at most N padded tokens into a batch; affects scores only by rounding; "
        "default: by device", min=1, metavar="N",
    )  # fmt: skip
    threads: int | None = option(
        None, "use N CPU threads; affects scores only by rounding; default: torch's choice",
        min=1, max=MAX_THREADS, metavar="N",
    )  # fmt: skip
    options: tuple[str, ...] = option(
        (), "state what the checkpoint's format does not, such as activation=gelu_new; "
        "repeatable; see docs/checkpoints.md", flag="model-option", metavar="KEY=VALUE",
    )  # fmt: skip
    tokenizer: str | None = option(
        None, "take the tokenizer from this folder, file, or model on the hub; default: the "
        "checkpoint's own, or that of the model that a server names", metavar="NAME",
    )  # fmt: skip
    config: Path | None = option(
        None, "take the config of a checkpoint without one from this config.json",
        flag="model-config",
    )  # fmt: skip
    compile: bool = option(
        False, "run the model through torch.compile; pays off in long runs on an accelerator"
    )
    device_map: DeviceMap | None = option(
        None, "spread a checkpoint that no device holds over all accelerators (auto), and keep "
        "the rest in memory or on disk, which is slow (offload); needs accelerate",
    )  # fmt: skip
    tensor_parallel: int | None = option(
        None, "start N processes, one per accelerator, that hold a part of every weight matrix "
        "each, and compute together; affects scores only by rounding",
        min=2, max=MAX_THREADS, metavar="N",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse two ways to place a model, and a model option without a value, or with two."""
        if self.device_map and self.tensor_parallel:
            raise UsageError("--device-map and --tensor-parallel place weights; give one of them")
        for other, given in (("--device", self.device), ("--compile", self.compile)):
            if self.placing and given:
                raise UsageError(f"{self.placing} is for several devices; leave out {other}")
        values: dict[str, str] = {}
        for pair in self.options:
            key, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"--model-option {pair!r}: expected key=value")
            if values.setdefault(key, value) != value:
                raise UsageError(f"--model-option {key} is {values[key]} and {value}; expected one")

    @property
    def placing(self) -> str:
        """The option that was given to place weights on several devices, if any."""
        parallel = "--tensor-parallel" if self.tensor_parallel else ""
        return "--device-map" if self.device_map else parallel

    def settings(self, data_dir: Path | None = None) -> "Settings":
        """How to load a checkpoint; `data_dir` may have the tokenizer of GPT-2."""
        from harness.engine.checkpoint.settings import Settings

        pairs = [pair.partition("=") for pair in self.options]
        return Settings(
            device=self.device,
            dtype=self.dtype or DTYPE,
            context=self.context,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            threads=self.threads,
            compiled=self.compile,
            options=tuple((key, value) for key, _, value in pairs),
            tokenizer=self.tokenizer,
            config_file=self.config,
            data_dir=data_dir,
            device_map=self.device_map,
            tensor_parallel=self.tensor_parallel or 1,
        )

    def only_name(self, command: str) -> str:
        """The model of a command that takes one; raises a `UsageError` if there are several."""
        different = len(set(self.names))
        if different != 1:
            raise UsageError(f"{command} takes one --model; {different} were given")
        return self.names[0]
