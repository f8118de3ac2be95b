"""CoQA: questions about a story, one after the other. Reddy et al. 2019, arXiv:1808.07042.

Radford et al. 2019, section 3.5: the model reads the story, the conversation so far and a final
`A:`, and decodes greedily; 55 F1 on the development set. The paper leaves open what ends an answer,
what separates the parts and what is dropped beyond the context; these are options here. Scores
follow the official script, CoQA's evaluate-v1.0.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from harness.core import Example, Fields, Generate, Generated, Hub, Request, Response, Row, Source
from harness.data.parsers import decode, is_text, json_value
from harness.errors import DataError
from harness.files import strict_json
from harness.metrics import MEAN, Outcome
from harness.metrics.exact_match import (
    Compare,
    exact_match,
    f1,
    leave_one_out_mean,
    normalise_answer,
)
from harness.metrics.extract import generated
from harness.metrics.rouge import sentences
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Step, Task, per_row

from .shared.options import BOS

DOMAINS = {
    "mctest": "children_stories",
    "gutenberg": "literature",
    "race": "mid-high_school",
    "cnn": "news",
    "wikipedia": "wikipedia",
}
"""The source of a story -> the official script's name for it."""
LINE_BREAKS = {"newline": "\n", "blank": "\n\n"}


def parse(data: bytes) -> list[Fields]:
    """Read the official file, or one JSON object per line.

    The official file: {"data": [{"source": "mctest", "story": "Once upon a time, in a barn ...",
    "questions": [{"turn_id": 1, "input_text": "What color was Cotton?"}, ...], "answers": [...],
    "additional_answers": {"0": [...], "1": [...], "2": [...]}}, ...]}

    Raises:
        DataError: a story has no text, no question, or a question without an answer.
    """
    text = decode(data)
    try:
        file, reason = strict_json.loads(text), ""
    except ValueError as error:
        file, reason = None, f"; as one JSON file: {error}"
    official = isinstance(file, Mapping) and "data" in file
    if official:
        stories = file["data"]
        if not isinstance(stories, list):
            raise DataError(f"expected a list of stories under 'data', got {str(stories)[:40]}")
    else:
        expected = f"CoQA's JSON file, or a JSON object per line{reason}"
        stories = [
            json_value(line, f"line {number}", expected)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    return [_story(number, story, official) for number, story in enumerate(stories, 1)]


def _story(number: int, story: object, official: bool) -> Fields:
    try:
        assert isinstance(story, Mapping)
        questions = _texts(story["questions"], official)
        others = dict(story.get("additional_answers") or {}).values()
        answers = [_texts(answer_set, official) for answer_set in (story["answers"], *others)]
        source, text = story["source"], story["story"]
        assert is_text(source, text, *questions, *chain.from_iterable(answers))
        assert text.strip()
    except (AssertionError, KeyError, TypeError, ValueError):
        raise DataError(
            f"story {number}: expected an object with source, story, questions and answers"
        ) from None
    counts = [len(answer_set) for answer_set in answers]
    if not questions or set(counts) != {len(questions)}:
        raise DataError(
            f"story {number}: expected an answer to every question, got {len(questions)} "
            f"questions and {', '.join(map(str, counts))} answers"
        )
    references = tuple(zip(*answers, strict=True))
    return {"source": source, "story": text, "questions": questions, "references": references}


def _texts(turns: object, official: bool) -> tuple[str, ...]:
    """The texts of turns: the official file's numbered objects, strings, or the hub's lists."""
    if isinstance(turns, Mapping) and not official:
        turns = turns["input_text"]
    assert isinstance(turns, list)
    if official:
        assert [turn["turn_id"] for turn in turns] == list(range(1, len(turns) + 1))
        turns = [turn["input_text"] for turn in turns]
    return tuple(turns)


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> one JSON object per line."""
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows).encode()


SOURCE = Source(
    title="CoQA development set",
    files=("coqa-dev-v1.0.json", "coqa-dev.*.jsonl", "coqa-dev*.json"),
    parse=parse,
    sample="samples/coqa-dev.sample.json",
    origin="https://nlp.stanford.edu/data/coqa/coqa-dev-v1.0.json",
    sha256=("dfa367a9733ce53222918d0231d9b3bedc2b8ee831a2845f62dfc70701f2540a",),
    rows=500,
    hub=Hub(
        "EleutherAI/coqa",
        "coqa_validation.parquet",
        "82e11af842af6c1396f5e9a5c7de260107c50cf1",
        restore=restore,
    ),
)


def read_row(row: Row, options: Options) -> Example:
    """A story with its questions and the references of every turn that is scored."""
    fields = row.fields
    references = [tuple(turn) for turn in fields["references"]]
    if options["duplicates"] == "drop":
        # Of references that differ in case only, the first stays.
        references = [tuple({r.lower(): r for r in turn[::-1]}.values()) for turn in references]
    first = 0 if options["turns"] == "all" else len(references) - 1
    return Example(
        str(row.number),
        {
            "story": fields["story"],
            "questions": fields["questions"],
            "gold": tuple(turn[0] for turn in fields["references"]),
            "references": tuple(references[first:]),
            "domain": DOMAINS.get(fields["source"], fields["source"]),
        },
    )


def prompt(options: Options) -> Prompt:
    """One turn up to its answer."""
    return Prompt.load("coqa-blank.txt" if options["between"] == "blank" else "coqa.txt")


def request(
    example: Example, answers: Sequence[str], turn: int, prompt: Prompt, options: Options
) -> Generate:
    """Ask question `turn` after the story and the earlier turns, answered by `answers`."""
    *earlier, last = (
        prompt.render(question=question) for question in example.fields["questions"][: turn + 1]
    )
    line_break = LINE_BREAKS[options["between"]]
    pairs = zip(earlier, answers, strict=True) if options["history"] != "none" else ()
    history = [f"{question} {answer_}{line_break}" for question, answer_ in pairs]
    return Generate(
        (example.fields["story"] + LINE_BREAKS[options["sep"]], *history, last),
        int(options["max_new"]),
        stop=("\n",) if options["stop"] == "newline" else ("\nQ:",),
        overflow="turns" if options["overflow"] == "turns" else "left",
    )


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request per turn, or the first turn only if the model's own answers are the history."""
    count = len(example.fields["questions"])
    turns = range(count) if options["turns"] == "all" else [count - 1]
    if options["history"] == "model":
        turns = range(1)
    gold = example.fields["gold"]
    return [request(example, gold[:turn], turn, prompt, options) for turn in turns]


def follow(
    example: Example, responses: Sequence[Response], prompt: Prompt, options: Options
) -> list[Request]:
    """The next turn, if the model's own answers are the history."""
    turn = len(responses)
    if options["history"] != "model" or turn == len(example.fields["questions"]):
        return []
    answers = [answer(generated(response), options) for response in responses]
    return [request(example, answers, turn, prompt, options)]


def answer(response: Generated, options: Options) -> str:
    """The answer that is scored: the first line, or its first sentence."""
    text = response.text.strip().split("\n")[0].strip()
    return next(iter(sentences(text)), "") if options["cut"] == "sentence" else text


def _scores(
    example: Example, responses: Sequence[Response], compare: Compare, options: Options
) -> list[tuple[str, list[float]]]:
    """The answer of every scored turn, and its scores with each reference."""
    turns = example.fields["references"]
    answers = [answer(generated(response), options) for response in responses[-len(turns) :]]
    return [(a, [compare(a, ref) for ref in refs]) for a, refs in zip(answers, turns, strict=True)]


def _measure(
    name: str, compare: Compare, options: Options, domain: str | None = None, **fields: Any
) -> Measure:
    """The mean score over turns; the turns of one story are summed into one outcome."""
    combine = max if options["several"] == "best" else leave_one_out_mean

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        if domain not in (None, example.fields["domain"]):
            return []
        scores = [combine(s) for _, s in _scores(example, responses, compare, options)]
        return [(sum(scores), float(len(scores)))]

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
        for number, (text, scores) in enumerate(_scores(example, responses, compare, options), 1):
            yield f"scored turn {number}: answer", text
            yield f"scored turn {number}: normalised", normalise_answer(text)
            yield f"scored turn {number}: {name} with each reference", scores
            yield f"scored turn {number}: {name}, {options['several']}", combine(scores)

    fields["steps"] = None if domain else steps
    return Measure(f"{name} {domain}" if domain else name, MEAN, extract, (name, "turns"), **fields)


def measures(options: Options) -> tuple[Measure, ...]:
    """F1 and exact match over all turns, and F1 per domain."""
    return (
        _measure("f1", f1, options, help="F1 over words", column="CoQA F1"),
        _measure("em", exact_match, options, help="exact match after normalising"),
        *(
            _measure("f1", f1, options, domain, help=f"F1 on {domain} alone", optional=True)
            for domain in DOMAINS.values()
        ),
    )


def notes(examples: Sequence[Example], options: Options) -> dict[str, float | str]:
    """The number of references per turn, and how several are combined."""
    counts = [len(turn) for example in examples for turn in example.fields["references"]]
    how = "the best of them" if options["several"] == "best" else "leave-one-out"
    return {
        "turns": float(len(counts)),
        "references a turn": sum(counts) / len(counts),
        "several references": how if max(counts) > 1 else "one reference, compared with directly",
    }


TASK = Task(
    name="coqa",
    version=1,
    title="CoQA: a conversation about a story",
    description=(
        "The model reads a story and the conversation so far, with reference answers, and answers "
        "the next question greedily. F1 and exact match follow the official script. --limit counts "
        "stories."
    ),
    source=lambda options: SOURCE,
    read=per_row(read_row),
    prompt=prompt,
    ask=ask,
    follow=follow,
    measures=measures,
    notes=notes,
    options=(
        Option("sep", "newline", ("newline", "blank"), "what separates story and conversation: a "
               "line break or a blank line"),
        Option("between", "newline", ("newline", "blank"), "what separates the lines of the "
               "conversation"),
        Option("history", "gold", ("gold", "model", "none"), "answers in the earlier turns: the "
               "reference answers, the model's own, or no earlier turns at all"),
        Option("turns", "all", ("all", "last"), "the turns that are scored"),
        Option("max_new", "32", ("<n>",), "maximum number of new tokens"),
        Option("stop", "newline", ("newline", "question"), "what ends an answer: a line break, or "
               "a line that starts with Q:"),
        Option("cut", "newline", ("newline", "sentence"), "what is scored: the first line, or its "
               "first sentence"),
        Option("overflow", "turns", ("turns", "left"), "what is dropped if the prompt exceeds the "
               "context: the oldest turns and then the beginning, or just the beginning"),
        Option("several", "leave-one-out", ("leave-one-out", "best"), "how several references are "
               "combined: the official leave-one-out mean, or the best"),
        Option("duplicates", "keep", ("keep", "drop"), "references that differ in case only"),
        BOS,
    ),
    protocols={
        "paper": {},
        "lm-eval": {
            "sep": "blank", "between": "blank", "turns": "last", "max_new": "256",
            "stop": "question", "overflow": "left", "duplicates": "drop", "bos": "tokenizer",
        },
        "model-history": {"history": "model"},
        "brief": {"sep": "blank", "max_new": "50"},
    },
)  # fmt: skip
