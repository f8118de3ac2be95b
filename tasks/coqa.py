"""CoQA: questions about a story, one after the other. Reddy et al. 2019, arXiv:1808.07042.

Radford et al. 2019, section 3.5: the model reads the story, the conversation so far and a last
`A:`, and decodes greedily; 55 F1 on the development set. What ends an answer, what separates
the parts and what gives way beyond the context is not said: options here. Scores follow the
official script, CoQA's evaluate-v1.0.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.core import Example, Fields, Generate, Generated, Hub, Request, Response, Row, Source
from harness.data.parsers import decode, is_text, json_value
from harness.errors import DataError
from harness.files import strict_json
from harness.metrics import MEAN, Outcome
from harness.metrics.exact_match import exact_match, f1, leave_one_out, max_over_references
from harness.metrics.extract import generated
from harness.metrics.rouge import sentences
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row

DOMAINS = {
    "mctest": "children_stories",
    "gutenberg": "literature",
    "race": "mid-high_school",
    "cnn": "news",
    "wikipedia": "wikipedia",
}
"""Where a story comes from -> the official script's name for it."""


def parse(data: bytes) -> list[Fields]:
    """Stories of the official file, or one JSON object a line with `questions` and `answers`.

    Raises:
        DataError: a story has no question, no answer to one, or no text; names it.
    """
    text = decode(data)
    try:
        whole = strict_json.loads(text)
    except ValueError as error:
        return _one_per_line(text, f"; as one JSON file: {error}")
    if not isinstance(whole, Mapping) or "data" not in whole:
        return _one_per_line(text)
    if not isinstance(whole["data"], list):
        raise DataError(f"expected a list of stories under 'data', got {str(whole['data'])[:40]}")
    return [_story(number, story, _turns) for number, story in enumerate(whole["data"], 1)]


