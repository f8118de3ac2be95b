"""What the benchmarks ask and how answers are counted: by hand, as properties, on real files."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2TokenizerFast

from harness.core import (
    Encoding,
    Example,
    Loglikelihood,
    NextWord,
    Response,
    Rolled,
    RollingLoglikelihood,
    Row,
    Scored,
    Word,
)
from harness.data.load import Data, Where, load, load_pool
from harness.data.subset import choose
from harness.engine.checkpoint import random_model as tiny_model
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoder
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import DataError, UsageError
from harness.metrics import Metric
from harness.metrics.extract import (
    all_greedy,
    best_choice,
    choice_margin,
    last_greedy,
    last_token_nats,
    piece_nats,
    right_choice_nats,
    same_word,
    strip_punctuation,
    target_nats,
    token_nats,
)
from harness.plugins.registry import load_task
from harness.runner import Job, Prepared, prepare
from harness.task import Option, Options, Protocol, Task, encoding
from harness.tasks import cbt, enwik8, lambada, wikitext
from harness.tasks.shared import running_text
from harness.text import DETOKENISERS

TASKS = [load_task(name) for name in (
    "lambada", "cbt-cn", "cbt-ne", "wikitext2", "wikitext103", "ptb", "enwik8", "text8", "lm1b",
    "coqa", "cnn-dm", "wmt14-en-fr", "wmt14-fr-en", "nq", "winograd",
)]  # fmt: skip
COLUMNS = {"lambada": 2, "cnn-dm": 4, "nq": 2}  # of the paper that a task fills, if not one
PRESETS = [
    pytest.param(task, preset, id=f"{task.name}-{preset}")
    for task in TASKS
    for preset in task.protocols
]


def rows_of(*texts: str, first: int = 0) -> list[Row]:
    return [Row(first + i, {"text": text}) for i, text in enumerate(texts)]


def resolved(task: str, preset: str = "paper", **overrides: str) -> Options:
    return load_task(task).protocol(preset, overrides).options


def examples(
    task: str, rows: Sequence[Row], preset: str = "paper", **overrides: str
) -> list[Example]:
    options = resolved(task, preset, **overrides)
    return list(load_task(task).read(rows, options))


def sample(task: Task, options: Options) -> Data:
    return load(task.source(options), Where(sample=True))


def asked_of_sample(task: Task, protocol: Protocol) -> Prepared:
    """What a task asks about its built-in rows, example pairs of the built-in pool included."""
    pool = None
    if task.few_shot:
        pool = load_pool(task.few_shot.source(protocol.options), Where(sample=True))
    return prepare(Job(task, protocol, sample(task, protocol.options), pool=pool))


# --- options and protocols ----------------------------------------------------------------


@pytest.mark.parametrize(("task", "preset"), PRESETS)
def test_every_preset_resolves_and_asks(task: Task, preset: str) -> None:
    protocol = task.protocol(preset)
    options = protocol.options
    assert protocol.label == preset
    assert set(options) == {option.name for option in task.options}
    assert {**options, **task.protocols[preset]} == options
    assert all(asked_of_sample(task, protocol).groups)
    columns = [m.column for m in task.measures(options) if m.column]
    assert len(columns) == COLUMNS.get(task.name, 1)


def seen(task: Task, **overrides: str) -> Any:
    """All of a protocol that can be seen from outside, on the built-in rows."""
    protocol = task.protocol("paper", overrides)
    options = protocol.options
    source = task.source(options)
    try:
        measures = [(m.name, m.column, m.metric.unit) for m in task.measures(options)]
    except UsageError as error:
        return str(error)
    groups = asked_of_sample(task, protocol).groups
    return source.title, source.sample, encoding(options), measures, groups


# What shows only in how answers are counted, or on rows that the samples do not have; each has
# a test of its own.
UNSEEN = {
    "norm", "boundary", "mode", "several", "duplicates", "stem", "tokenize", "cut", "conf",
    "conf_newline", ("lambada", "case"), ("enwik8", "split"), ("text8", "split"),
    ("winograd", "set"),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_option_does_something(task: Task) -> None:
    plain = seen(task)
    for option in task.options:
        if option.name in UNSEEN or (task.name, option.name) in UNSEEN:
            continue
        values = [v.replace("<n>", "7") for v in option.choices if v != option.default]
        for value in values:
            assert seen(task, **{option.name: value}) != plain, f"{option.name}={value}"


def test_labels() -> None:
    task = load_task("wikitext2")
    assert task.protocol("strided").label == "strided"
    assert task.protocol("paper", {"unit": "words", "stride": "0032"}).label == (
        "paper+stride=32+unit=words"
    )
    assert task.protocol("paper", {"stride": "context"}).label == "paper", (
        "the default is not a change"
    )
    assert task.protocol("paper", {"stride": "1024"}).label == "paper+stride=1024"
    # what a protocol chose can be set back
    assert task.protocol("strided", {"stride": "1024"}).label == "strided+stride=1024"
    assert task.protocol("strided", {"stride": "1024"}).options["stride"] == "1024"


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("papr", {}, "no protocol 'papr'; did you mean paper. .known: paper, strided, lm-eval, hf"),
        ("paper", {"strid": "1"}, "wikitext2 has no option 'strid'; did you mean stride or str"),
        (
            "paper",
            {"unit": "word"},
            "unit='word' is not allowed; choose from: words.eos, words, tok",
        ),
        (
            "paper",
            {"stride": "0"},
            "stride='0' is not allowed; choose from: context, a positive whole number",
        ),
        ("paper", {"stride": "-1"}, "stride='-1' is not allowed"),
        ("paper", {"stride": "9" * 5000}, "9' is not allowed"),
        ("paper", {"stride": "<n>"}, "stride='<n>' is not allowed"),
        ("paper", {"stride": "\u0663"}, "is not allowed"),  # a digit, but not one of ours
    ],
)
def test_what_is_not_allowed(preset: str, overrides: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_task("wikitext2").protocol(preset, overrides)


def test_options_name_their_values() -> None:
    option = Option("stride", "all", ("all", "<n>"), "")
    assert [option.check(v) for v in ("all", "7", "007")] == ["all", "7", "7"]
    with pytest.raises(UsageError, match="choose from: all, a positive whole number"):
        option.check("none")


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="acc=word-stopfilter needs a filter; set filter=word or"):
        lambada.measures(resolved("lambada", filter="off"))
    names = [m.name for m in lambada.measures(resolved("lambada", filter="off", acc="last-token"))]
    assert "acc-word-stopfilter" not in names
    wikitext2 = load_task("wikitext2")
    with pytest.raises(UsageError, match="join=hf joins lines, detok=megatron whole texts"):
        wikitext2.measures(resolved("wikitext2", join="hf", detok="megatron"))


def test_the_engine_gets_its_part() -> None:
    assert encoding(resolved("wikitext2", "hf")) == Encoding("none", None, "hf")
    assert encoding(resolved("wikitext2", "strided")) == Encoding("auto", 32, "plain")
    assert encoding({"stride": "1024"}) == Encoding("auto", 1024, "plain")
    assert encoding(resolved("lambada", "lm-eval")) == Encoding("tokenizer", None, "plain")


# --- windows of the context -----------------------------------------------------------------

STREAMS = ("wikitext2", "wikitext103", "ptb", "lm1b", "enwik8", "text8")


@pytest.fixture(scope="module")
def long_checkpoint() -> Checkpoint:
    """A tiny model of 2,048 positions, twice GPT-2's."""
    return tiny_model.checkpoint(2048)


