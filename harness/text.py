"""De-tokenisers: tokenised benchmark text back to natural English, one line at a time.

Source: the GPT-2 paper scores WikiText, PTB, 1BW and LAMBADA with "invertible de-tokenizers"
(section 3.1) but does not publish them. These are written from the paper's description and from
the conventions of the tokenisers that made the files: Moses for WikiText and 1BW, Penn Treebank
for PTB, LAMBADA and CBT. Two lossy ones follow the rules published with Megatron-LM, on which
comparable perplexities depend.

Departure: invertibility is checked, not claimed. `Detokeniser.checked` keeps a line as it was
when its original cannot be recovered. One bit a line, which form was used, is not charged.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Rules = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Detokeniser:
    """A named pair of functions over one line without its line end."""

    name: str
    # The line as natural text.
    detokenise: Callable[[str], str]
    # The tokenised line again; None for a lossy mapping, which cannot be inverted.
    retokenise: Callable[[str], str] | None

    def checked(self, line: str) -> tuple[str, bool]:
        """(detokenised line, True) if the original can be recovered, else (line, False).

        A lossy detokeniser has no inverse to check: it gives (detokenised line, False).
        `" it did n't "` under `ptb` gives `("it didn't", True)`.
        """
        text = self.detokenise(line)
        if self.retokenise is None:
            return text, False
        return (text, True) if self.retokenise(text) == line else (line, False)


def detokenise_lines(
    lines: Sequence[str], name: str, mode: Literal["checked", "lossy"] = "checked"
) -> tuple[list[str], int]:
    """The lines under `DETOKENISERS[name]`, and how many were left as they were.

    `checked` leaves a line whose round trip fails; `lossy` leaves none. A lossy detokeniser has
    no round trip, so it leaves none in either mode: look at `retokenise is None` to flag it.
    `([" it 's ", "it 's"], "ptb")` gives `(["it's", "it 's"], 1)`: the second has no outer spaces.
    """
    detokeniser = DETOKENISERS[name]
    if mode == "lossy" or detokeniser.retokenise is None:
        return [detokeniser.detokenise(line) for line in lines], 0
    results = [detokeniser.checked(line) for line in lines]
    return [text for text, _ in results], sum(not inverted for _, inverted in results)


# --- shared parts ---------------------------------------------------------------------------

# Private marks beside a token: no space is kept after _OPEN or before _CLOSE.
_OPEN, _CLOSE = "\x02", "\x03"

# A chunk is what stands between two spaces of natural text, such as `("Oh,`. Marks are taken
# from its front while _HEAD matches, then from its end while the tail pattern does.
_HEAD = re.compile(r"[\"“(\[{]|'(?!(?:em|til|tis|twas|n|T)\b)")
_SUFFIX = r"'(?:s|S|m|M|d|D|re|RE|ve|VE|ll|LL)"
_MARK = r"[,;:\"”)\]}']|\.(?<!\.\.)"
_PENN_TAIL = re.compile(rf"(?<=.)(?:n't|N'T|{_SUFFIX}|[?!]+|{_MARK})$")
# Moses cuts before any apostrophe inside a word (O 'Neill) and before a per cent sign.
_WORD_SUFFIX = r"'[^\W\d_](?:[\w.-]*[\w-])?"
_MOSES_TAIL = re.compile(rf"(?<=.)(?:(?<=[^\W\d_]|>){_WORD_SUFFIX}|{_SUFFIX}|[?!]|{_MARK}|%)$")

# Words that own their full stop: initials, words with an inner stop (p.m., N.C.), short titles.
_ALWAYS = re.compile(
    r"(?:[A-Z]|(?=.*[^\W\d_]).*\..*|Adm|Brig|Bros|Capt|Cmdr|Col|Corp|Cpl|Drs?|Gen|Gov|Lt|Maj"
    r"|Messrs|Mrs?|Ms|Prof|Pvt|Reps?|Rev|Sens?|Sgt|Sr|St|Supt|vs?|mrs?|ms|dr|det|jr|st)\."
)
_BEFORE_NUMBER = re.compile(r"(?:Art|Nos?|pp|Ph)\.")


def _apply(text: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _close_up(text: str) -> str:
    return re.sub(f"{_OPEN} ?| ?{_CLOSE}", "", text)


def _penn_owns_stop(word: str, following: str) -> bool:
    return _ALWAYS.fullmatch(word) is not None


def _moses_owns_stop(word: str, following: str) -> bool:
    """Whether Moses keeps `word` whole before `following`: `Inc.` before `said`, not `The`."""
    return (
        _ALWAYS.fullmatch(word) is not None
        or following[:1].islower()
        or (_BEFORE_NUMBER.fullmatch(word) is not None and following[:1].isdigit())
    )


def _split_chunk(
    chunk: str, following: str, tail: re.Pattern[str], owns_stop: Callable[[str, str], bool]
) -> Iterator[str]:
    """The tokens of one chunk, opening marks tagged: `(dogs'` gives `(` + _OPEN, `dogs`, `'`."""
    while len(chunk) > 1 and (match := _HEAD.match(chunk)):
        yield match[0] + _OPEN
        chunk = chunk[match.end() :]
    ends: list[str] = []
    while match := tail.search(chunk):
        after = ends[-1] if ends else following
        if match[0] == "." and chunk[-2].isalnum() and owns_stop(chunk, after):
            break
        ends.append(match[0])
        chunk = chunk[: match.start()]
    yield chunk
    yield from reversed(ends)


def _split(text: str, tail: re.Pattern[str], owns_stop: Callable[[str, str], bool]) -> list[str]:
    chunks = [*text.split(" "), ""]
    return [
        token
        for chunk, following in pairwise(chunks)
        for token in _split_chunk(chunk, following, tail, owns_stop)
    ]


# --- PTB ------------------------------------------------------------------------------------

_PTB: Rules = (
    (r"(?<=\S) (?=(?:n't|'(?:s|re|ve|ll|d|m)?)(?: |$))", ""),
    (r"(?<=[$#]) (?=N(?: |$)|\d)", ""),
)
_PTB_BACK: Rules = (
    (r"(?<=[$#])(?=N(?: |'|$)|\d)", " "),
    (r"(?<=[^\s'])(?=(?:n't|'(?:s|re|ve|ll|d|m)?)(?: |$))", " "),
)
_PTB_MEGATRON: Rules = (
    (" '", "'"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" n't", "n't"),
    (" N ", "1 "),
    (r"\$ 1", "$1"),
    ("# 1", "#1"),
)


def _without_outer_spaces(line: str) -> str:
    """` no it was ` gives `no it was`; the blank line of one space gives an empty line."""
    return line.removeprefix(" ").removesuffix(" ")


def _with_outer_spaces(line: str) -> str:
    return f" {line} " if line else " "


def _ptb(line: str) -> str:
    """The line as natural text: ` did n't rise $ N ` gives `didn't rise $N`."""
    return _apply(_without_outer_spaces(line), _PTB)


def _ptb_back(text: str) -> str:
    return _with_outer_spaces(_apply(text, _PTB_BACK))


def _ptb_megatron(line: str) -> str:
    """Megatron-LM's rules as published, slips included: ` or N cents ` gives `or1 cents`.

    The space before N goes with it, and of `at N N yield` only the first N changes (`at1 N
    yield`), since the two share a space. Line ends are lent to the line, as two rules need them.
    """
    return _apply(f"\n{line}\n", _PTB_MEGATRON)[1:-1]


# --- WikiText and 1BW: Moses ----------------------------------------------------------------

# A full stop beside another one stays apart: `U.S. .` and `. . .` would read as other tokens.
_STOP = (r"(?<!\.) (?=\.[\"'”)\]}]*(?:'s)?(?: |$)(?!\.))", "")
# After a full stop Moses cuts the suffix itself: `the U.K. ' s`.
_STOP_S = (r"(?<=\.) ' s(?= |$)", " 's")
_STOP_S_BACK = (r"(?<=\.) 's(?= |$)", " ' s")
_MOSES: Rules = (
    (r"([(\[{“]) ", r"\1"),
    (r" (?=[,;:!?][\"'”)\]}]*(?: |$)|[)\]}”])", ""),
    _STOP,
    (r"(?<=\d:) (?=\d)", ""),
    (r"(?<=\d) (?=%)", ""),
    (r"(?<=[$£€¥₱#]) (?=\d)", ""),
    (r"(?<=\b(?:US|HK|CN|NZ)) (?=[$¥])", ""),
)
_MOSES_BACK: Rules = (
    (r"(?<=\b(?:US|HK|CN|NZ))(?=[$¥]\d)", " "),
    (r"(?<=[$£€¥₱#])(?=\d)", " "),
    (r"(?<=\d):(?=\d)", " : "),
)
_WIKITEXT: Rules = (
    (r"(?<==) (?==)", ""),
    (r" @([-,.])@ ", r"\1"),
    (r" \u2019 (?=[^\W\d_])", "\u2019"),
    (r"(?<=\d) (?=°)", ""),
    (r"(?<=\d°) (?=[CFNSEW]\b)", ""),
)
_WIKITEXT_BACK: Rules = (
    (r"(?<==)(?==)", " "),
    (r"(?<=[^\s-])-(?=[^\s-])", " @-@ "),
    (r"(?<=\S)\u2019(?=\S)", " \u2019 "),
    (r"(?<=\S)(?=°)", " "),
    (r"(?<=°)(?=\S)", " "),
)
_NUMBER = re.compile(r"(?<!\S)(?:\d+|<unk>)(?:[.,](?:\d+|<unk>))+(?!\S)")
# Moses cuts before an apostrophe between letters: `O 'Neill`. First character: end of the word
# before.
_MOSES_SUFFIX = re.compile(rf"(?:[^\W\d_]|>){_WORD_SUFFIX}|.(?:{_SUFFIX}|n't)")
# After these an apostrophe opens a quotation; after other words in s it is a possessive.
_NOT_PLURAL = frozenset(("as", "is", "was", "his", "its", "this", "has", "does"))


def _double_roles(tokens: Sequence[str]) -> Iterator[str]:
    """Roles of the straight double quotes, alternating from the start of the line.

    With an odd number of them the first one closes if it looks so: `No , " he said .`
    """
    places = [i for i, token in enumerate(tokens) if token == '"']
    opens = True
    if len(places) % 2 and places[0] > 0:
        before, after = tokens[places[0] - 1], tokens[places[0] + 1 : places[0] + 2]
        opens = not (before in {",", ".", "?", "!"} and (not after or after[0][:1].islower()))
    for i in places:
        yield _OPEN if opens and i < len(tokens) - 1 else _CLOSE
        opens = not opens


def _single_roles(tokens: Sequence[str]) -> Iterator[str]:
    """Roles of the lone apostrophes: `' 90s` opens, `boys ' toys` closes, others alternate."""
    is_open = False
    left = tokens.count("'")
    for before, token, after in zip(("", *tokens), tokens, (*tokens[1:], ""), strict=False):
        if token != "'":
            continue
        left -= 1
        plural = before.endswith("s") and before not in _NOT_PLURAL
        if is_open or not after:
            is_open = False
            yield _CLOSE
        elif after[0].isdigit() and not plural:
            yield _OPEN
        elif before and not before[-1].isalnum():
            is_open = left > 0
            yield _OPEN
        else:
            is_open = left > 0 and not plural
            yield _OPEN if is_open else _CLOSE


def _moses(line: str) -> str:
    """The line as natural text: `" I didn 't , " he said .` gives `"I didn't," he said.` .

    `did n't` is joined too, but comes back as `didn 't`, which is Moses' form: a checked line
    with it stays as it was.
    """
    tokens = _apply(line, [_STOP_S]).split(" ")
    doubles, singles = _double_roles(tokens), _single_roles(tokens)
    marked = []
    for before, token in zip(("", *tokens), tokens, strict=False):
        role = ""
        if token in {'"', "'"}:
            role = next(doubles if token == '"' else singles)
        elif before and _MOSES_SUFFIX.fullmatch(before[-1] + token):
            role = _CLOSE
        marked.append(token + _OPEN if role == _OPEN else role + token)
    return _apply(_close_up(" ".join(marked)), _MOSES)


def _moses_back(text: str) -> str:
    tokens = _split(_apply(text, _MOSES_BACK), _MOSES_TAIL, _moses_owns_stop)
    return _apply(" ".join(tokens).replace(_OPEN, ""), [_STOP_S_BACK])


def _wikitext(line: str) -> str:
    """The line as natural text: ` M @-@ 82 ( 1 @,@ 234 ) . ` gives `M-82 (1,234).` ."""
    return _apply(_moses(_without_outer_spaces(line)), _WIKITEXT)


def _wikitext_back(text: str) -> str:
    tokens = _moses_back(_apply(text, _WIKITEXT_BACK))
    line = _NUMBER.sub(lambda match: re.sub("([.,])", r" @\1@ ", match[0]), tokens)
    return _with_outer_spaces(line)


# As published with Megatron-LM and copied by lm-eval, slips included, since figures depend on
# them: the first rule also eats the space before an opening quote; the second has literal slashes
# and fires on next to nothing; pairs may span lines; apostrophes pair up; the letter N becomes 1.
_WIKITEXT_MEGATRON: Rules = (
    ("s '", "s'"),
    ("/' [0-9]/", "/'[0-9]/"),
    *((re.escape(f" @{mark}@ "), mark) for mark in "-,."),
    *((re.escape(f" {mark} "), f"{mark} ") for mark in ":;.!?,"),
    *(
        (rf"{re.escape(first)}\s*([^{re.escape(last)}]*?)\s*{re.escape(last)}", rf"{first}\1{last}")
        for first, last in ("()", "[]", "{}", '""', "''")
    ),
    *((" ".join("=" * count), "=" * count) for count in (4, 3, 2)),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def megatron_wikitext(text: str) -> str:
    """A whole document under Megatron-LM's rules, which run across lines.

    `" yes` / `she said " no "` gives `"yes` / `she said" no "`: one unbalanced quote shifts all
    later ones, so per-line use gives other text than use on a page, and pages other than a file.
    """
    return _apply(text, _WIKITEXT_MEGATRON)


def _wikitext_megatron(line: str) -> str:
    """The document rules on one line, with line ends lent to it since two rules look for them."""
    return megatron_wikitext(f"\n{line}\n")[1:-1]


# --- LAMBADA and CBT: Penn Treebank ---------------------------------------------------------

_PENN_BRACKETS = {
    f"-{side}{kind}b-": mark
    for side, kind, mark in (
        ("l", "r", "("), ("r", "r", ")"), ("l", "s", "["),
        ("r", "s", "]"), ("l", "c", "{"), ("r", "c", "}"),
    )
}  # fmt: skip
_PENN_CLOSE = re.compile(rf"n't|N'T|{_SUFFIX}|[?!]+|[,;:)\]}}]")


def _penn(line: str) -> str:
    """``` `` no need , '' he did n't say ``` gives `"no need," he didn't say`."""
    tokens = [_PENN_BRACKETS.get(token.lower(), token) for token in line.split(" ")]
    marked, is_open = [], False
    for before, token, after in zip(("", *tokens), tokens, (*tokens[1:], ""), strict=False):
        if token in {"``", "`"}:
            is_open = is_open or token == "`"
            marked.append(('"' if token == "``" else "'") + _OPEN)
        elif token == "''":
            marked.append(_CLOSE + '"')
        elif token == "'":
            # `replied , ' I` is a slip for "`": it stays apart, since joining it to the comma
            # would read wrongly and joining it to the word could not be undone.
            slip = not is_open and before in {",", ":"} and after[:1].isupper()
            marked.append(token if slip else _CLOSE + token)
            is_open = False
        elif token in {"(", "[", "{"}:
            marked.append(token + _OPEN)
        else:
            marked.append(_CLOSE + token if _PENN_CLOSE.fullmatch(token) else token)
    return _apply(_close_up(" ".join(marked)), [_STOP])


def _penn_back(text: str, *, upper: bool) -> str:
    """The inverse of `_penn`; `upper` for CBT's `-LRB-` against LAMBADA's `-lrb-`."""
    names = {mark: name.upper() if upper else name for name, mark in _PENN_BRACKETS.items()}
    quotes = {'"': "''", '"' + _OPEN: "``", "'" + _OPEN: "`"}
    tokens = []
    for token in _split(text, _PENN_TAIL, _penn_owns_stop):
        plain = token.rstrip(_OPEN)
        tokens.append(quotes.get(token) or names.get(plain, plain))
    return " ".join(tokens)


def _lambada_quotes(text: str) -> str:
    """The OpenAI file needs only this: curly double quotes to straight ones."""
    return text.replace("“", '"').replace("”", '"')


def _same(line: str) -> str:
    return line


_ALL = (
    Detokeniser("none", _same, _same),
    Detokeniser("ptb", _ptb, _ptb_back),
    Detokeniser("wikitext", _wikitext, _wikitext_back),
    Detokeniser("1bw", _moses, _moses_back),
    Detokeniser("lambada", _penn, lambda text: _penn_back(text, upper=False)),
    Detokeniser("cbt", _penn, lambda text: _penn_back(text, upper=True)),
    Detokeniser("lambada-quotes", _lambada_quotes, None),
    Detokeniser("ptb-megatron", _ptb_megatron, None),
    Detokeniser("wikitext-megatron", _wikitext_megatron, None),
)
DETOKENISERS: Mapping[str, Detokeniser] = {entry.name: entry for entry in _ALL}
