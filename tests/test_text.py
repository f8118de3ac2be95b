"""De-tokenisers: the protocol's examples, the round trip as a property, rates on real files."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.text import DETOKENISERS, detokenise_lines, megatron_wikitext

LOSSY = {"lambada-quotes", "ptb-megatron", "wikitext-megatron"}
INVERTIBLE = sorted(DETOKENISERS.keys() - LOSSY)

# name, tokenised line, natural line; all of these must also come back.
EXAMPLES = [
    ("none", " kept , as it is ", " kept , as it is "),
    ("ptb", " no it was ", "no it was"),
    ("ptb", " ", ""),
    ("ptb", " he did n't and ca n't ", "he didn't and can't"),
    ("ptb", " the company 's plan they 're we 've ", "the company's plan they're we've"),
    ("ptb", " i 'm sure he 'll say he 'd go ", "i'm sure he'll say he'd go"),
    ("ptb", " traders ' fears ", "traders' fears"),
    ("ptb", " $ N million ", "$N million"),
    ("ptb", " issue # N of c$ N ", "issue #N of c$N"),
    ("ptb", " rose N to <unk> ", "rose N to <unk>"),
    ("ptb", " can not cannot at N N yield ", "can not cannot at N N yield"),
    ("ptb", " 's own ", "'s own"),
    ("wikitext", " ", ""),
    ("wikitext", " M @-@ 82 , 1 @,@ 234 @.@ 5 ", "M-82, 1,234.5"),
    ("wikitext", " said : yes ; no . Then ! Why ? ", "said: yes; no. Then! Why?"),
    ("wikitext", " ( in 1990 ) [ sic ] { a } ", "(in 1990) [sic] {a}"),
    ("wikitext", ' " lobster red " ', '"lobster red"'),
    ("wikitext", ' A " b " , ( " c " ) . ', 'A "b", ("c").'),
    ("wikitext", " dog 's didn 't boys ' toys ", "dog's didn't boys' toys"),
    ("wikitext", " the ' 90s and a ' perfect ' ship ", "the '90s and a 'perfect' ship"),
    ("wikitext", " Martin O 'Neill , <unk> 's ", "Martin O'Neill, <unk>'s"),
    ("wikitext", " = = = Early life = = = ", "=== Early life ==="),
    ("wikitext", " = Valkyria = ", "= Valkyria ="),
    ("wikitext", " 20 ° C , 30 % , £ 5 , US $ 1 @.@ 5 ", "20°C, 30%, £5, US$1.5"),
    ("wikitext", " between 3 \u2013 4 and a \u2014 b ", "between 3 \u2013 4 and a \u2014 b"),
    ("wikitext", " It met at 16 : 40 at No. 5 . Then 7 . ", "It met at 16:40 at No. 5. Then 7."),
    ("wikitext", " c . 275 , Dr. No and J. S. B. of Apple Inc. who . ", None),
    ("wikitext", " and so on . . . or ... more ", "and so on . . . or ... more"),
    ("lambada", "`` no need , '' he did n't say", '"no need," he didn\'t say'),
    ("lambada", "mr. pegg -lrb- me -rrb- came ; why ?!", "mr. pegg (me) came; why?!"),
    ("lambada", "` so , ' i said . it 's 9:45 ... -- he", "'so,' i said. it's 9:45 ... -- he"),
    ("cbt", "`` Come , '' said he .", '"Come," said he.'),
    ("cbt", "` Oh ! '", "'Oh!'"),
    ("cbt", "`` ` Oh ! ' '' he said", "\"'Oh!'\" he said"),
    ("cbt", "-LRB- he said -RRB- and -LSB- he -RSB-", "(he said) and [he]"),
    ("cbt", "they wo n't , ca n't and did n't", "they won't, can't and didn't"),
    ("cbt", "well , well ! -- and then ; yes : no ?", "well, well! -- and then; yes: no?"),
    ("cbt", "the cat 's tail", "the cat's tail"),
    ("cbt", "He replied , ' I go . '", "He replied, ' I go.'"),
    ("cbt", "'T is n't .", "'T isn't."),
    ("1bw", '" I didn \'t know , " he said .', '"I didn\'t know," he said.'),
    ("1bw", 'I am in , " he said .', 'I am in," he said.'),
    (
        "1bw",
        "The U.S. and Mr. Smith ( AP ) -- 1 % , $ 5 .",
        "The U.S. and Mr. Smith (AP) -- 1%, $5.",
    ),
    ("1bw", "The U.K. ' s and Viacom Inc . ' s sales", "The U.K.'s and Viacom Inc.'s sales"),
    ("1bw", "It begins at 8 : 30 p.m.", "It begins at 8:30 p.m."),
]

# Outputs of lm-eval 0.4.13's wikitext_detokenizer on sentences written for this test.
MEGATRON = [
    (' " yes \n she said " no " \n', ' "yes\nshe said" no "\n'),
    ("the ' 90s and ' 80s", "the '90s and' 80s"),
    (" \n = Title = \n \n = = Part = = \n", "\n= Title =\n\n== Part ==\n"),
    (" dogs ' toys , he didn 't ; dog 's . \n", " dogs'toys, he didn't; dog's.\n"),
    (" M @-@ 82 , 1 @,@ 234 @.@ 5 ! Yes ? ", " M-82, 1,234.5! Yes? "),
    (" ( a ) [ b ] { c } 30 % it 's N / N N 20 ° C ", " (a) [b] {c} 30 % it's 1 / 1 N 20°C "),
    ("x /' 5/ y", "x /'[0-9]/ y"),
    (" a @,@ @-@ b ", " a @,@-b "),
]


@pytest.mark.parametrize(("name", "line", "text"), EXAMPLES)
def test_examples_of_the_protocol(name: str, line: str, text: str | None) -> None:
    result, inverted = DETOKENISERS[name].checked(line)
    assert inverted
    assert text is None or result == text


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ptb", "no outer spaces"),
        ("wikitext", "no outer spaces ."),
        ("wikitext", " well-known "),
        ("wikitext", " a @,@ b "),
        ("1bw", "joined, already"),
        ("1bw", "I did n't know"),
        ("lambada", "a good ol' time"),
        ("cbt", "a -lrb- small"),
    ],
)
def test_what_cannot_come_back_is_left_alone(name: str, line: str) -> None:
    assert DETOKENISERS[name].checked(line) == (line, False)


def test_quotes_start_anew_at_every_line() -> None:
    lines = ['He said " no .', '" Yes , " she said .']
    assert detokenise_lines(lines, "1bw") == (['He said "no.', '"Yes," she said.'], 0)


def test_lines_are_counted_by_mode() -> None:
    lines = [" did n't ", "is n't", " "]
    assert detokenise_lines(lines, "ptb") == (["didn't", "is n't", ""], 1)
    assert detokenise_lines(lines, "ptb", "lossy") == (["didn't", "isn't", ""], 0)
    assert detokenise_lines(lines, "ptb-megatron")[1] == 0
    assert detokenise_lines(["I did n't , no ."], "1bw", "lossy") == (["I didn't, no."], 0)


def test_names_and_lossy_ones() -> None:
    assert all(name == entry.name for name, entry in DETOKENISERS.items())
    assert {name for name, entry in DETOKENISERS.items() if entry.retokenise is None} == LOSSY
    assert DETOKENISERS["lambada-quotes"].checked("“a” \u2018b\u2019 `` ''") == (
        "\"a\" \u2018b\u2019 `` ''",
        False,
    )


@pytest.mark.parametrize(("line", "text"), MEGATRON)
def test_megatron_wikitext_golden(line: str, text: str) -> None:
    assert megatron_wikitext(line) == text


def test_megatron_by_line() -> None:
    wikitext = DETOKENISERS["wikitext-megatron"].detokenise
    assert [wikitext(" "), wikitext(" = A = "), wikitext(" It ended . ")] == [
        "",
        "= A =",
        "It ended.",
    ]


def test_megatron_ptb_swallows_a_space() -> None:
    ptb = DETOKENISERS["ptb-megatron"].detokenise
    assert ptb(" of $ N million ") == "of $1 million"
    assert ptb(" million or N cents ") == "million or1 cents"
    assert ptb(" at N N yield ") == "at1 N yield"
    assert ptb(" traders ' fears did n't ") == "traders' fears didn't"


WORDS = """the dogs U.S. Mr. Inc. p.m. a I <unk> N 1990 5 1,234 1.5 XXXXX e-mail 90s ol' 'em
@-@ @,@ @.@ , . : ; ! ? ... . -- - / % $ £ # ° C = & * " ' ` `` '' ''s 's 't n't 're 'Neill
( ) [ ] { } -lrb- -rrb- -LRB- -RSB- “ ”"""
TOKENS = st.sampled_from([*WORDS.split(), "\u2013", "\u2019", "", "\x02", "\x03", "\u00a0"])
LINES = st.tuples(st.booleans(), st.lists(TOKENS, max_size=14)).map(
    lambda pair: f" {' '.join(pair[1])} " if pair[0] else " ".join(pair[1])
)


@given(line=LINES, name=st.sampled_from(INVERTIBLE))
def test_checked_comes_back_or_leaves_alone(line: str, name: str) -> None:
    detokeniser = DETOKENISERS[name]
    assert detokeniser.retokenise is not None
    text, inverted = detokeniser.checked(line)
    assert (detokeniser.retokenise(text) if inverted else text) == line


@given(lines=st.lists(LINES, max_size=5), name=st.sampled_from(INVERTIBLE))
def test_counts_match(lines: list[str], name: str) -> None:
    checked = [DETOKENISERS[name].checked(line) for line in lines]
    expected = [text for text, _ in checked], sum(not inverted for _, inverted in checked)
    assert detokenise_lines(lines, name) == expected


@given(text=st.lists(st.one_of(TOKENS, st.just("\n")), max_size=20).map(" ".join))
def agrees_with_lm_eval(referee: Callable[[dict[str, str]], str], text: str) -> None:
    assert megatron_wikitext(text) == referee({"page": text})


def test_megatron_wikitext_equals_lm_eval() -> None:
    module = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    agrees_with_lm_eval(module.wikitext_detokenizer)


def cbt_sentences(paths: Iterable[Path]) -> list[str]:
    """Numbered sentences without their number; queries with the answer put in."""
    sentences = []
    for path in paths:
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            query, *rest = line.partition(" ")[2].split("\t")
            sentences.append(query.replace("XXXXX", rest[0]) if rest else query)
    return sentences


@pytest.mark.skipif(
    "HARNESS_DATA" not in os.environ, reason="set HARNESS_DATA to the folder of benchmark files"
)
@pytest.mark.parametrize(
    ("name", "pattern", "bound"),
    [
        ("ptb", "ptb/ptb.test.txt", 1.0),
        ("wikitext", "wikitext-2/wiki.test.tokens", 0.998),
        ("wikitext", "wikitext-2-raw/wiki.test.raw", 0.997),
        ("wikitext", "wikitext-103/wiki.test.tokens", 0.998),
        ("1bw", "lm1b/1b_benchmark.test.tokens", 0.999),
        ("lambada", "lambada/lambada_test_plain_text.txt", 0.99),
        ("cbt", "cbt/*.txt", 1.0),
    ],
)
def test_rates_on_real_files(name: str, pattern: str, bound: float) -> None:
    paths = sorted(Path(os.environ["HARNESS_DATA"]).glob(pattern))
    if not paths:
        pytest.skip(f"no file {pattern} under HARNESS_DATA")
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").split("\n")]
    lines = [line for line in lines if line.strip()] if name != "cbt" else cbt_sentences(paths)
    texts, left = detokenise_lines(lines, name)
    assert 1 - left / len(lines) >= bound
    back = DETOKENISERS[name].retokenise
    assert back is not None
    for line, text in zip(lines, texts, strict=True):
        if text != line:
            assert len(back(text).split()) == len(line.split())