def long_text(task: Task, **changes: str) -> tuple[RollingLoglikelihood, Options]:
    """A request of running text of about 5,000 tokens, one byte each, and its options."""
    protocol = task.protocol("paper", changes)
    data = load(task.source(protocol.options), Where(sample=True))
    [request] = prepare(Job(task, protocol, data)).requests[:1]
    assert isinstance(request, RollingLoglikelihood)
    pieces: Any = request.pieces * (5000 // sum(map(len, request.pieces)) + 1)
    return RollingLoglikelihood(pieces), protocol.options


@pytest.mark.parametrize("name", STREAMS)
def test_by_default_windows_are_disjoint_whatever_the_context(
    name: str, long_checkpoint: Checkpoint
) -> None:
    """Against a loop over transformers: window after window of the context's length."""
    request, options = long_text(load_task(name))
    engine = Engine(long_checkpoint)
    [encoded] = engine.encode([request], encoding(options))
    assert [len(span.inputs) for span in encoded.spans[:2]] == [2048, 2048]
    [(_, answer)] = engine.answer([request], [encoded])
    assert isinstance(answer, Rolled)

    whole: Any = type(request.pieces[0])().join(request.pieces)  # type: ignore[arg-type]
    text = whole if isinstance(whole, str) else whole.decode()
    tokenizer = long_checkpoint.tokenizer
    ids = [*tokenizer.start_tokens("auto"), *tokenizer.encode([text])[0]]
    total = 0.0
    for begin in range(0, len(ids) - 1, 2048):
        fed, targets = ids[begin : begin + 2048], ids[begin + 1 : begin + 2049]
        fed = fed[: len(targets)]
        with torch.no_grad():
            logits = long_checkpoint.model(torch.tensor([fed])).logits[0].float()
        taken = logits.log_softmax(-1)[range(len(targets)), targets]
        total += float(taken.double().sum())
    assert answer.num_tokens == len(ids) - 1
    assert answer.logprob == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "preset"),
    [(n, p) for n in STREAMS for p in load_task(n).protocols],
)
def test_presets_advance_by_the_context_or_by_what_they_say(name: str, preset: str) -> None:
    """lm-eval's rolls over the model's length, as does the guide's of transformers."""
    options = load_task(name).protocol(preset).options
    assert encoding(options).stride == (32 if preset == "strided" else None)


