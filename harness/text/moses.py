"""Detokenise text that Moses tokenised: WikiText, with its own marks, and 1BW."""

import re
from collections.abc import Iterator, Sequence

from harness.text.splitting import (
    CLOSE,
    MOSES_TAIL,
    OPEN,
    STOP,
    SUFFIX,
    WORD_SUFFIX,
    Rules,
    apply,
    close_up,
    moses_owns_stop,
    split,
    with_outer_spaces,
    without_outer_spaces,
)

# After a full stop Moses also splits the suffix: `the U.K. ' s`.
_STOP_S = (r"(?<=\.) ' s(?= |$)", " 's")
_STOP_S_BACK = (r"(?<=\.) 's(?= |$)", " ' s")
_MOSES: Rules = (
    (r"([(\[{“]) ", r"\1"),
    (r" (?=[,;:!?][\"'”)\]}]*(?: |$)|[)\]}”])", ""),
    STOP,
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
# Moses splits before an apostrophe between letters: `O 'Neill`. The first character is the end of
# the previous word.
_MOSES_SUFFIX = re.compile(rf"(?:[^\W\d_]|>){WORD_SUFFIX}|.(?:{SUFFIX}|n't)")
# After these an apostrophe opens a quotation; after other words in s it is possessive.
_NOT_PLURAL = frozenset(("as", "is", "was", "his", "its", "this", "has", "does"))


def _double_roles(tokens: Sequence[str]) -> Iterator[str]:
    """Roles of the straight double quotes, alternating from the start of the line.

    Of an odd number the first one may close: `No , " he said .`
    """
    places = [i for i, token in enumerate(tokens) if token == '"']
    opens = True
    if len(places) % 2 and places[0] > 0:
        before, after = tokens[places[0] - 1], tokens[places[0] + 1 : places[0] + 2]
        opens = not (before in {",", ".", "?", "!"} and (not after or after[0][:1].islower()))
    for i in places:
        yield OPEN if opens and i < len(tokens) - 1 else CLOSE
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
            yield CLOSE
        elif after[0].isdigit() and not plural:
            yield OPEN
        elif before and not before[-1].isalnum():
            is_open = left > 0
            yield OPEN
        else:
            is_open = left > 0 and not plural
            yield OPEN if is_open else CLOSE


def moses(line: str) -> str:
    """Detokenise a line: `" I didn 't , " he said .` gives `"I didn't," he said.` .

    `did n't` is joined too, but inverted to Moses' form `didn 't`, so a checked line with it is
    kept.
    """
    tokens = apply(line, [_STOP_S]).split(" ")
    doubles, singles = _double_roles(tokens), _single_roles(tokens)
    marked = []
    for before, token in zip(("", *tokens), tokens, strict=False):
        role = ""
        if token in {'"', "'"}:
            role = next(doubles if token == '"' else singles)
        elif before and _MOSES_SUFFIX.fullmatch(before[-1] + token):
            role = CLOSE
        marked.append(token + OPEN if role == OPEN else role + token)
    return apply(close_up(" ".join(marked)), _MOSES)


def moses_back(text: str) -> str:
    """Invert `moses`, if possible."""
    tokens = split(apply(text, _MOSES_BACK), MOSES_TAIL, moses_owns_stop)
    return apply(" ".join(tokens).replace(OPEN, ""), [_STOP_S_BACK])


def wikitext(line: str) -> str:
    """Detokenise a line: ` M @-@ 82 ( 1 @,@ 234 ) . ` gives `M-82 (1,234).` ."""
    return apply(moses(without_outer_spaces(line)), _WIKITEXT)


def wikitext_back(text: str) -> str:
    """Invert `wikitext`, if possible."""
    tokens = moses_back(apply(text, _WIKITEXT_BACK))
    line = _NUMBER.sub(lambda match: re.sub("([.,])", r" @\1@ ", match[0]), tokens)
    return with_outer_spaces(line)
