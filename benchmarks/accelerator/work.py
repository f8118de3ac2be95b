"""Requests: all tasks on their built-in samples, and made-up ones of the sizes of Table 3."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.accelerator import checkout
from benchmarks.accelerator.models import sample_lines
from harness.core import (
    Encoding,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    RollingLoglikelihood,
)
from harness.data import load as data
from harness.engine.engine import Engine
from harness.runner import Job, prepare
from harness.task import encoding

SAMPLE = data.Where(sample=True)
PLAIN = Encoding(bos="eot")
COUNTS = {"lambada": 5153, "choices": 200, "text": 280, "coqa": 10}
"""Passages, questions of ten options, windows of running text, stories of 12 turns."""
_FEWEST = 4


@dataclass(frozen=True)
class Work:
    """Requests of one kind."""

    name: str
    asked: Sequence[Request]
    encoding: Encoding = PLAIN

    def part(self, every: int) -> "Work":
        """One request in so many."""
        return replace(self, asked=self.asked[::every])


def run(engine: Engine, work: Work) -> list[Response]:
    """Encode and answer everything, as a run does."""
    encoded = engine.encode(work.asked, work.encoding)
    return [response for _, response in sorted(engine.answer(work.asked, encoded), key=_index)]


def _index(pair: tuple[int, Response]) -> int:
    return pair[0]


def samples(limit: int, max_new_tokens: int) -> list[Work]:
    """The requests of every task for `limit` rows of its built-in sample, with short texts."""
    found: list[Work] = []
    for name, task in checkout.tasks().items():
        protocol = task.protocol("paper", {})
        options = protocol.options
        few = task.few_shot
        rows = data.load(task.source(options), SAMPLE)
        pool = data.load_pool(few.source(options), SAMPLE) if few else None
        job = Job(task, protocol, rows, limit=limit, pool=pool)
        asked = [_shortened(request, max_new_tokens) for request in prepare(job).requests]
        found.append(Work(name, asked, encoding(options)))
    return found


def _shortened(request: Request, max_new_tokens: int) -> Request:
    if not isinstance(request, Generate):
        return request
    return replace(request, max_new_tokens=min(max_new_tokens, request.max_new_tokens))


def table3(divisor: int = 1) -> list[Work]:
    """The kinds of work in Table 3, and conversations, each a `divisor`-th as large."""
    makers: dict[str, Callable[[int], list[Request]]] = {
        "lambada": _passages,
        "choices": _choices,
        "text": _text,
        "coqa": _conversations,
    }
    return [
        Work(name, make(max(_FEWEST, COUNTS[name] // divisor))) for name, make in makers.items()
    ]


def _prose(words: int, seed: int) -> str:
    """Words of the built-in samples in random order."""
    return " ".join(random.Random(seed).choices(_words(), k=words))


def _words() -> list[str]:
    return [word for line in sample_lines() for word in line.split() if word.isalpha()]


def _passages(count: int) -> list[Request]:
    """Passages of 40 to 100 words, the last of which is scored, and the best word there."""
    skip = frozenset({"the", "a", "of"})
    found: list[Request] = []
    for i in range(count):
        context = _prose(40 + i * 37 % 60, seed=i)
        found += [Loglikelihood(context, " water"), NextWord(context, skip)]
    return found


def _choices(count: int) -> list[Request]:
    """Contexts of 400 words with ten ends of six words."""
    found: list[Request] = []
    for i in range(count):
        context = _prose(400, seed=i)
        found += [Loglikelihood(context, " " + _prose(6, seed=100 * i + k)) for k in range(10)]
    return found


def _text(count: int) -> list[Request]:
    """Running text of about `count` windows."""
    return [RollingLoglikelihood(tuple(_prose(16, seed=i) + "\n" for i in range(50 * count)))]


def _conversations(count: int) -> list[Request]:
    """Stories of 250 words, about which twelve questions are asked one after the other."""
    found: list[Request] = []
    for i in range(count):
        text = _prose(250, seed=i) + "\n"
        for turn in range(12):
            text += f"Q: {_prose(6, seed=100 * i + turn)}\nA:"
            found.append(Generate((text,), 16, stop=("\n",)))
            text += " " + _prose(3, seed=turn) + "\n"
    return found
