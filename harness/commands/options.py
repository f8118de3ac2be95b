"""The options that several commands share: one class per group, one field per option.

A field is the whole declaration of an option: `harness.cli.options` makes the flag from it. A
command declares the groups, or the single options of a group, that it honours; it accepts no other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NewType

from harness.data.load import Where
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.engine.checkpoint.settings import Settings

Seconds = NewType("Seconds", float)
Dtype = Literal["float32", "bfloat16", "float16"]
MAX_THREADS = 4096


def option(default: Any, help: str, **details: Any) -> Any:
    """Declare a field as an option.

    Args:
        default: value where the option is not given.
        help: text for `--help`: what the option does, with its unit.
        details: `flag`, the name of the option if it is not that of the field; `min` and `max` of a
            number; `required`, `metavar` and `envvar` as in click.
    """
    return field(default=default, metadata={"help": help, **details})


class OptionGroup:
    """Options that belong together."""

    __slots__ = ()
    heading: ClassVar[str]  # in `--help`

    def check(self) -> None:
        """Refuse options of this group that contradict each other.

        Raises:
            UsageError: two options contradict each other, or one is malformed.
        """


@dataclass(frozen=True, slots=True)
class ModelOptions(OptionGroup):
    """Which checkpoints are evaluated, and how each is loaded and run."""

    heading: ClassVar[str] = "Model"
    names: tuple[str, ...] = option(
        (),
        "evaluate this checkpoint: a name on the hub, a folder, a GGUF file, or smollm2-135m (the "
        "demo); repeatable",
        flag="model",
        metavar="MODEL",
        required=True,
    )
    revision: str | None = option(None, "load this commit, branch or tag from the hub")
    trust_remote_code: bool = option(
        False, "run Python code that comes with the checkpoint; noted in the record"
    )
    device: str | None = option(
        None, "run on cpu, cuda, cuda:1, ...; default: an accelerator if there is one, else cpu"
    )
    dtype: Dtype = option("float32", "load weights in this type")
    context: int | None = option(
        None,
        "feed at most N tokens at a time; default: 1024, or the model's maximum if that is less",
        min=8,
        metavar="N",
    )
    batch_tokens: int | None = option(
        None,
        "pad batches to at most N tokens; changes scores only by rounding; default: by device",
        min=1,
        metavar="N",
    )
    threads: int | None = option(
        None,
        "use N CPU threads; changes scores only by rounding; default: torch's choice",
        min=1,
        max=MAX_THREADS,
        metavar="N",
    )
    compile: bool = option(
        False, "compile forward passes with torch.compile; pays off in long runs on an accelerator"
    )

    def settings(self) -> "Settings":
        """How to load a checkpoint."""
        from harness.engine.checkpoint.settings import Settings

        return Settings(
            self.device,
            self.dtype,
            self.context,
            self.revision,
            self.trust_remote_code,
            self.threads,
            self.compile,
        )

    def only_name(self, command: str) -> str:
        """The name of the one model that a command takes.

        Raises:
            UsageError: several models are given.
        """
        different = dict.fromkeys(self.names)
        if len(different) != 1:
            raise UsageError(f"{command} takes one --model; {len(different)} were given")
        return self.names[0]


@dataclass(frozen=True, slots=True)
class WorkerOptions(OptionGroup):
    """Ray actors that hold the checkpoint."""

    heading: ClassVar[str] = "Workers"
    count: int | None = option(
        None,
        "compute in N Ray workers, each with a copy of the model; default: in this process",
        flag="workers",
        min=1,
        max=MAX_THREADS,
        metavar="N",
    )
    address: str | None = option(
        None, "connect to the Ray cluster at HOST:PORT; default: start Ray on this machine",
        metavar="HOST:PORT",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse an address without workers."""
        if self.address and not self.count:
            raise UsageError("--address needs --workers: how many actors hold the checkpoint")


@dataclass(frozen=True, slots=True)
class DataOptions(OptionGroup):
    """Where rows are read from, and which of them are evaluated."""

    heading: ClassVar[str] = "Data"
    data_dir: Path | None = option(
        None, "read the original files from this folder", envvar="HARNESS_DATA"
    )
    data_file: Path | None = option(None, "read this file instead of looking in --data-dir")
    sample: bool = option(False, "use the few built-in rows; the scores mean nothing")
    hub: bool = option(False, "download from the hub what --data-dir does not have")
    limit: int | None = option(
        None, "evaluate a random subset of N rows, chosen by --seed; default: all rows",
        min=1, metavar="N",
    )  # fmt: skip
    seed: int = option(0, "seed of --limit, of sampled text and of intervals", min=0, metavar="N")
    strict: bool = option(
        False,
        "fail on missing or unpublished data and on requests that are cut, empty or not aligned "
        "with tokens, instead of noting it",
    )

    def where(self) -> Where:
        """The sources of rows, in the order in which they are tried."""
        return Where(self.data_file, self.sample, self.data_dir, self.hub)

    def check(self) -> None:
        """Refuse two sources of rows."""
        for other, given in (("--data-file", self.data_file), ("--hub", self.hub)):
            if self.sample and given:
                first, second = sorted((other, "--sample"), reverse=other == "--hub")
                raise UsageError(f"{first} and {second} name different rows; give one of them")