def _one_per_line(text: str, why: str = "") -> list[Fields]:
    """Stories as one JSON object per line; `why` says why the file is not one JSON value."""
    expected = f"CoQA's JSON file, or a JSON object per line{why}"
    values = [
        json_value(line, f"line {number}", expected)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    return [_story(number, story, _texts) for number, story in enumerate(values, 1)]


def _story(number: int, story: object, texts: Callable[[object], tuple[str, ...]]) -> Fields:
    """The fields of a story whose questions and answers are read by `texts`."""
    try:
        assert isinstance(story, Mapping)
        sets = [story["answers"], *dict(story.get("additional_answers") or {}).values()]
        questions = texts(story["questions"])
        answers = [texts(answers) for answers in sets]
        source, text = story["source"], story["story"]
        assert is_text(source)
        assert is_text(text)
        assert text.strip()
    except (AssertionError, KeyError, TypeError, ValueError):
        raise DataError(
            f"story {number}: expected an object with source, story, questions and answers"
        ) from None
    if not questions or any(len(answers_) != len(questions) for answers_ in answers):
        counts = ", ".join(str(len(answers_)) for answers_ in answers)
        raise DataError(
            f"story {number}: expected an answer to every question, got {len(questions)} "
            f"questions and {counts} answers"
        )
    return {
        "source": source,
        "story": text,
        "questions": questions,
        "references": tuple(zip(*answers, strict=True)),
    }


def _turns(turns: object) -> tuple[str, ...]:
    """The texts of the official file's turns: objects that are numbered from 1."""
    assert isinstance(turns, list)
    assert [turn["turn_id"] for turn in turns] == list(range(1, len(turns) + 1))
    return _texts([turn["input_text"] for turn in turns])


def _texts(turns: object) -> tuple[str, ...]:
    """The turns' texts: plain strings, or the hub's object of lists."""
    if isinstance(turns, Mapping):
        turns = turns["input_text"]
    assert isinstance(turns, list)
    assert all(map(is_text, turns))
    return tuple(turns)


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> one JSON object a line."""
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
    """The story, its questions, and all references of each that is asked."""
    fields = row.fields
    references = [tuple(turn) for turn in fields["references"]]
    if options["duplicates"] == "drop":
        references = [_distinct(turn) for turn in references]
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


def _distinct(references: Sequence[str]) -> tuple[str, ...]:
    """References without those that another one equals but for case."""
    kept: dict[str, str] = {}
    for reference in references:
        kept.setdefault(reference.lower(), reference)
    return tuple(kept.values())


def prompt(options: Options) -> Prompt:
    """One question."""
    del options
    return Prompt.load("coqa.txt")


def request(
    example: Example, answers: Sequence[str], turn: int, prompt: Prompt, options: Options
) -> Generate:
    """Question `turn` after the story and the turns before it, answered by `answers`."""
    between = "\n\n" if options["between"] == "blank" else "\n"
    questions = [
        prompt.render(question=question).removesuffix("\nA:") + f"{between}A:"
        for question in example.fields["questions"][: turn + 1]
    ]
    history = [f"{q} {a}{between}" for q, a in zip(questions[:-1], answers, strict=True)]
    if options["history"] == "none":
        history = []
    opening = example.fields["story"] + ("\n\n" if options["sep"] == "blank" else "\n")
    return Generate(
        (opening, *history, questions[-1]),
        int(options["max_new"]),
        stop=("\n",) if options["stop"] == "newline" else ("\nQ:",),
        overflow="turns" if options["overflow"] == "turns" else "left",
    )


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """A request a turn; with the model's own answers as history, the first one only."""
    count = len(example.fields["questions"])
    turns = range(count) if options["turns"] == "all" else [count - 1]
    if options["history"] == "model":
        turns = range(1)
    gold = example.fields["gold"]
    return [request(example, gold[:turn], turn, prompt, options) for turn in turns]


def follow(
    example: Example, responses: Sequence[Response], prompt: Prompt, options: Options
) -> list[Request]:
    """The next turn after the model's own answers; none where history is gold."""
    turn = len(responses)
    if options["history"] != "model" or turn == len(example.fields["questions"]):
        return []
    said = [answer(generated(response), options) for response in responses]
    return [request(example, said, turn, prompt, options)]


def answer(response: Generated, options: Options) -> str:
    """What counts as the answer: the first line, or its first sentence."""
    text = response.text.strip().split("\n")[0].strip()
    return next(iter(sentences(text)), "") if options["cut"] == "sentence" else text


def measures(options: Options) -> tuple[Measure, ...]:
    """F1 and exact match over all turns, and F1 a domain; sums over a story are one outcome."""
    over = max_over_references if options["several"] == "best" else leave_one_out

    def scored(compare_: str, domain: str | None = None):  # type: ignore[no-untyped-def]
        compare = f1 if compare_ == "f1" else exact_match

        def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
            if domain not in (None, example.fields["domain"]):
                return []
            references = example.fields["references"]
            asked = responses[len(responses) - len(references) :]
            found = [
                over(compare, answer(generated(response), options), turn)
                for response, turn in zip(asked, references, strict=True)
            ]
            return [(sum(found), float(len(found)))]

        return extract

    return (
        Measure("f1", MEAN, scored("f1"), ("f1", "turns"), "F1 over words", column="CoQA F1"),
        Measure("em", MEAN, scored("em"), ("em", "turns"), "exact match after normalising"),
        *(
            Measure(
                f"f1 {domain}",
                MEAN,
                scored("f1", domain),
                ("f1", "turns"),
                f"F1 on {domain} alone",
                optional=True,
            )
            for domain in DOMAINS.values()
        ),
    )


def notes(examples: Sequence[Example], options: Options) -> dict[str, float | str]:
    """How many references the turns have, and what is made of several."""
    counts = [len(turn) for example in examples for turn in example.fields["references"]]
    several = "leave-one-out" if options["several"] == "leave-one-out" else "the best of them"
    how = several if max(counts) > 1 else "one reference, compared with directly"
    return {
        "turns": float(len(counts)),
        "references a turn": sum(counts) / len(counts),
        "several references": how,
    }


TASK = Task(
    name="coqa",
    version=1,
    title="CoQA: a conversation about a story",
    description=(
        "The model reads a story and the conversation so far, with the answers of people, and "
        "answers the next question greedily. F1 and exact match as in the official script. "
        "--limit counts stories."
    ),
    source=lambda options: SOURCE,
    read=per_row(read_row),
    prompt=prompt,
    ask=ask,
    follow=follow,
    measures=measures,
    notes=notes,
    options=(
        Option("sep", "newline", ("newline", "blank"), "between story and conversation"),
        Option("between", "newline", ("newline", "blank"), "between the lines of the conversation"),
        Option("history", "gold", ("gold", "model", "none"), "answers shown for the turns before: "
               "those of people, the model's own (turn after turn), or no turns at all"),
        Option("turns", "all", ("all", "last"), "which turns are asked"),
        Option("max_new", "32", ("<n>",), "new tokens at most"),
        Option("stop", "newline", ("newline", "question"), "what ends an answer: a line break, or "
               "a line that opens with Q:"),
        Option("cut", "newline", ("newline", "sentence"), "what counts of it: the first line, or "
               "its first sentence"),
        Option("overflow", "turns", ("turns", "left"), "what gives way beyond the context: the "
               "oldest turns and then the story's beginning, or simply the beginning"),
        Option("several", "leave-one-out", ("leave-one-out", "best"), "several references: the "
               "official mean over leaving each out, or the best of them"),
        Option("duplicates", "keep", ("keep", "drop"), "references that differ in case only"),
        Option("bos", "auto", ("auto", "eot", "tokenizer", "none"), "start token before the story"),
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
