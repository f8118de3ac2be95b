"""Natural Questions, open form: short answers. Kwiatkowski et al. 2019; Lee et al. 2019.

Radford et al. 2019, section 3.8: example pairs of question and answer show the short style; exact
match as in SQuAD; 4.1 % for the largest model, 63.1 % on the 1 % of answers it is most confident
in. It gives neither prompts nor examples. NQ-open is the part with short answers, 3,610 questions.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.core import (
    Example,
    Fields,
    Generate,
    Generated,
    Hub,
    Loglikelihood,
    Pool,
    Request,
    Response,
    Row,
    Source,
)
from harness.data.parsers import is_text, json_lines
from harness.errors import DataError
from harness.metrics import ACCURACY, Outcome, calibration, mean, selective_accuracy
from harness.metrics.exact_match import exact_match, normalise_answer
from harness.metrics.extract import generated, scored
from harness.prompt import Prompt
from harness.task import FewShot, Measure, Option, Options, Step, Task, per_row

from .shared.few_shot import draw
from .shared.options import BOS

COVERAGE = 0.01  # Radford et al. 2019, section 3.8
QUESTION_WORDS = ("who", "when", "where", "what", "which", "how", "why")
BASELINE = "question-word"


def parse(data: bytes) -> list[Fields]:
    """Read one JSON object per line: a question and the list of its answers.

        {"question": "where does the river danube reach the sea", "answer": ["the Black Sea", ...]}

    Raises:
        DataError: a question has no answer.
    """
    rows = json_lines(data, required=("question",))
    for number, row in enumerate(rows, 1):
        answers = row.get("answer")
        if not isinstance(answers, list) or not answers or not all(map(_is_answer, answers)):
            raise DataError(
                f"row {number}: expected a list of answers to {row['question'][:60]!r}, "
                f"got {str(answers)[:40]}"
            )
    return rows


def _is_answer(answer: object) -> bool:
    return is_text(answer) and bool(str(answer).strip())


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> JSON lines."""
    kept = ({"question": row["question"], "answer": list(row["answer"])} for row in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()


def nq_open(split: str, rows: int, sha256: str, hub: str) -> Source:
    """One split of NQ-open."""
    return Source(
        title=f"NQ-open, {split} questions",
        files=(f"NQ-open.{split}.jsonl",),
        parse=parse,
        sample=f"samples/NQ-open.{split}.sample.jsonl",
        origin="https://github.com/google-research-datasets/natural-questions/tree/master/nq_open",
        sha256=(sha256,),
        rows=rows,
        hub=Hub(
            "google-research-datasets/nq_open",
            f"nq_open/{hub}-00000-of-00001.parquet",
            "5dd9790a83002ad084ddeb7c420dc716852c6f28",
            restore=restore,
        ),
    )


DEV = nq_open(
    "dev", 3610, "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616", "validation"
)
TRAIN = nq_open(
    "train", 87_925, "0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf", "train"
)


def cased(question: str, options: Options) -> str:
    """The question as it stands in the prompt; `case=sentence` adds a capital and a `?`."""
    if options["case"] == "raw":
        return question
    return f"{question[:1].upper()}{question[1:].removesuffix('?')}?"


def examples(pool: Pool, options: Options) -> Fields:
    """`examples`, the pairs as text, and `guesses` if the pool is a real training set."""
    template = prompt(options)
    pairs = [
        template.render(examples="", question=cased(row.fields["question"], options))
        + f" {row.fields['answer'][0]}\n"
        for row in draw(pool.rows, int(options["shots"]), seed=0)
    ]
    return {"examples": "".join(pairs), "guesses": None if pool.sample else guesses(pool.rows)}


def question_word(question: str) -> str:
    """The first of the usual question words in the question; empty if there is none."""
    return next((word for word in question.lower().split() if word in QUESTION_WORDS), "")


def guesses(rows: Sequence[Row]) -> dict[str, str]:
    """Question word -> the most frequent first answer to questions with that word."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        word = question_word(row.fields["question"])
        counts.setdefault(word, Counter())[row.fields["answer"][0]] += 1
    return {word: answers.most_common(1)[0][0] for word, answers in counts.items()}


def read_row(row: Row, options: Options) -> Example:
    """A question and its references."""
    question = row.fields["question"]
    fields = {"question": cased(question, options), "word": question_word(question)}
    return Example(str(row.number), fields, tuple(row.fields["answer"]))


def prompt(options: Options) -> Prompt:
    """The example pairs and the question."""
    return Prompt.load("nq.txt" if options["style"] == "qa" else "nq-plain.txt")


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One greedy answer; `gold=on` adds the probability of each reference in its place."""
    text = prompt.render(examples=example.fields["examples"], question=example.fields["question"])
    requests: list[Request] = [Generate((text,), int(options["max_new"]), stop=("\n",))]
    if options["gold"] == "on":
        references = dict.fromkeys(reference.strip() for reference in example.references)
        requests += [Loglikelihood(text, f" {reference}") for reference in references]
    return requests


def answer(response: Generated) -> str:
    """The text without a final full stop."""
    return response.text.strip().removesuffix(".").strip()


def matching(text: str, references: Sequence[str]) -> list[str]:
    """The references that equal the text after normalising; an empty text matches none."""
    return [reference for reference in references if text and exact_match(text, reference)]


def confidence(response: Generated, options: Options) -> float:
    """Probability of the answer's tokens: their product, or their geometric mean.

    The confidence in an empty answer is 0, although the empty product is 1.
    """
    if not answer(response):
        return 0.0
    count = None if options["conf_newline"] == "on" else response.num_tokens
    logprobs = response.logprobs[:count]
    total = sum(logprobs)
    if options["conf"] == "mean-logprob":
        total /= max(len(logprobs), 1)
    return math.exp(total)


def _gold_steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
    references = dict.fromkeys(reference.strip() for reference in example.references)
    for reference, response in zip(references, responses[1:], strict=True):
        yield f"log-probability of {reference!r}", scored(response).logprob


def _guessed(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    by_word = example.fields["guesses"]
    if by_word is None:
        return []
    guess = by_word.get(example.fields["word"], "")
    return [(float(bool(matching(guess, example.references))), 1.0)]


def _em_steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
    text = answer(generated(responses[0]))
    yield "answer", text
    yield "normalised", normalise_answer(text)
    yield "references, normalised", [normalise_answer(r) for r in example.references]
    yield "matching references", matching(text, example.references)


GOLD_NATS = Measure(
    "nats",
    mean("nats", higher_is_better=False),
    lambda example, responses: [(-max(scored(r).logprob for r in responses[1:]), 1.0)],
    ("nats", "questions"),
    "mean surprisal of the most probable reference, without the line end",
    steps=_gold_steps,
)


def measures(options: Options) -> tuple[Measure, ...]:
    """Exact match, exact match on the most confident answers, calibration, and a baseline.

    With `gold=on` also how probable the references are.
    """

    def em(example: Example, responses: Sequence[Response]) -> float:
        return float(bool(matching(answer(generated(responses[0])), example.references)))

    def confidence_and_em(example: Example, responses: Sequence[Response]) -> tuple[float, float]:
        return confidence(generated(responses[0]), options), em(example, responses)

    def confidence_steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
        response = generated(responses[0])
        yield "log-probability of each token", response.logprobs
        yield "tokens of the answer", response.num_tokens
        yield "confidence", confidence(response, options)
        yield from _em_steps(example, responses)

    return (
        Measure(
            "em",
            ACCURACY,
            lambda example, responses: [(em(example, responses), 1.0)],
            ("em", "questions"),
            "exact match with any reference after normalising",
            column="NQ EM",
            steps=_em_steps,
        ),
        Measure(
            "em-top-1%",
            selective_accuracy(COVERAGE),
            lambda example, responses: [(*confidence_and_em(example, responses), 1.0)],
            ("confidence", "em", "questions"),
            "exact match on the 1 % of answers that the model is most confident in",
            column="NQ EM TOP 1%",
            steps=confidence_steps,
        ),
        Measure(
            "calibration-error",
            calibration.CALIBRATION_ERROR,
            lambda example, responses: [
                calibration.outcome(*confidence_and_em(example, responses))
            ],
            (*calibration.STATISTICS, "questions"),
            "mean distance between confidence and accuracy over ten bins",
            steps=confidence_steps,
        ),
        *([GOLD_NATS] if options["gold"] == "on" else []),
        Measure(
            f"{BASELINE} em",
            ACCURACY,
            _guessed,
            ("guessed", "questions"),
            "the most frequent training answer to the question word, without a model",
            optional=True,
            baseline=BASELINE,
        ),
    )


TASK = Task(
    name="nq",
    version=2,
    title="Natural Questions: short answers from memory",
    description=(
        "The model reads example questions with answers, then a question, and answers greedily. "
        "Scored by exact match with any reference; the confidence is the probability of the answer."
    ),
    source=lambda options: DEV,
    read=per_row(read_row),
    prompt=prompt,
    ask=ask,
    few_shot=FewShot(lambda options: TRAIN, examples),
    measures=measures,
    options=(
        Option("shots", "5", ("0", "<n>"), "number of example questions"),
        Option("style", "qa", ("qa", "plain"), "Q: and A: on lines of their own, or question = "
               "answer"),
        Option("case", "sentence", ("sentence", "raw"), "questions with a capital and a question "
               "mark, or as in the file"),
        Option("max_new", "16", ("<n>",), "maximum number of new tokens"),
        Option("conf", "product", ("product", "mean-logprob"), "confidence: the product of the "
               "tokens' probabilities, or their geometric mean"),
        Option("conf_newline", "off", ("off", "on"), "whether the line end counts as a token of "
               "the answer"),
        Option("gold", "off", ("off", "on"), "whether the references are scored as well: `nats`, "
               "the surprisal of the most probable one"),
        BOS,
    ),
    protocols={"paper": {}, "gold": {"gold": "on"}},
)  # fmt: skip