@pytest.mark.parametrize("preset", ["paper", "lm-eval", "hf"])
@pytest.mark.parametrize(("context", "disjoint"), [(1024, True), (512, True), (2048, False)])
def test_a_number_stays_a_number(
    preset: str, context: int, disjoint: bool, long_checkpoint: Checkpoint
) -> None:
    """1,024 tokens are the whole of a shorter context, and half of a longer one."""
    task = load_task("wikitext2")
    request, _ = long_text(task)
    encoder = Encoder(long_checkpoint.tokenizer, context)
    of_context, of_number = (
        encoder.encode([request], encoding(task.protocol(preset, changes).options))[0].spans
        for changes in ({}, {"stride": "1024"})
    )
    assert (of_context == of_number) == disjoint
    assert len(of_context) <= len(of_number)


# --- LAMBADA ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "changes", "context", "target"),
    [
        ("one two three", {}, "one two", " three"),
        (" “one” two ’s ", {}, '"one" two', " ’s"),
        ("“one” two", {"quotes": "off"}, "“one”", " two"),
        ("one\n\ntwo", {}, "one", "\n\ntwo"),
        ("one  two", {}, "one", "  two"),
        # what follows the last space, as lm-eval splits
        ("one two\nthree", {"boundary": "space"}, "one", " two\nthree"),
        ("one  two", {"boundary": "space"}, "one ", " two"),
    ],
)
def test_lambada_splits(text: str, changes: dict[str, str], context: str, target: str) -> None:
    [example] = examples("lambada", rows_of(text), **changes)
    assert (example.fields["context"], example.fields["target"]) == (context, target)
    assert example.references == (target.strip(),)


def test_lambada_needs_words() -> None:
    with pytest.raises(DataError, match="row 3: expected a passage of several words, got 'one'"):
        examples("lambada", rows_of("one", first=3))


def test_lambada_asks() -> None:
    [example] = examples("lambada", rows_of("The cat, she said: “No cat"))
    options = resolved("lambada", candidates="in-context", filter="first-token", stoplist="none")
    context = '\nThe cat, she said: "No'
    words = frozenset({"The", "cat", "she", "said", "No"})
    assert lambada.ask(example, lambada.prompt(options), options) == [
        Loglikelihood(context, " cat"),
        NextWord(context, frozenset(), words, "first-token"),
    ]
    plain = resolved("lambada", "lm-eval")
    [request] = lambada.ask(example, lambada.prompt(plain), plain)
    assert request == Loglikelihood('The cat, she said: "No', " cat")


def test_lambada_original_is_detokenised() -> None:
    [example] = examples("lambada", rows_of("`` no , '' he did n't say"), "original")
    assert example.fields == {"context": '"no," he didn\'t', "target": " say"}


@settings(max_examples=40)
@given(st.text(alphabet="ab \n“", min_size=3).map(str.strip).filter(lambda t: " " in t))
def test_lambada_under_lm_eval_is_lm_evals(text: str) -> None:
    """doc_to_text and doc_to_target of lm-eval's lambada_openai."""
    [example] = examples("lambada", rows_of(text), "lm-eval")
    *before, last = text.split(" ")
    assert (example.fields["context"], example.fields["target"]) == (" ".join(before), f" {last}")


def test_stop_lists() -> None:
    old, new = lambada.stop_words("nltk127"), lambada.stop_words("nltk179")
    assert (len(old), len(new), len(lambada.stop_words("none"))) == (127, 179, 0)
    assert all(re.fullmatch("[a-z']+", word) for word in old | new)
    assert {"the", "of", "s", "t", "don"} <= old
    assert {"don't", "you're"} <= new - old


# --- Children's Book Test -----------------------------------------------------------------


def question(query: str, choices: Sequence[str]) -> Row:
    fields = {"sentences": ("One .", "Two ."), "query": query, "answer": choices[0]}
    return Row(0, {**fields, "choices": tuple(choices)})


CHOICES = ("cats", "cows", "dogs", "goats", "hens", "lambs", "mules", "pigs", "rams", "wolves")


def asked(row: Row, **overrides: str) -> list[tuple[str, str]]:
    options = resolved("cbt-cn", **overrides)
    [example] = cbt.CBT_CN.read([row], options)
    requests = cbt.ask(example, cbt.prompt(options), options)
    return [(r.context, r.continuation) for r in requests if isinstance(r, Loglikelihood)]


@pytest.mark.parametrize(
    ("changes", "context", "continuation"),
    [
        ({}, 'One. Two. "My', " {}' tails!\" said he."),
        ({"score": "choice-only"}, 'One. Two. "My', " {}"),
        ({"score": "rest-only"}, 'One. Two. "My {}', "' tails!\" said he."),
        ({"detok": "off"}, "One . Two . `` My", " {} ' tails ! '' said he ."),
        ({"join": "newline"}, 'One.\nTwo.\n"My', " {}' tails!\" said he."),
        ({"context": "query-only"}, '"My', " {}' tails!\" said he."),
        ({"prompt": "lm-eval"}, 'Passage: One. Two.\nQuestion: "My', " {}' tails!\" said he."),
    ],
)
def test_cbt_by_hand(changes: dict[str, str], context: str, continuation: str) -> None:
    """All choices end in the same letter, which must stay with the choice."""
    row = question("`` My XXXXX ' tails ! '' said he .", CHOICES)
    expected = [(context.format(c), continuation.format(c)) for c in CHOICES]
    assert asked(row, **changes) == expected