@dataclass(frozen=True, slots=True)
class ProtocolOptions(OptionGroup):
    """How rows become requests and scores."""

    heading: ClassVar[str] = "Protocol"
    name: str = option(
        "paper",
        "use this named protocol; `harness tasks TASK` lists them",
        flag="protocol",
        metavar="NAME",
    )
    set: tuple[str, ...] = option(
        (), "change one option of the protocol; repeatable", metavar="KEY=VALUE"
    )

    def overrides(self) -> dict[str, str]:
        """`--set key=value` as a mapping."""
        pairs = [pair.partition("=") for pair in self.set]
        return {name: value for name, _, value in pairs}

    def check(self) -> None:
        """Refuse a `--set` without a value."""
        for pair in self.set:
            if "=" not in pair:
                raise UsageError(f"--set {pair!r}: expected key=value")


@dataclass(frozen=True, slots=True)
class GridOptions(OptionGroup):
    """One task under several protocols."""

    heading: ClassVar[str] = "Protocol"
    grid: bool = option(False, "run every named protocol; print one table with the paper's numbers")
    vary: tuple[str, ...] = option(
        (),
        "run every combination of these values, as a table; repeatable",
        metavar="KEY=VALUE,...",
    )


@dataclass(frozen=True, slots=True)
class OutputOptions(OptionGroup):
    """What is written and printed."""

    heading: ClassVar[str] = "Output"
    out: Path = option(Path("results/records"), "write records into this folder")
    dump: Path | None = option(None, "write one JSON line per example to this file")
    json: bool = option(False, "print the records as one JSON object and nothing else")
    signatures: bool = option(False, "print the signature of every record")


@dataclass(frozen=True, slots=True)
class TableOptions(OptionGroup):
    """What commands for several tasks write and print besides."""

    heading: ClassVar[str] = "Output"
    size: str | None = option(
        None,
        "compare with this model of the paper: 117M, 345M, 762M or 1542M; default: the nearest",
        metavar="SIZE",
    )
    leaderboard: Path | None = option(
        None,
        "write a CSV with one row per model, updated after each model, and the same as Markdown",
    )


@dataclass(frozen=True, slots=True)
class PlanOptions(OptionGroup):
    """What a run costs, or may cost."""

    heading: ClassVar[str] = "Plan"
    plan: bool = option(False, "print the expected cost in tokens, memory and time, and stop")
    budget: Seconds | None = option(
        None, "evaluate as many rows as fit into this time (90s, 10m, 2h)", metavar="TIME"
    )


@dataclass(frozen=True, slots=True)
class CacheOptions(OptionGroup):
    """The response cache."""

    heading: ClassVar[str] = "Cache"
    folder: Path | None = option(
        None, "keep the response cache in this folder; default: the user's cache", flag="cache"
    )
    off: bool = option(False, "neither read nor write the response cache", flag="no-cache")

    def check(self) -> None:
        """Refuse a folder for a cache that is not used."""
        if self.folder and self.off:
            raise UsageError("--cache and --no-cache contradict each other; give one of them")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The groups of the commands that evaluate."""

    model: ModelOptions
    data: DataOptions = DataOptions()
    protocol: ProtocolOptions = ProtocolOptions()
    output: OutputOptions = OutputOptions()
    plan: PlanOptions = PlanOptions()
    workers: WorkerOptions = WorkerOptions()
    cache: CacheOptions = CacheOptions()
    table: TableOptions = TableOptions()
    grid: GridOptions = GridOptions()

    def check(self) -> None:
        """Refuse options of different groups that contradict each other.

        Raises:
            UsageError: two options contradict each other.
        """
        output, plan, grid = self.output, self.plan, self.grid
        for wrong, message in (
            (
                self.workers.count and (plan.plan or plan.budget),
                "--plan and --budget are for one process; leave out --workers",
            ),
            (
                plan.plan and (output.json or output.dump or self.table.leaderboard),
                "--plan computes no scores; leave out --json, --dump and --leaderboard",
            ),
            (
                grid.grid and self.protocol.name != "paper",
                f"--grid runs every protocol; leave out --protocol {self.protocol.name}",
            ),
            (
                output.dump and (grid.grid or grid.vary),
                "--dump takes the items of one protocol; leave out --grid and --vary",
            ),
            (
                output.dump and len(self.model.names) > 1,
                f"--dump takes the items of one model; {len(self.model.names)} were given",
            ),
        ):
            if wrong:
                raise UsageError(message)
