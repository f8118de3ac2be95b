"""Which benchmark the next slice is of: time in proportion to information for each second.

Stride scheduling (Waldspurger and Weihl 1995): every benchmark has a clock that its own slices move
on, the more slowly the more a second of it tells. The one whose clock is behind is next. The
schedule depends on nothing but the estimates and the evidence, so that a repeated gate makes the
same choices.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(slots=True)
class Schedule(Generic[Name]):
    """The clocks of the benchmarks."""

    clocks: dict[Name, float] = field(default_factory=dict)

    def next(self, information: Mapping[Name, float]) -> Name:
        """The benchmark to answer next.

        Args:
            information: of those that may be chosen, for each second; positive.
        """
        return min(information, key=lambda name: (self.clocks.get(name, 0.0), -information[name]))

    def spent(self, name: Name, seconds: float, information: float) -> None:
        """Move a clock by the seconds of a slice, as estimated."""
        self.clocks[name] = self.clocks.get(name, 0.0) + seconds / information