def test_cbt_gap_at_either_end() -> None:
    first = asked(question("XXXXX ran .", CHOICES), context="query-only")
    assert first[:2] == [("", "cats ran."), ("", "cows ran.")]
    last = asked(question("He saw XXXXX", CHOICES), score="choice-only")
    assert last[0] == ("One. Two. He saw", " cats")


WORD = st.text(alphabet="ast", min_size=1, max_size=5)


@settings(max_examples=40)
@given(
    choices=st.lists(WORD, min_size=10, max_size=10, unique=True),
    before=st.lists(WORD, max_size=3),
    after=st.lists(WORD, min_size=1, max_size=3),
)
def test_cbt_parts(choices: list[str], before: list[str], after: list[str]) -> None:
    """Undetokenised and between spaces: context, choice and rest are what they look like."""
    row = question(" ".join([*before, "XXXXX", *after]), choices)
    head, tail = " ".join(["One . Two .", *before]), " " + " ".join(after)
    assert asked(row, detok="off") == [(head, f" {c}{tail}") for c in choices]
    whole = {"score": "choice-only", "detok": "off"}
    assert asked(row, **whole) == [(head, f" {c}") for c in choices]
    rest = {"score": "rest-only", "detok": "off"}
    assert asked(row, **rest) == [(f"{head} {c}", tail) for c in choices]


def check_cbt(rows: Sequence[Row]) -> None:
    """Context and continuation of each choice are the whole detokenised text, in two parts."""
    assert rows
    for row in rows:
        joint, choice, rest = (
            asked(row, score=score) for score in ("joint", "choice-only", "rest-only")
        )
        passage = " ".join(row.fields["sentences"])
        for c, word in enumerate(row.fields["choices"]):
            query = row.fields["query"].replace("XXXXX", word)
            whole = DETOKENISERS["cbt"].detokenise(f"{passage} {query}")
            assert "".join(joint[c]) == "".join(rest[c]) == whole
            assert choice[c][0] == joint[c][0]
            assert "".join(choice[c]) == rest[c][0]
            assert word.lower() in choice[c][1].lower()
            assert not joint[c][0][-1].isspace()
        assert len({context for context, _ in joint}) == 1, "shared, so computed once"
        assert len({continuation for _, continuation in rest}) == 1


def test_cbt_sample_adds_up() -> None:
    for task in (cbt.CBT_CN, cbt.CBT_NE):
        check_cbt(sample(task, task.protocol().options).rows[:4])


def test_cbt_norms() -> None:
    [example] = cbt.CBT_CN.read([question("a XXXXX é", CHOICES)], resolved("cbt-cn", detok="off"))
    assert cbt.norms("none", example) == [1.0] * 10
    assert cbt.norms("bytes", example) == [len(c) + 4 for c in CHOICES]  # 2 spaces, é has 2 bytes
    assert cbt.norms("tokens", example) == [0.0] * 10
    # cats: -6 nats in 3 tokens; cows: -5 in 2; all others hopeless
    answers: list[Response] = [Scored((-2.0,) * 3, (False,) * 3), Scored((-2.5,) * 2, (False,) * 2)]
    answers += [Scored((-90.0,), (False,))] * 8
    outcome = {
        norm: cbt.measures("", {"norm": norm})[0].extract(example, answers)
        for norm in ("none", "tokens", "bytes")
    }
    assert outcome == {"none": [(0.0, 1.0)], "tokens": [(1.0, 1.0)], "bytes": [(0.0, 1.0)]}


def test_cbt_nats_and_margin_by_hand() -> None:
    """The right one, cats, has -6 nats in 3 tokens; cows, the best of the others, -5 in 2."""
    [example] = cbt.CBT_CN.read([question("a XXXXX é", CHOICES)], resolved("cbt-cn", detok="off"))
    answers: list[Response] = [Scored((-2.0,) * 3, (False,) * 3), Scored((-2.5,) * 2, (False,) * 2)]
    answers += [Scored((-90.0,), (False,))] * 8
    found = {
        (norm, m.name): (*m.extract(example, answers)[0], m.metric.unit, m.metric.higher_is_better)
        for norm in ("none", "tokens", "bytes")
        for m in cbt.measures("", {"norm": norm})[1:]
        if isinstance(m.metric, Metric)
    }
    bytes_of_both = 8  # of " cats é" and " cows é"
    assert found == {
        ("none", "nats"): (6.0, 1.0, "nats", False),
        ("none", "margin"): (-1.0, 1.0, "nats", True),
        ("tokens", "nats"): (6.0, 1.0, "nats", False),
        ("tokens", "margin"): (0.5, 1.0, "nats per token", True),
        ("bytes", "nats"): (6.0, 1.0, "nats", False),
        ("bytes", "margin"): (-1 / bytes_of_both, 1.0, "nats per byte", True),
    }


# --- running text -------------------------------------------------------------------------


