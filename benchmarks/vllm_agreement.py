"""Compare the demo model behind vLLM with the same weights in this process, request by request.

    python -m benchmarks.vllm_agreement [--env DIR] [--tables table3:20,section3:5] [--keep DIR]

Needs HARNESS_DATA. Both sides run `harness TABLE --limit N` on windows of the same length, each
with a response cache of its own. Exit code 1 if a log-probability differs by more than
`--tolerance` nats, or an accuracy or a greedy text differs. With `--keep`, what was computed stays
in that folder and another call goes on from there; `--url` names a server that already runs.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import common, vllm_server
from harness.engine.cache.codec import unpack
from harness.engine.cache.store import FILE_NAME
from harness.engine.checkpoint.locate import DEMO
from harness.engine.queries.query import Span, SpanScores

LONGEST = 1024  # tokens of a prompt and what is generated after it
CONTEXT = LONGEST - 2  # input and target of a span are in the prompt, which is one token shorter
_BITS_PER_SCORE = 33  # in a stored answer


class Side(NamedTuple):
    """What a run of one side left behind."""

    records: dict[str, Any]  # by task
    examples: dict[tuple[str, str], Any]  # (task, id) -> line of the dump
    answers: dict[bytes, bytes]  # of the response cache


def run(table: str, limit: str, words: list[str], folder: Path) -> Side:
    """Run a table with an output folder and a response cache in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    dump = folder / "dump.jsonl"
    command = [sys.executable, "-m", "harness", table, "--limit", limit, "--json"]
    command += ["--context", str(CONTEXT), "--data-dir", str(common.data_dir()), *words]
    command += ["--cache", str(folder), "--out", str(folder / "records"), "--dump", str(dump)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {done.returncode}")
    records = {record["task"]: record for record in json.loads(done.stdout)["records"]}
    lines = [json.loads(line) for line in dump.read_text("utf-8").splitlines()]
    with closing(sqlite3.connect(folder / FILE_NAME)) as stored:
        answers = dict(stored.execute("SELECT key, value FROM answers"))
    return Side(records, {(line["task"], line["id"]): line for line in lines}, answers)


@dataclass
class Gaps:
    """How far the responses to the requests of a task are apart."""

    requests: int = 0
    tokens: int = 0
    largest: float = 0.0  # nats between the log-probabilities of a request
    greedy: int = 0  # continuations that only one side finds the most probable
    words: int = 0  # other words
    texts: int = 0  # other texts under greedy decoding
    sampled: int = 0  # texts that each side draws with random numbers of its own

    def add(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
        """Count the two responses to one request."""
        self.requests += 1
        if ours["kind"] == "next_word":
            self.words += (ours["text"], ours["skipped"]) != (theirs["text"], theirs["skipped"])
            return
        if "seed" in ours:
            self.sampled += 1
            return
        if ours["kind"] == "generate" and ours["text"] != theirs["text"]:
            self.texts += 1
            return
        self.tokens += ours["num_tokens"]
        self.largest = max(self.largest, abs(ours["logprob"] - theirs["logprob"]))
        self.greedy += ours.get("is_greedy") != theirs.get("is_greedy")


def by_task(ours: Side, theirs: Side) -> dict[str, Gaps]:
    """The gaps of every task."""
    if ours.examples.keys() != theirs.examples.keys():
        sys.exit("the two sides have other examples; expected equal ones")
    found: dict[str, Gaps] = {}
    for place, line in ours.examples.items():
        gaps = found.setdefault(place[0], Gaps())
        for one, other in zip(line["requests"], theirs.examples[place]["requests"], strict=True):
            gaps.add(one, other)
    return found


@dataclass
class Tokens:
    """How far single log-probabilities are apart, over the answers that both sides have."""

    answers: int = 0
    alone: int = 0  # answers that one side has under another key, or not at all
    gaps: list[float] = field(default_factory=list)
    greedy: int = 0


def by_token(ours: Side, theirs: Side) -> Tokens:
    """The gaps of all scored tokens."""
    found = Tokens(alone=len(ours.answers.keys() ^ theirs.answers.keys()))
    for key in ours.answers.keys() & theirs.answers.keys():
        found.answers += 1
        one, other = scores(ours.answers[key]), scores(theirs.answers[key])
        if np.array_equal(one.tokens, other.tokens):  # else other texts
            found.gaps += np.abs(one.logprobs - other.logprobs).tolist()
            found.greedy += int((one.greedy != other.greedy).sum())
    return found


class Scores(NamedTuple):
    """What a stored answer says of tokens; all are empty for a word."""

    tokens: NDArray[np.int32]  # of a generated text
    logprobs: NDArray[np.float32]
    greedy: NDArray[np.bool_]  # of given tokens


def scores(value: bytes) -> Scores:
    """The log-probabilities in a stored answer."""
    count = max(len(value) * 8 // _BITS_PER_SCORE, 1)
    with suppress(ValueError):  # a word or a text
        found = unpack(Span((), (0,) * count), value)
        assert isinstance(found, SpanScores)
        return Scores(np.zeros(0, np.int32), found.logprobs, found.greedy)
    _, _, arrays = value.partition(b"\n")
    count = len(arrays) // 8
    tokens = np.frombuffer(arrays, "<i4", count)
    return Scores(tokens, np.frombuffer(arrays, "<f4", offset=4 * count), np.zeros(0, np.bool_))


def score_rows(ours: Side, theirs: Side) -> Iterator[tuple[str, bool]]:
    """Rows of the table of scores, and whether the row is as it should be."""
    for task, record in ours.records.items():
        other = {score["metric"]: score for score in theirs.records[task]["scores"]}
        for score in record["scores"]:
            one, two = score["value"], other[score["metric"]]["value"]
            sampled = any("seed" in r for line in _lines(ours, task) for r in line["requests"])
            apart = abs(two - one) / max(abs(one), 1e-9)
            wanted = sampled or (one == two if score["unit"] == "%" else apart < 1e-4)
            note = ", sampled" if sampled else ""
            cells = [task, f"{score['metric']}{note}", f"{one:.6g}", f"{two:.6g}", f"{apart:.1e}"]
            yield f"| {' | '.join(cells)} |", wanted


def _lines(side: Side, task: str) -> list[Any]:
    return [line for (name, _), line in side.examples.items() if name == task]


def compare(table: str, ours: Side, theirs: Side, tolerance: float) -> bool:
    """Print how far the sides are apart; returns whether that is within what is accepted."""
    fine = True
    print(f"\n{table}: scores\n\n| task | metric | in this process | behind vLLM | apart |")
    print("|---|---|--:|--:|--:|")
    for row, wanted in score_rows(ours, theirs):
        fine &= wanted
        print(row)
    print(f"\n{table}: responses\n")
    print("| task | requests | tokens | largest gap of a request | other greedy flags "
          "| other words | other greedy texts | sampled texts |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for task, g in by_task(ours, theirs).items():
        print(f"| {task} | {g.requests} | {g.tokens:,} | {g.largest:.1e} | {g.greedy} | {g.words} "
              f"| {g.texts} | {g.sampled} |")  # fmt: skip
        fine &= not (g.greedy or g.words or g.texts)
    tokens = by_token(ours, theirs)
    gaps = np.array(tokens.gaps or [0.0])
    print(f"\n{table}: {tokens.answers:,} equal queries ({tokens.alone:,} that only one side has), "
          f"{len(tokens.gaps):,} log-probabilities: largest gap {gaps.max():.1e} nats, "
          f"99 % below {np.quantile(gaps, 0.99):.1e}, {tokens.greedy} other greedy flags",
          flush=True)  # fmt: skip
    return fine and bool(gaps.max() <= tolerance)


def main() -> None:
    """Run both sides and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    vllm_server.add_options(parser)
    parser.add_argument("--url", help="a server that already runs, such as http://.../v1")
    parser.add_argument("--tables", default="table3:20,section3:5")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    asked = [entry.partition(":")[::2] for entry in options.tables.split(",")]
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = [
            run(name, rows, ["--model", DEMO, "--threads", str(options.threads)],
                folder / f"{name}-here")
            for name, rows in asked
        ]  # fmt: skip
        url = options.url
        if url is None:
            setup = vllm_server.demo_setup(options, longest=LONGEST)
            url = stack.enter_context(vllm_server.running(setup)).setup.url
        theirs = [
            run(name, rows, ["--model", url], folder / f"{name}-vllm") for name, rows in asked
        ]
        record = next(iter(theirs[0].records.values()))
        print(json.dumps({"model": record["model"], "engine": record["engine"]}, indent=1))
    fine = [
        compare(name, one, other, options.tolerance)
        for (name, _), one, other in zip(asked, ours, theirs, strict=True)
    ]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
