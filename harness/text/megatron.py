"""The rules published with Megatron-LM, slips included: lossy, but known figures rest on them."""

import re

from harness.text.splitting import Rules, apply

_PTB_MEGATRON: Rules = (
    (" '", "'"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" n't", "n't"),
    (" N ", "1 "),
    (r"\$ 1", "$1"),
    ("# 1", "#1"),
)


# As published with Megatron-LM and copied by lm-eval, slips included, since figures depend on
# them: the first rule also eats the space before an opening quote; the second has literal slashes
# and fires on next to nothing; pairs may span lines; apostrophes pair up; the letter N becomes 1.
_WIKITEXT_MEGATRON: Rules = (
    ("s '", "s'"),
    ("/' [0-9]/", "/'[0-9]/"),
    *((re.escape(f" @{mark}@ "), mark) for mark in "-,."),
    *((re.escape(f" {mark} "), f"{mark} ") for mark in ":;.!?,"),
    # Here the published rules close up pairs, `\(\s*([^\)]*?)\s*\)` and the like.
)
_PAIRS = ("()", "[]", "{}", '""', "''")
_AFTER_PAIRS: Rules = (
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
    text = apply(text, _WIKITEXT_MEGATRON)
    for pair in _PAIRS:
        text = _closed_up(text, pair[0], pair[1])
    return apply(text, _AFTER_PAIRS)


def _closed_up(text: str, first: str, last: str) -> str:
    """What the pattern of a pair gives, without its time on text that never closes the pair.

    White space goes after `first` and before the next `last`: `( a ) (b` gives `(a) (b`.
    """
    found: list[str] = []
    done = 0
    while (start := text.find(first, done)) >= 0 and (stop := text.find(last, start + 1)) >= 0:
        found += text[done:start], first, text[start + 1 : stop].strip(), last
        done = stop + 1
    return "".join([*found, text[done:]])


def megatron_wikitext_line(line: str) -> str:
    """The document rules on one line, with line ends lent to it since two rules look for them."""
    return megatron_wikitext(f"\n{line}\n")[1:-1]


def megatron_ptb(line: str) -> str:
    """Megatron-LM's rules as published, slips included: ` or N cents ` gives `or1 cents`.

    The space before N goes with it, and of `at N N yield` only the first N changes (`at1 N
    yield`), since the two share a space. Line ends are lent to the line, as two rules need them.
    """
    return apply(f"\n{line}\n", _PTB_MEGATRON)[1:-1]