def pieces(task: str, rows: Sequence[Row], preset: str = "paper", **overrides: str) -> list[Any]:
    return [example.fields["pieces"] for example in examples(task, rows, preset, **overrides)]


def test_units_are_counted_on_the_original() -> None:
    rows = rows_of(" it did n't rise N % ", " ", " <unk> ", first=4)
    [example] = examples("ptb", rows, unk="drop")
    assert example.id == "4-6"
    assert example.fields["pieces"] == ("it didn't rise N %\n", "\n", "\n")
    assert example.fields["words"] == (6, 0, 1)
    assert example.fields["words+eos"] == (7, 1, 2)
    assert running_text.notes([example], {}) == {
        "texts": 1, "lines": 3, "words": 7, "undetokenised": 0,
    }  # fmt: skip


def test_mode() -> None:
    """A line whose outer spaces are missing cannot come back."""
    rows = rows_of(" it 's ", "it 's")
    [checked], [lossy] = examples("ptb", rows), examples("ptb", rows, mode="lossy")
    assert checked.fields["pieces"] == ("it's\n", "it 's\n")
    assert lossy.fields["pieces"] == ("it's\n", "it's\n")
    assert (checked.fields["undetokenised"], lossy.fields["undetokenised"]) == (1, 0)
    for task, text in (("wikitext2", "well-known ."), ("lm1b", "I did n't")):
        assert pieces(task, rows_of(text)) == [(f"{text}\n",)]
        assert pieces(task, rows_of(text), mode="lossy") != [(f"{text}\n",)]


def test_ptb_changes() -> None:
    rows = rows_of(" at N N <unk> ", " N % of <unk> ")
    assert pieces("ptb", rows, numbers="1", detok="none") == [
        (" at 1 1 <unk> \n", " 1 % of <unk> \n")
    ]
    assert pieces("ptb", rows, unk="<UNK>") == [("at N N <UNK>\n", "N % of <UNK>\n")]
    assert pieces("ptb", rows, unk="drop") == [("at N N\n", "N % of\n")]
    assert pieces("ptb", rows, stream="line") == [("at N N <unk>\n",), ("N % of <unk>\n",)]


WIKI = (" ", " = One = ", " ", " A . ", " = = Part = = ", " B . ", " = Two = ", " C . ", " ")


def test_wikitext_pages() -> None:
    found = wikitext.split_articles(rows_of(*WIKI))
    assert [[row.number for row in page] for page in found] == [[1, 2, 3, 4, 5], [6, 7, 8]]
    # rows from the middle of the file begin inside an article, and none of them is lost
    inside = wikitext.split_articles(rows_of(*WIKI[3:], first=3))
    assert [[row.number for row in page] for page in inside] == [[3, 4, 5], [6, 7, 8]]
    heading = wikitext.split_articles(rows_of(*WIKI[6:], first=6))
    assert [[row.number for row in page] for page in heading] == [[6, 7, 8]]
    assert len(wikitext.split_articles(rows_of(" A . ", " B . "))) == 1


def test_wikitext_pages_under_lm_eval() -> None:
    first, second = examples("wikitext2", rows_of(*WIKI), "lm-eval")
    assert first.fields["pieces"] == (" = One =\n\nA.\n== Part ==\nB. ",)
    assert second.fields["pieces"] == (" = Two =\nC.\n",)
    # "", =, One, =, A, ., =, =, Part, =, =, B, ., "": the empty pieces at the ends count
    assert (first.fields["words"], second.fields["words"]) == ((14,), (7,))


def test_wikitext_joined_as_in_the_guide() -> None:
    """`"\\n\\n".join(rows)`, where a row of the hub keeps its newline and a blank one is empty."""
    hub = ["", " = One = \n", "", " A . \n", ""]
    rows = rows_of(" ", " = One = ", " ", " A . ", " ")
    for last in (5, 4):
        [found] = pieces("wikitext2", rows[:last], "hf")
        assert "".join(found) == "\n\n".join(hub[:last])
        assert len(found) == last
    [detokenised] = pieces("wikitext2", rows[:3], join="hf")
    assert "".join(detokenised) == "\n\n= One =\n\n\n"


def test_lm1b_sentences() -> None:
    rows = rows_of("One , two .", '" Yes . "')
    assert pieces("lm1b", rows) == [("One, two.\n", '"Yes."\n')]
    assert pieces("lm1b", rows, stream="sentence") == [("One, two.\n",), ('"Yes."\n',)]


ENTITIES = st.lists(
    st.sampled_from(
        [b"&lt;", b"&amp;", b"&amp;lt;", b"&quot;", b"&nbsp;", b"&", b"&lt", b"\n", b"a"]
    ),
    min_size=1,
    max_size=12,
).map(b"".join)


@given(text=ENTITIES, size=st.integers(1, 9))
def test_entities_are_undone_once_wherever_it_is_cut(text: bytes, size: int) -> None:
    cut = [text[i : i + size] for i in range(0, len(text), size)]
    names = {b"lt": b"<", b"gt": b">", b"amp": b"&", b"quot": b'"'}
    expected = re.sub(rb"&(lt|gt|amp|quot);", lambda m: names[m[1]], text)
    found = enwik8.unescaped(cut)
    assert b"".join(found) == expected
    assert len(found) == len(cut)


