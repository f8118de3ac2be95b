"""What is unusual about encoded requests, counted before the first forward pass."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from harness.core import Request
from harness.engine.queries.encode import Encoded
from harness.errors import EncodingError

_ALWAYS_COUNTED = ("truncated", "crossing", "empty", "duplicates")


@dataclass(frozen=True, slots=True)
class Preflight:
    """Unusual requests; each tuple holds indices into the requests."""

    truncated: tuple[int, ...]
    crossing: tuple[int, ...]
    empty: tuple[int, ...]
    duplicates: int
    lossy: tuple[int, ...] = ()  # the tokenizer loses characters
    unknown: tuple[int, ...] = ()  # some of their characters have no token
    lost_characters: int = 0
    characters: int = 0

    def counts(self) -> dict[str, int]:
        """The counts, for the record; those of lost text only where text is lost."""
        counts = {
            name: len(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        return counts if self.lossy else {name: counts[name] for name in _ALWAYS_COUNTED}

    def refuse(self) -> None:
        """Apply --strict: raise an EncodingError for the first unusual request of any kind."""
        for problem, requests in (
            ("is cut to fit the context", self.truncated),
            ("has a token across context and continuation", self.crossing),
            ("has no token to score", self.empty),
            ("has text that the tokenizer loses", self.lossy),
        ):
            if requests:
                raise EncodingError(
                    f"a request {problem} ({len(requests)} in all); refused by --strict",
                    requests[0],
                )


def preflight(requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
    """Count what is unusual about requests."""
    return Preflight(
        truncated=tuple(i for i, e in enumerate(encoded) if e.truncated),
        crossing=tuple(i for i, e in enumerate(encoded) if e.crossing),
        empty=tuple(i for i, e in enumerate(encoded) if not e.queries),
        duplicates=len(requests) - len(set(requests)),
        lossy=tuple(i for i, e in enumerate(encoded) if e.loss.lost),
        unknown=tuple(i for i, e in enumerate(encoded) if e.loss.unknown),
        lost_characters=sum(e.loss.lost for e in encoded),
        characters=sum(e.characters for e in encoded),
    )
