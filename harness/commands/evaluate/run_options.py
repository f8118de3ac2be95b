"""The options that all benchmark commands share, as the command line gives them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import load as data
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.engine.checkpoint.settings import Settings


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One field an option; the defaults are the command line's."""

    model: tuple[str, ...]
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    dtype: str = "float32"
    context: int | None = None
    batch_tokens: int | None = None
    threads: int | None = None
    compile: bool = False  # plain passes, by torch.compile
    workers: int | None = None  # Ray actors that hold the checkpoint
    address: str | None = None  # of a Ray cluster
    data_dir: Path | None = None
    data_file: Path | None = None
    sample: bool = False
    hub: bool = False
    limit: int | None = None
    seed: int = 0
    protocol: str = "paper"
    set: tuple[str, ...] = ()
    grid: bool = False  # all presets
    vary: tuple[str, ...] = ()  # options with several values, all combinations
    out: Path = Path("results/records")
    dump: Path | None = None
    json: bool = False
    strict: bool = False
    cache: Path | None = None  # folder of the stored answers; None: the user's own
    no_cache: bool = False
    plan: bool = False  # say what it will cost, and stop
    budget: float | None = None  # seconds for all models; rows are chosen to fit
    leaderboard: Path | None = None  # table3, section3: written after each model
    size: str | None = None  # table3, section3: the paper's model to compare with

    def where(self) -> data.Where:
        """The roads to the data."""
        return data.Where(self.data_file, self.sample, self.data_dir, self.hub)

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

    def check(self) -> None:
        """Refuse what is wrong whatever the benchmark is.

        Raises:
            UsageError: a value is out of range, or two options contradict each other.
        """
        for wrong, message in (
            (
                self.limit is not None and self.limit < 1,
                f"--limit {self.limit}: expected at least 1",
            ),
            (
                self.data_file and self.sample,
                "--data-file and --sample name different rows; give one of them",
            ),
            (
                self.address and not self.workers,
                "--address needs --workers: how many actors hold the checkpoint",
            ),
            (
                self.workers and (self.plan or self.budget),
                "--plan and --budget are for one process; leave out --workers",
            ),
            (
                self.plan and (self.json or self.dump or self.leaderboard),
                "--plan computes no scores; leave out --json, --dump and --leaderboard",
            ),
            (
                self.grid and self.protocol != "paper",
                f"--grid takes every protocol; leave out --protocol {self.protocol}",
            ),
            (
                self.dump and (self.grid or self.vary),
                "--dump takes the items of one protocol; leave out --grid and --vary",
            ),
            (
                self.sample and self.hub,
                "--sample and --hub name different rows; give one of them",
            ),
            (
                self.cache and self.no_cache,
                "--cache and --no-cache contradict each other; give one of them",
            ),
            (
                self.dump and len(self.model) > 1,
                f"--dump takes the items of one model; {len(self.model)} were given",
            ),
        ):
            if wrong:
                raise UsageError(message)

    def overrides(self) -> dict[str, str]:
        """`--set key=value` as a mapping.

        Raises:
            UsageError: one has no `=`.
        """
        pairs = [pair.partition("=") for pair in self.set]
        for name, equals, _ in pairs:
            if not equals:
                raise UsageError(f"--set {name!r}: expected key=value")
        return {name: value for name, _, value in pairs}
