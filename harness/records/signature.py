"""What a score depends on besides the weights, as a value that prints in one line.

The line follows sacrebleu's signatures (Post 2018, https://arxiv.org/abs/1804.08771).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MUST_AGREE = ("benchmark", "origin", "version", "options", "data", "prompt", "example pairs")
"""Parts in which two records must agree to measure the same thing."""
NONE = "none"


@dataclass(frozen=True, slots=True)
class Signature:
    """The parts of a record's signature, each in the form in which it is printed."""

    task: str
    origin: str  # the program that computed the scores
    version: str  # of the task
    protocol: str
    options: Mapping[str, str]
    data: str  # file name and start of its checksum
    rows: str  # how many examples were scored, of how many rows, chosen by which seed
    prompt: str  # start of the template's checksum
    pool: str | None  # the rows that few-shot examples were drawn from, as `data`
    tokenizer: str  # start of its checksum
    context: str
    dtype: str
    versions: Mapping[str, str]  # of the programs that computed the scores
    model_options: Mapping[str, str] = field(default_factory=dict)  # what the checkpoint left open

    def segments(self) -> tuple[str, ...]:
        """The pieces of the line, in order."""
        options, model_options = _listed(self.options), _listed(self.model_options)
        return (
            self.task,
            *([f"origin:{self.origin}"] if self.origin != "harness" else []),
            f"v:{self.version}",
            f"p:{self.protocol}",
            f"o:{options or NONE}",
            f"data:{self.data}",
            f"n:{self.rows}",
            f"prompt:{self.prompt}",
            *([f"pool:{self.pool}"] if self.pool else []),
            f"tok:{self.tokenizer}",
            f"ctx:{self.context}",
            f"dtype:{self.dtype}",
            *([f"model:{model_options}"] if model_options else []),
            *(f"{name}:{version}" for name, version in self.versions.items()),
        )

    def __str__(self) -> str:
        return "|".join(self.segments())

    def identity(self) -> tuple[str, ...]:
        """The parts in MUST_AGREE, as a key that groups records of the same measurement."""
        parts = self.parts()
        return tuple(str(parts[name]) for name in MUST_AGREE)

    def parts(self) -> dict[str, str | Mapping[str, str]]:
        """The parts by the names used in messages, without the protocol's: its options count."""
        return {
            "benchmark": self.task,
            "origin": self.origin,
            "version": self.version,
            "options": dict(sorted(self.options.items())),
            "data": self.data,
            "rows": self.rows,
            "prompt": self.prompt,
            "example pairs": self.pool or NONE,
            "tokenizer": self.tokenizer,
            "context": self.context,
            "dtype": self.dtype,
            "model options": _listed(self.model_options) or NONE,
            **self.versions,
        }

    def diff(self, other: "Signature") -> dict[str, tuple[str, str]]:
        """The parts that differ, with both values; of the options only those that differ."""
        a, b = self.parts(), other.parts()
        differences = {}
        for name in dict.fromkeys([*a, *b]):
            one, two = a.get(name, NONE), b.get(name, NONE)
            if one == two:
                continue
            if name == "options":
                one, two = _different_options(self.options, other.options)
            differences[name] = (str(one), str(two))
        return differences


def _listed(options: Mapping[str, str]) -> str:
    """`bos=none,stride=32`, sorted by name."""
    return ",".join(f"{name}={value}" for name, value in sorted(options.items()))


def _different_options(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[str, str]:
    names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    one, two = (", ".join(f"{name}={options.get(name)}" for name in names) for options in (a, b))
    return one, two


def in_words(differences: Mapping[str, tuple[str, str]]) -> str:
    """`dtype: float32 / bfloat16; rows: 20 / 10`."""
    return "; ".join(f"{name}: {a} / {b}" for name, (a, b) in differences.items())
