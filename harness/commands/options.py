"""The options that several commands share, by group.

A command declares the groups, or the single options of a group, that it honours; it accepts no
other.
"""

from dataclasses import dataclass
from pathlib import Path

from harness.commands.declare import OptionGroup, Seconds, option
from harness.commands.model_options import MAX_THREADS, ModelOptions
from harness.commands.server_options import ServerOptions
from harness.data.load import Where
from harness.engine.endpoint.settings import EndpointSettings
from harness.errors import UsageError


@dataclass(frozen=True, slots=True)
class WorkersOptions(OptionGroup):
    """Ray actors that hold the checkpoint."""

    count: int | None = option(
        None, "compute in N Ray workers with a copy of the model each; default: in this process",
        flag="workers", min=1, max=MAX_THREADS, metavar="N",
    )  # fmt: skip
    address: str | None = option(
        None, "connect to this Ray cluster; default: start Ray on this machine", metavar="HOST:PORT"
    )

    def check(self) -> None:
        """Refuse an address without workers."""
        if self.address and not self.count:
            raise UsageError("--address needs --workers: how many actors hold the checkpoint")


@dataclass(frozen=True, slots=True)
class DataOptions(OptionGroup):
    """Where rows are read from, and which of them are evaluated."""

    data_dir: Path | None = option(
        None, "read the original files from this folder", envvar="HARNESS_DATA"
    )
    data_file: Path | None = option(None, "read this file instead of looking in --data-dir")
    sample: bool = option(False, "use the few built-in rows; their scores mean nothing")
    hub: bool = option(False, "download from the hub what --data-dir lacks")
    limit: int | None = option(
        None, "evaluate a random subset of N rows, chosen by --seed", min=1, metavar="N"
    )
    seed: int = option(0, "seed of --limit, sampled text and intervals", min=0, metavar="N")
    strict: bool = option(
        False, "fail, instead of noting it, if data is missing or not the published one, if a "
        "request is cut, empty or not aligned with tokens, or if a run ends with a warning",
    )  # fmt: skip

    def where(self) -> Where:
        """The sources of rows, in the order in which they are tried."""
        return Where(self.data_file, self.sample, self.data_dir, self.hub)

    def check(self) -> None:
        """Refuse two sources of rows."""
        if self.sample and self.data_file:
            raise UsageError("--data-file and --sample name different rows; give one of them")
        if self.sample and self.hub:
            raise UsageError("--sample and --hub name different rows; give one of them")


@dataclass(frozen=True, slots=True)
class ProtocolOptions(OptionGroup):
    """How rows become requests and scores."""

    name: str = option(
        "paper", "use this protocol; `harness tasks TASK` lists them",
        flag="protocol", metavar="NAME",
    )  # fmt: skip
    set: tuple[str, ...] = option(
        (), "change one option of the protocol; repeatable", metavar="KEY=VALUE"
    )
    grid: bool = option(False, "run all protocols; print one table with the paper's numbers")
    vary: tuple[str, ...] = option(
        (), "run all combinations of these values, as --grid; repeatable", metavar="KEY=VALUE,..."
    )

    @property
    def several(self) -> bool:
        """Whether a task is run under several protocols."""
        return self.grid or bool(self.vary)

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
class OutputOptions(OptionGroup):
    """What is written and printed."""

    out: Path = option(Path("results/records"), "write records into this folder")
    dump: Path | None = option(None, "write one JSON line per example to this file")
    json: bool = option(False, "print the records as one JSON object and nothing else")
    signatures: bool = option(False, "print the signature of every record")
    size: str | None = option(
        None, "compare with the paper's 117M, 345M, 762M or 1542M; default: the nearest, "
        "or 1542M for a model of unknown size",
        metavar="SIZE",
    )  # fmt: skip
    leaderboard: Path | None = option(
        None, "write a CSV file, and the same as Markdown, with one row per finished model"
    )


@dataclass(frozen=True, slots=True)
class PlanOptions(OptionGroup):
    """What a run costs, or may cost."""

    plan: bool = option(False, "print the expected cost in tokens, memory and time, and stop")
    budget: Seconds | None = option(
        None, "evaluate as many rows as fit into this time (90s, 10m, 2h)", metavar="TIME"
    )


@dataclass(frozen=True, slots=True)
class CacheOptions(OptionGroup):
    """The response cache."""

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
    workers: WorkersOptions = WorkersOptions()
    server: ServerOptions = ServerOptions()
    cache: CacheOptions = CacheOptions()

    def endpoint(self, url: str) -> EndpointSettings:
        """How to reach the server of a model."""
        return self.server.settings(url, self.model.tokenizer, self.model.context)

    def check(self) -> None:
        """Raise a `UsageError` if options of different groups contradict each other."""
        self.server.check_models(self.model.names, self.model, self.workers)
        output, plan, protocol = self.output, self.plan, self.protocol
        models = len(self.model.names)
        contradictions = {
            "--plan and --budget are for one process; leave out --workers": (
                self.workers.count and (plan.plan or plan.budget)
            ),
            f"each of the --workers has one device; leave out {self.model.placing}": (
                self.workers.count and self.model.placing
            ),
            "--plan computes no scores; leave out --json, --dump and --leaderboard": (
                plan.plan and (output.json or output.dump or output.leaderboard)
            ),
            f"--grid runs every protocol; leave out --protocol {protocol.name}": (
                protocol.grid and protocol.name != "paper"
            ),
            "--dump takes the items of one protocol; leave out --grid and --vary": (
                output.dump and protocol.several
            ),
            f"--dump takes the items of one model; {models} were given": output.dump and models > 1,
        }
        for message, applies in contradictions.items():
            if applies:
                raise UsageError(message)