def test_enwik8_keeps_the_original_bytes_as_units() -> None:
    rows = [Row(0, {"bytes": b"a&l"}), Row(1, {"bytes": b"t;b"})]
    [plain] = examples("enwik8", rows)
    [changed] = examples("enwik8", rows, detok="xml-unescape")
    assert plain.fields == {"pieces": (b"a&l", b"t;b"), "bytes": (3, 3)}
    assert changed.fields == {"pieces": (b"a", b"<b"), "bytes": (3, 3)}


# --- extractors ---------------------------------------------------------------------------

EXAMPLE = Example("0", {"choices": ("a", "b", "c"), "words": (2, 0)}, ("b",))


def answers(*logprobs: float) -> list[Response]:
    return [Scored((value,), (False,)) for value in logprobs]


@pytest.mark.parametrize(
    ("logprobs", "right"),
    [
        ((-3.0, -1.0, -2.0), 1.0),
        ((-1.0, -2.0, -3.0), 0.0),
        ((-9.0, -1.0, -1.0), 1.0),  # equal scores go to the first choice: b before c
        ((-1.0, -1.0, -9.0), 0.0),  # a before b
    ],
)
def test_best_choice(logprobs: tuple[float, ...], right: float) -> None:
    assert best_choice()(EXAMPLE, answers(*logprobs)) == [(right, 1.0)]


def test_best_choice_is_normalised() -> None:
    responses: list[Response] = [Scored((-1.0,), (True,)), *answers(-1.5, -4.0)]
    assert best_choice(lambda e: [1.0, 2.0, 1.0])(EXAMPLE, responses) == [(1.0, 1.0)]


@pytest.mark.parametrize(
    ("choices", "logprobs", "nats", "margin"),
    [
        ("abc", (-3.0, -1.0, -2.0), 1.0, 1.0),
        ("abc", (-1.0, -4.0, -3.0), 4.0, -3.0),
        ("abc", (-1.0, -1.0, -9.0), 1.0, 0.0),
        ("abb", (-3.0, -1.0, -0.5), 1.0, 2.0),  # the same text twice is not its own rival
    ],
)
def test_right_choice(
    choices: str, logprobs: tuple[float, ...], nats: float, margin: float
) -> None:
    example = Example("0", {"choices": tuple(choices)}, ("b",))
    responses = answers(*logprobs)
    assert right_choice_nats(example, responses) == [(nats, 1.0)]
    assert choice_margin()(example, responses) == [(margin, 1.0)]


def test_what_is_counted_of_a_target() -> None:
    responses: list[Response] = [Scored((-1.0, -0.5, -0.25), (True, False, True))]
    assert target_nats(EXAMPLE, responses) == [(1.75, 1.0)]
    assert last_token_nats(EXAMPLE, responses) == [(0.25, 1.0)]
    assert token_nats(EXAMPLE, responses) == [(1.75, 3.0)]
    assert all_greedy(EXAMPLE, responses) == [(0.0, 1.0)]
    assert last_greedy(EXAMPLE, responses) == [(1.0, 1.0)]
    assert all_greedy(EXAMPLE, [Scored((-1.0, -1.0), (True, True))]) == [(1.0, 1.0)]


def test_what_is_counted_of_a_text() -> None:
    rolled = Rolled((Scored((-1.0, -2.0, -0.5), (True,) * 3), Scored((-0.25,), (False,))))
    assert piece_nats("words")(EXAMPLE, [rolled]) == [(3.5, 2.0), (0.25, 0.0)]
    assert piece_nats("tokens")(EXAMPLE, [rolled]) == [(3.5, 3.0), (0.25, 1.0)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (' "Nadia,', "Nadia"),
        ("thought...Tess", "thought...Tess"),
        ("“don’t”", "don’t"),
        ("$5.00!", "5.00"),
        ("\u00a0café—", "café"),
        ("...", ""),
        ("", ""),
    ],
)
def test_bare(word: str, expected: str) -> None:
    assert strip_punctuation(word) == expected


@pytest.mark.parametrize(
    ("found", "reference", "exact", "lower"),
    [
        ("signs", "signs", 1.0, 1.0),
        ('"signs', "signs.", 1.0, 1.0),
        ("Signs", "signs", 0.0, 1.0),
        ("sign", "signs", 0.0, 0.0),
        ("", "...", 0.0, 0.0),  # nothing is never right
    ],
)
def test_same_word(found: str, reference: str, exact: float, lower: float) -> None:
    example = Example("0", {}, (reference,))
    responses: list[Response] = [*answers(-1.0), Word(found, ())]
    assert same_word(ignore_case=False)(example, responses) == [(exact, 1.0)]
    assert same_word(ignore_case=True)(example, responses) == [(lower, 1.0)]
    for case, value in (("exact", exact), ("lower", lower)):
        measures = lambada.measures(resolved("lambada", case=case))
        assert measures[-1].extract(example, responses) == [(value, 1.0)]


# --- --limit ------------------------------------------------------------------------------


