"""Detokenise text in the style of the Penn Treebank: PTB, LAMBADA's first release and CBT."""

import re

from harness.text.splitting import (
    CLOSE,
    OPEN,
    PENN_TAIL,
    STOP,
    SUFFIX,
    Rules,
    apply,
    close_up,
    penn_owns_stop,
    split,
    with_outer_spaces,
    without_outer_spaces,
)

_PTB: Rules = (
    (r"(?<=\S) (?=(?:n't|'(?:s|re|ve|ll|d|m)?)(?: |$))", ""),
    (r"(?<=[$#]) (?=N(?: |$)|\d)", ""),
)
_PTB_BACK: Rules = (
    (r"(?<=[$#])(?=N(?: |'|$)|\d)", " "),
    (r"(?<=[^\s'])(?=(?:n't|'(?:s|re|ve|ll|d|m)?)(?: |$))", " "),
)


def ptb(line: str) -> str:
    """Detokenise a line of PTB: ` did n't rise $ N ` gives `didn't rise $N`."""
    return apply(without_outer_spaces(line), _PTB)


def ptb_back(text: str) -> str:
    """Invert `ptb`, if possible."""
    return with_outer_spaces(apply(text, _PTB_BACK))


_PENN_BRACKETS = {
    f"-{side}{kind}b-": mark
    for side, kind, mark in (
        ("l", "r", "("), ("r", "r", ")"), ("l", "s", "["),
        ("r", "s", "]"), ("l", "c", "{"), ("r", "c", "}"),
    )
}  # fmt: skip
_PENN_CLOSE = re.compile(rf"n't|N'T|{SUFFIX}|[?!]+|[,;:)\]}}]")


def penn(line: str) -> str:
    """Detokenise: ``` `` no need , '' he did n't say ``` gives `"no need," he didn't say`."""
    tokens = [_PENN_BRACKETS.get(token.lower(), token) for token in line.split(" ")]
    marked, is_open = [], False
    for before, token, after in zip(("", *tokens), tokens, (*tokens[1:], ""), strict=False):
        if token in {"``", "`"}:
            is_open = is_open or token == "`"
            marked.append(('"' if token == "``" else "'") + OPEN)
        elif token == "''":
            marked.append(CLOSE + '"')
        elif token == "'":
            # `replied , ' I` is a mistake for "`". It stays separate: next to the comma it would
            # read wrongly, and next to the word it could not be inverted.
            is_mistake = not is_open and before in {",", ":"} and after[:1].isupper()
            marked.append(token if is_mistake else CLOSE + token)
            is_open = False
        elif token in {"(", "[", "{"}:
            marked.append(token + OPEN)
        else:
            marked.append(CLOSE + token if _PENN_CLOSE.fullmatch(token) else token)
    return apply(close_up(" ".join(marked)), [STOP])


def penn_back(text: str, *, upper: bool) -> str:
    """Invert `penn`; `upper` gives CBT's `-LRB-` instead of LAMBADA's `-lrb-`."""
    names = {mark: name.upper() if upper else name for name, mark in _PENN_BRACKETS.items()}
    quotes = {'"': "''", '"' + OPEN: "``", "'" + OPEN: "`"}
    tokens = []
    for token in split(text, PENN_TAIL, penn_owns_stop):
        plain = token.rstrip(OPEN)
        tokens.append(quotes.get(token) or names.get(plain, plain))
    return " ".join(tokens)
