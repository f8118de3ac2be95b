"""A record: one task, one protocol, one checkpoint, and everything that produced the scores.

Its JSON form is printed by `--json` and written to the folder of records.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any

from harness.core import Score, Tokens
from harness.errors import RecordError
from harness.records import schema
from harness.records.outcomes import Outcomes
from harness.records.signature import NONE, Signature

_SIGNED_VERSIONS = (
    "harness", "lm_eval", "inspect_ai", "nemo_evaluator", "torch", "transformers",
)  # fmt: skip
_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one task."""

    task: str
    version: int
    protocol: str  # its name, with `+option=value` for each option set by hand
    options: Mapping[str, str | int]
    model: Mapping[str, Any]  # harness.engine.checkpoint.settings.Identity
    data: Mapping[str, Any]  # source, name, sha256, bytes, rows, published, warnings
    prompt: Mapping[str, str] | None  # name, sha256
    limit: int | None  # rows in a random subset
    seed: int
    rows: int  # read
    examples: int
    """Scored; for running text, whose rows are parts of one example, rows. If a run of running text
    was stopped: lines, or texts that are answered as a whole."""
    requests: int
    tokens: Tokens
    seconds: float
    scores: tuple[Score, ...]
    preflight: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, float | str] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # of the canaries: what was seen and expected, what to do
    created: str = ""  # ISO 8601, UTC
    pool: Mapping[str, Any] | None = None  # rows that few-shot examples were drawn from, as `data`
    origin: str = "harness"  # the program that computed the scores
    outcomes_sha256: str | None = None  # of the file with the outcomes
    stopped: Mapping[str, Any] | None = None
    """Of a run that was stopped early: `reason`, and how many parts it `used` `of` how many, drawn
    in random order by `seed` (that of the run, if it is not given)."""
    outcomes: Outcomes | None = field(default=None, repr=False, compare=False)
    """The outcomes of a run in this process; not part of the record's JSON."""

    @property
    def signature(self) -> Signature:
        """What the scores depend on besides the weights."""
        return Signature(
            task=self.task,
            origin=self.origin,
            version=str(self.version),
            protocol=self.protocol,
            options={name: str(value) for name, value in self.options.items()},
            data=f"{self.data['name']}@{self.data['sha256'][:8]}",
            rows=self._rows(),
            prompt=self.prompt["sha256"][:8] if self.prompt else NONE,
            pool=f"{self.pool['name']}@{self.pool['sha256'][:8]}" if self.pool else None,
            tokenizer=self.model["tokenizer"][:8],
            context=str(self.model["context"]),
            dtype=str(self.model["dtype"]),
            versions=self._signed_versions(),
            model_options=self.model.get("options", {}),
        )

    def _signed_versions(self) -> dict[str, str]:
        """Of the programs that computed the scores; a server uses no libraries of ours."""
        versions = self.environment.get("versions", {})
        signed = {name: str(versions[name]) for name in _SIGNED_VERSIONS if name in versions}
        if self.endpoint is None:
            return signed
        verdict = self.self_test.removesuffix(" allowed").replace(" ", "=")
        return {
            **{name: version for name, version in signed.items() if name not in _LIBRARIES},
            "server": f"{self.server.replace(' ', '-')}+{verdict}",
        }

    @property
    def parameters(self) -> int | None:
        """The size of the model; None if the record does not tell.

        Those of models behind servers do not, nor do some of other programs.
        """
        count = self.model["parameters"]
        return count if isinstance(count, int) and count > 0 else None

    @property
    def endpoint(self) -> Mapping[str, Any] | None:
        """The server that computed the answers; None if the harness or another program did."""
        endpoint: Mapping[str, Any] | None = self.model.get("endpoint")
        return endpoint

    @property
    def server(self) -> str:
        """`vllm 0.32.0`, of a model behind a server; else empty."""
        endpoint = self.endpoint or {}
        return " ".join(str(endpoint[k]) for k in ("server", "version") if endpoint.get(k))

    @property
    def self_test(self) -> str:
        """The verdict of the self-test that the server of the model went through."""
        return str(self.engine.get("self_test", {}).get("verdict", "unknown"))

    def _rows(self) -> str:
        """How many examples were scored, of how many rows, and the seeds that chose them."""
        seed = f"~seed{self.seed}"
        if self.stopped is not None:
            order = self.stopped.get("seed", self.seed)
            other = f"~order{order}" if order != self.seed else ""
            return f"{self.parts_used}{seed}{other}"
        rows = f"{self.examples}/{self.rows}" if self.rows != self.examples else str(self.rows)
        return rows if self.limit is None else f"{rows}{seed}"

    @property
    def numerics(self) -> str:
        """What moves only the last digits of the scores: device, matrix products, libraries.

        Runs with one signature and different numerics measure the same thing and differ by
        rounding. Records of other programs name only the device.
        """
        numerics = self.engine.get("numerics")
        return str(numerics or f"device:{str(self.model.get('device')).partition(':')[0]}")

    @property
    def extent(self) -> str:
        """How much of the run there is, in words; empty if it is complete."""
        if self.stopped is None:
            return ""
        reason = f" ({self.stopped['reason']})" if self.stopped.get("reason") else ""
        return f"stopped early, after {self.parts_used} parts{reason}"

    @property
    def parts_used(self) -> str | None:
        """`412 of 2000` of a run that was stopped early; None for a complete one."""
        return f"{self.stopped['used']} of {self.stopped['of']}" if self.stopped else None

    def filename(self) -> str:
        """`<task>-<protocol>-<digest>.json`; runs that may differ in a score never share a file."""
        parts = (self.model["digest"], str(self.signature), self.numerics)
        key = hashlib.sha256("|".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{slug(self.task)}-{slug(self.protocol)[:80]}-{key[:10]}.json"

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        fields = asdict(replace(self, outcomes=None))
        del fields["outcomes"]
        if self.stopped is None:
            del fields["stopped"]
        return {**schema.header("record"), **fields, "signature": str(self.signature)}

    @classmethod
    def from_json(cls, value: Any, name: str) -> "Record":
        """The record in a parsed JSON value that came from the file `name`."""
        fields = schema.fields(value, "record", name)
        signature = fields.pop("signature", None)
        with schema.malformed(name, "record"):
            fields["tokens"] = Tokens(**fields["tokens"])
            # The paper's numbers, which `--json` adds, are not part of a score.
            fields["scores"] = tuple(
                Score(**{key: part for key, part in score.items() if not key.startswith("paper")})
                for score in fields["scores"]
            )
            fields["warnings"] = _sentences(fields.get("warnings", ()))
            _check_stopped(fields.get("stopped"))
            record = cls(**fields)
            if signature != str(record.signature):
                raise RecordError(f"{name} was changed: its signature does not fit its fields")
        return record


def _sentences(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"expected warnings as a list of texts, got {value!r}")
    return tuple(value)


def _check_stopped(value: Any) -> None:
    if value is None:
        return
    counts = [value["used"], value["of"]]
    if not all(type(count) is int for count in counts) or not 0 < counts[0] < counts[1]:
        raise ValueError(f"stopped after {counts[0]!r} of {counts[1]!r} parts")


def short_name(name: str) -> str:
    """The last part of a model's name: of a path, of a name on the hub, or of one at a server.

    >>> short_name("out/checkpoint-500"), short_name("http://127.0.0.1:8000/v1#org/model")
    ('checkpoint-500', 'model')
    """
    if "://" in name:
        name = name.partition("#")[2] or name
    return PurePath(name).name or name


def slug(text: str) -> str:
    """`text` as a file name: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"