@given(n=st.integers(1, 60), limit=st.integers(1, 70), seed=st.integers(0, 5), stream=st.booleans())
def test_limit_takes_exactly_so_many_rows(n: int, limit: int, seed: int, stream: bool) -> None:
    rows = rows_of(*("x" * 900 for _ in range(n)))  # six lines a block
    runs = choose(rows, limit, seed=seed, stream=stream)
    numbers = [row.number for run in runs for row in run]
    assert len(numbers) == len(set(numbers)) == min(limit, n)
    assert numbers == sorted(numbers), "in file order"
    assert choose(rows, limit, seed=seed, stream=stream) == runs, "the seed decides"
    if stream and limit < n:
        for run in runs:
            assert run[0].number % 6 == 0
            assert [r.number for r in run] == list(range(run[0].number, run[0].number + len(run)))
        assert sum(len(run) % 6 > 0 for run in runs) <= 2, "the last block taken, and the file's"
    else:
        assert len(runs) == 1


def test_limit_is_no_head() -> None:
    rows = rows_of(*("x" * 900 for _ in range(600)))
    for stream in (False, True):
        firsts = [choose(rows, 12, seed=s, stream=stream)[0][0].number for s in range(40)]
        assert len(set(firsts)) > 10
        picked = Counter(r.number for s in range(200) for run in choose(
            rows, 60, seed=s, stream=stream) for r in run)  # fmt: skip
        # each row is taken 20 times on average; 4.5 standard deviations (block-wise the same)
        assert max(picked.values()) <= 40
        assert len(picked) == 600


def test_without_a_limit_all_rows() -> None:
    rows = rows_of("a", "b")
    for limit in (None, 2, 3):
        assert choose(rows, limit, seed=0, stream=True) == [rows]
    for limit in (0, -1):
        with pytest.raises(UsageError, match=f"--limit {limit}: expected at least 1"):
            choose(rows, limit, seed=0, stream=False)


def test_a_limited_stream_is_read_block_by_block() -> None:
    """Nothing of a block is lost when articles are cut in two."""
    rows = rows_of(*itertools.islice(itertools.cycle(["x " * 3000, " = A = ", "y"]), 90))
    for seed in range(5):
        runs = choose(rows, 7, seed=seed, stream=True)
        texts = [t for run in runs for e in examples("wikitext2", run, stream="article")
                 for t in e.fields["pieces"]]  # fmt: skip
        dropped = 1 if runs[0][0].number == 0 else 0  # the file's lines before its first heading
        assert len(texts) == 7 - dropped


# --- real files ---------------------------------------------------------------------------


def real(task: str, data_dir: Path, preset: str = "paper", **overrides: str) -> Data:
    options = resolved(task, preset, **overrides)
    return load(load_task(task).source(options), Where(folder=data_dir), strict=task != "lm1b")


@pytest.fixture(scope="module")
def encoder(data_dir: Path) -> Encoder:
    """GPT-2's own byte-pair encoding."""
    folder = data_dir / "gpt2-bpe"
    if not folder.is_dir():
        pytest.skip("HARNESS_DATA has no gpt2-bpe/encoder.json and vocab.bpe")
    files = {"vocab": str(folder / "encoder.json"), "merges": str(folder / "vocab.bpe")}
    return Encoder(Tokenizer(GPT2TokenizerFast(**files), name="gpt2"), 1024)


@pytest.mark.parametrize(
    ("task", "changes", "lines_", "words"),
    [
        ("wikitext2", {"detok": "none"}, 4358, 241_211),
        ("wikitext2", {"detok": "none", "file": "raw"}, 4358, 241_211),
        ("wikitext103", {"detok": "none"}, 4358, 241_211),
        ("ptb", {}, 3761, 78_669),
        # `wc -w` says 306,180: it passes over a word that is a single control character
        ("lm1b", {"detok": "off"}, 12_105, 306_181),
    ],
)
def test_units_of_whole_files(
    data_dir: Path, task: str, changes: dict[str, str], lines_: int, words: int
) -> None:
    [example] = examples(task, real(task, data_dir, **changes).rows, **changes)
    facts = running_text.notes([example], {})
    assert (facts["lines"], facts["words"]) == (lines_, words)
    assert sum(example.fields["words+eos"]) == words + lines_


@pytest.mark.parametrize(
    ("task", "preset", "changes", "tokens"),
    [
        ("wikitext2", "paper", {"detok": "none"}, 295_877),
        ("wikitext103", "paper", {"detok": "none"}, 285_234),
        ("wikitext2", "paper", {"detok": "none", "file": "raw"}, 286_221),
        ("wikitext103", "hf", {}, 287_644),
        ("ptb", "paper", {"detok": "none"}, 105_243),
        ("lm1b", "paper", {"detok": "off"}, 355_900),
        ("enwik8", "paper", {}, 286_273),
        ("text8", "paper", {}, 193_932),
    ],
)
def test_gpt2_tokens_of_whole_files(
    data_dir: Path, encoder: Encoder, task: str, preset: str, changes: dict[str, str], tokens: int
) -> None:
    benchmark = load_task(task)
    options = resolved(task, preset, **changes)
    data = load(benchmark.source(options), Where(folder=data_dir))
    [example] = benchmark.read(data.rows, options)
    [request] = benchmark.ask(example, None, options)
    assert isinstance(request, RollingLoglikelihood)
    text = b"".join(p if isinstance(p, bytes) else p.encode() for p in request.pieces)
    assert preset == "hf" or len(text) == data.size
    # with a start token every token is scored, so the scored ones are all tokens of the text
    [encoded] = encoder.encode([request], Encoding(bos="eot"))
    assert sum(encoded.pieces) == sum(len(span.targets) for span in encoded.spans) == tokens
    assert len(encoded.pieces) == len(request.pieces)


