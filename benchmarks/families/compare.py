"""Build, load and evaluate one model type, and compare it with the referee."""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.families import itself, questions
from benchmarks.families.builders import build
from benchmarks.families.referee import Referee, Text
from benchmarks.families.variants import Family
from harness.core import (
    Encoding,
    Generate,
    Generated,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.errors import HarnessError

TOLERANCE = 2e-4  # nats per example
TIE = 1e-3  # nats between two candidates: either may be chosen


@dataclass
class Cell:
    """How one kind of request went: a difference in nats, or why there is none."""

    worst: float = 0.0  # nats of the worst example; infinite where another token or word was chosen
    wrong: int = 0
    items: int = 0
    failed: str = ""  # "refused: ..." or "died: ..."
    note: str = ""  # why transformers has no right answer

    @property
    def right(self) -> bool:
        """Whether every example is within the tolerance."""
        return not self.failed and not self.wrong

    def __str__(self) -> str:
        if self.failed:
            return self.failed.partition(":")[0]
        if not self.wrong:
            return f"{self.worst:.0e}"
        size = "other" if math.isinf(self.worst) else f"{self.worst:.0e}"
        return f"**{size}, {self.wrong} of {self.items}**"


@dataclass
class Row:
    """One line of the table."""

    family: Family
    cells: dict[str, Cell] = field(default_factory=dict)
    plan: str = "–"
    shares: bool | None = None  # None: there were no requests
    notices: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether every answer is the referee's, and the plan says what is fed."""
        return self.plan == "ok" and all(cell.right for cell in self.cells.values())

    @property
    def acceptable(self) -> bool:
        """Whether every cell is right, or refused in one line, or has no right answer."""
        if self.has("died") or not (self.plan == "ok" or self.plan.startswith("refused")):
            return False
        return all(c.right or c.failed or c.note for c in self.cells.values())

    @property
    def failures(self) -> list[str]:
        """Why requests or the plan have no answer, each reason once."""
        plan = [self.plan] if self.plan.startswith(("died", "refused")) else []
        found = [cell.failed for cell in self.cells.values() if cell.failed] + plan
        return [*{_without_numbers(line): line for line in reversed(found)}.values()][::-1]

    @property
    def notes(self) -> list[str]:
        """Where transformers disagrees with itself."""
        return [*dict.fromkeys(cell.note for cell in self.cells.values() if cell.note)]

    def has(self, word: str) -> bool:
        """Whether anything was `refused` or `died`."""
        return any(failure.startswith(word) for failure in self.failures)


def compare(family: Family, folder: Path) -> Row:
    """Build a family in a folder and compare the harness with naive loops."""
    begun = time.perf_counter()
    row = Row(family)
    quiet()
    build(family, folder)
    with _notices(row.notices):
        checkpoint: list[Checkpoint] = []
        failed = _failure(lambda: checkpoint.append(_load(family, folder)))
        if failed:
            row.cells = {kind: Cell(failed=failed) for kind in questions.KINDS}
            row.plan = failed
        else:
            _ask_all(row, checkpoint[0], Referee(folder, checkpoint[0].identity.context))
    row.seconds = time.perf_counter() - begun
    return row


def quiet() -> None:
    """Keep transformers' bars and advice off the terminal."""
    from transformers.utils import logging as advice

    advice.set_verbosity_error()
    advice.disable_progress_bar()


def _load(family: Family, folder: Path) -> Checkpoint:
    found = load(str(folder), Settings(device="cpu", context=family.context))
    Engine(found)  # tries whether the model is causal
    return found


def _ask_all(row: Row, checkpoint: Checkpoint, referee: Referee) -> None:
    asked = {
        "score": questions.score(),
        "next word": questions.next_word(_favourites(referee)),
        "choices": questions.choices(),
        "text": questions.text(referee.context),
        "generation": questions.generation(),
    }
    for kind, requests in asked.items():
        row.cells[kind] = _ask(row, checkpoint, referee, requests)
    row.plan = _plan(checkpoint, [r for requests in asked.values() for r in requests])


def _favourites(referee: Referee) -> dict[str, frozenset[str]]:
    """Passage -> the two best words after it, so that passing them over matters."""
    found = dict.fromkeys(questions.passages(), frozenset[str]())
    for passage in found:
        for _ in range(2):
            try:
                best = referee.next_word(passage, found[passage]).word.lower()
            except Exception:  # longer than the model can take; requested all the same
                continue
            found[passage] |= {best}
    return found


def _ask(row: Row, checkpoint: Checkpoint, referee: Referee, requests: Sequence[Request]) -> Cell:
    """Answer requests with a fresh engine, and compare the answers with the referee's."""
    answers: dict[int, Response] = {}
    engine: list[Engine] = []

    def run() -> None:
        engine.append(Engine(checkpoint))
        answers.update(engine[0].answer(requests, engine[0].encode(requests, Encoding())))

    failed = _failure(run)
    if engine:
        shares = bool(engine[0].describe()["sharing"])
        row.shares = shares if row.shares is None else row.shares and shares
    if failed:
        return Cell(failed=failed)
    off: list[float] = []
    asked = enumerate(requests)
    if failed := _failure(lambda: off.extend(difference(referee, r, answers[i]) for i, r in asked)):
        return Cell(failed=f"died: the naive loop: {failed.removeprefix('died: ')}")
    cell = Cell(max(off), sum(not x <= TOLERANCE for x in off), len(off))
    if cell.wrong:
        cell.note = _note(referee, cell, requests, answers)
    return cell


def _note(
    referee: Referee, cell: Cell, requests: Sequence[Request], answers: Mapping[int, Response]
) -> str:
    """Where transformers contradicts itself on wrong answers; empty if the errors are ours."""
    if reason := itself.unsteady(referee):
        return f"transformers: {reason}"
    if (noise := itself.rounding(referee)) > cell.worst / 4:
        return f"transformers: float32 passes are off from float64 by {noise:.0e} nats"
    if not isinstance(requests[0], Generate):
        return ""
    try:
        off = [_from_cached(referee, r, answers[i]) for i, r in enumerate(requests)]
    except Exception as error:
        return f"transformers: generate dies: {_line(error)}"
    if max(off) <= TOLERANCE:
        return "transformers: cached steps differ from full passes, and ours equal the cached ones"
    return ""


def _from_cached(referee: Referee, request: Request, answer: Response) -> float:
    """How far an answer is from that of `model.generate`."""
    assert isinstance(request, Generate)
    assert isinstance(answer, Generated)
    prompt = referee.prompt(request.prompt, request.max_new_tokens)
    return _parted(answer, itself.generated(referee, prompt, request.max_new_tokens))


def difference(referee: Referee, request: Request, answer: Response) -> float:
    """How far an answer is from the referee's, in nats; infinite where it says something else."""
    if isinstance(request, Loglikelihood):
        assert isinstance(answer, Scored)
        return abs(answer.logprob - referee.loglikelihood(request.context, request.continuation))
    if isinstance(request, RollingLoglikelihood):
        assert isinstance(answer, Rolled)
        return abs(answer.logprob - referee.text([str(piece) for piece in request.pieces]))
    if isinstance(request, NextWord):
        assert isinstance(answer, Word)
        want = referee.next_word(request.context, request.skip)
        same = (answer.text, answer.skipped) == (want.word, want.skipped)
        return 0.0 if same or want.margin < TIE else math.inf
    assert isinstance(request, Generate)
    assert isinstance(answer, Generated)
    text = referee.generate(request.prompt, request.max_new_tokens)
    return _parted(answer, text)


def _parted(answer: Generated, text: Text) -> float:
    """How far a text is from another, in nats up to a tie; infinite where tokens differ."""
    pairs = zip(answer.tokens, text.tokens, strict=False)
    parted = next((k for k, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
    if parted is not None and text.margins[parted] >= TIE:
        return math.inf
    if parted is None and len(answer.tokens) != len(text.tokens):
        return math.inf
    until = len(text.tokens) if parted is None else parted
    return abs(math.fsum(answer.logprobs[:until]) - math.fsum(text.logprobs[:until]))


def _plan(checkpoint: Checkpoint, requests: Sequence[Request]) -> str:
    """Whether `--plan` works, and foretells the very tokens of short runs."""
    short = questions.score()
    said: list[str] = []

    def run() -> None:
        engine = Engine(checkpoint)
        engine.estimate(requests, engine.encode(requests, Encoding()))
        encoded = engine.encode(short, Encoding())
        foretold = engine.estimate(short, encoded).computed
        for _ in engine.answer(short, encoded):
            pass
        fed = engine.tokens.computed
        said.append("ok" if foretold == fed else f"{foretold} tokens foretold, {fed} fed")

    return _failure(run) or said[0]


def _failure(action: Callable[[], Any]) -> str:
    """Why an action failed, in one line that begins with `refused` or `died`; else nothing."""
    try:
        action()
    except HarnessError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"died: {_line(error)}"
    return ""


def _line(error: Exception) -> str:
    """An error's kind and its first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "", line)


@contextmanager
def _notices(found: list[str]) -> Iterator[None]:
    """Collect what the harness logs, lines that differ in their numbers alone once."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            known = {_without_numbers(line) for line in found}
            if _without_numbers(line := record.getMessage()) not in known:
                found.append(line)

    handler, log = Collector(logging.WARNING), logging.getLogger("harness")
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