def test_wikitext_articles(data_dir: Path) -> None:
    rows = real("wikitext2", data_dir, "lm-eval").rows
    found = examples("wikitext2", rows, "lm-eval")
    assert len(found) == 62
    pages = [
        "\n".join(row.fields["text"] for row in page) for page in wikitext.split_articles(rows)
    ]
    text = "\n".join(row.fields["text"] for row in rows)
    assert "\n".join(pages) == text.partition("\n")[2], "the file without its first line"
    referee = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    for example, page in zip(found, pages, strict=True):
        [piece], [words] = example.fields["pieces"], example.fields["words"]
        assert piece == referee.wikitext_detokenizer({"page": page})
        assert words == referee.process_results({"page": page}, [0.0])["word_perplexity"][1]


def test_lambada_tokens(data_dir: Path, encoder: Encoder) -> None:
    """How the target falls into tokens, by the benchmark's own reading and the engine's encoder."""
    rows = real("lambada", data_dir).rows
    options = resolved("lambada")
    found = examples("lambada", rows)
    prompt = lambada.prompt(options)
    encoded = encoder.encode([lambada.ask(e, prompt, options)[0] for e in found], encoding(options))
    assert len(encoded) == 5153
    assert not any(e.truncated or e.crossing for e in encoded)
    targets = [encoder.tokenizer.token_texts(e.spans[0].targets) for e in encoded]
    words = [e.references[0] for e in found]
    stop = lambada.stop_words("nltk127")
    assert sum(t[-1].strip() != word for t, word in zip(targets, words, strict=True)) == 1142
    assert sum(word.lower() in stop for word in words) == 47
    assert sum(t[0].strip().lower() in stop for t in targets if len(t) > 1) == 69
    assert (
        sum(e.fields["target"].startswith("\n") or "\n" in e.fields["target"] for e in found) == 7
    )
    assert not any(ord(c) in (0x201C, 0x201D) for e in found for c in e.fields["context"])


def test_lambada_target_lengths(data_dir: Path, encoder: Encoder) -> None:
    """Of the untouched last word after a single space."""
    found = examples("lambada", real("lambada", data_dir).rows, "last-token")
    ids = encoder.tokenizer.encode([f" {e.references[0]}" for e in found])
    assert Counter(map(len, ids)) == {1: 4013, 2: 913, 3: 208, 4: 16, 5: 3}


def test_lambada_under_lm_eval_on_all_rows(data_dir: Path) -> None:
    rows = real("lambada", data_dir, "lm-eval").rows
    for row, example in zip(rows, examples("lambada", rows, "lm-eval"), strict=True):
        *before, last = row.fields["text"].split(" ")
        assert example.fields == {"context": " ".join(before), "target": f" {last}"}


def test_lambada_original_agrees_with_openais(data_dir: Path) -> None:
    """The same passages: all but a few last words of these agree, case and punctuation aside."""
    ours = examples("lambada", real("lambada", data_dir).rows[:1000])
    original = real("lambada", data_dir, "original").rows[:1000]
    theirs = examples("lambada", original, "original")

    def letters(example: Example) -> str:
        return re.sub(r"[\W_]", "", example.references[0]).lower()

    same = sum(letters(a) == letters(b) for a, b in zip(ours, theirs, strict=True))
    assert same >= 990


@pytest.mark.parametrize("kind", ["CN", "NE", "V", "P"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_cbt_slices(data_dir: Path, kind: str, split: str) -> None:
    files = sorted(data_dir.glob(f"cbt/cbtest_{kind}_{split}*.txt"))
    if not files:
        pytest.skip(f"HARNESS_DATA has no cbt/cbtest_{kind}_{split}*.txt")
    content = files[0].read_bytes()
    fields = cbt.parse(content)
    check_cbt([Row(i, row) for i, row in enumerate(fields)])
    hub = [{**row, "question": row["query"], "options": row["choices"]} for row in fields]
    assert cbt.restore(hub).strip() == content.strip(), "the hub's rows restore the file"


def test_random_rows_of_real_streams_are_whole_blocks(data_dir: Path) -> None:
    rows = real("wikitext103", data_dir).rows
    runs = choose(rows, 200, seed=1, stream=True)
    assert sum(map(len, runs)) == 200
    assert all(run[-1].number - run[0].number == len(run) - 1 for run in runs)
    assert len(runs) > 5
