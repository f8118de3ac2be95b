"""Split natural text into tokens again; shared by the inverses of the detokenisers."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

Rules = Sequence[tuple[str, str]]

# A full stop next to another one stays separate: `U.S. .` and `. . .` would become other tokens.
STOP = (r"(?<!\.) (?=\.[\"'”)\]}]*(?:'s)?(?: |$)(?!\.))", "")
# Private marks around a token: the space after OPEN and before CLOSE is removed.
OPEN, CLOSE = "\x02", "\x03"

# A chunk is the text between two spaces, such as `("Oh,`. Marks are split off its start while _HEAD
# matches, then off its end while the tail pattern matches.
_HEAD = re.compile(r"[\"“(\[{]|'(?!(?:em|til|tis|twas|n|T)\b)")
SUFFIX = r"'(?:s|S|m|M|d|D|re|RE|ve|VE|ll|LL)"
_MARK = r"[,;:\"”)\]}']|\.(?<!\.\.)"
PENN_TAIL = re.compile(rf"(?<=.)(?:n't|N'T|{SUFFIX}|[?!]+|{_MARK})$")
_NEAR_CHARS = 16  # at the end of a chunk, where a mark is searched first
# Moses splits before any apostrophe inside a word (O 'Neill) and before a per cent sign.
WORD_SUFFIX = r"'[^\W\d_](?:[\w.-]*[\w-])?"
MOSES_TAIL = re.compile(rf"(?<=.)(?:(?<=[^\W\d_]|>){WORD_SUFFIX}|{SUFFIX}|[?!]|{_MARK}|%)$")

# Words with a full stop of their own: initials, abbreviations (p.m., N.C.), titles.
_ALWAYS = re.compile(
    r"(?:[A-Z]|(?=.*[^\W\d_]).*\..*|Adm|Brig|Bros|Capt|Cmdr|Col|Corp|Cpl|Drs?|Gen|Gov|Lt|Maj"
    r"|Messrs|Mrs?|Ms|Prof|Pvt|Reps?|Rev|Sens?|Sgt|Sr|St|Supt|vs?|mrs?|ms|dr|det|jr|st)\."
)
_BEFORE_NUMBER = re.compile(r"(?:Art|Nos?|pp|Ph)\.")


def apply(text: str, rules: Rules) -> str:
    """Apply every (pattern, replacement), in order."""
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def close_up(text: str) -> str:
    """Remove the marks, with the spaces that they cancel."""
    return re.sub(f"{OPEN} ?| ?{CLOSE}", "", text)


def penn_owns_stop(word: str, following: str) -> bool:
    """Whether the treebank does not split the full stop off `word`: `Mr.`, `p.m.`."""
    return _ALWAYS.fullmatch(word) is not None


def moses_owns_stop(word: str, following: str) -> bool:
    """Whether Moses does not split it off before `following`: `Inc.` before `said`, not `The`."""
    return (
        _ALWAYS.fullmatch(word) is not None
        or following[:1].islower()
        or (_BEFORE_NUMBER.fullmatch(word) is not None and following[:1].isdigit())
    )


def _split_chunk(
    chunk: str, following: str, tail: re.Pattern[str], owns_stop: Callable[[str, str], bool]
) -> Iterator[str]:
    """Split a chunk and tag opening marks: `(dogs'` gives `(` + OPEN, `dogs`, `'`."""
    begin, end = 0, len(chunk)
    while end - begin > 1 and (match := _HEAD.match(chunk, begin)):
        yield match[0] + OPEN
        begin = match.end()
    ends: list[str] = []
    while (start := _tail_start(chunk, begin, end, tail)) > begin:
        mark = chunk[start:end]
        after = ends[-1] if ends else following
        if mark == "." and chunk[end - 2].isalnum() and owns_stop(chunk[begin:end], after):
            break
        ends.append(mark)
        end = start
    yield chunk[begin:end]
    yield from reversed(ends)


def _tail_start(chunk: str, begin: int, end: int, tail: re.Pattern[str]) -> int:
    """Start of the first match of `tail` in `chunk[begin:end]`; `begin` if there is none.

    The end is searched first: a search from the left would scan the chunk for every mark and hang
    on a chunk of 100,000 marks.
    """
    near = max(begin + 1, end - _NEAR_CHARS)
    match = tail.search(chunk, near, end)
    if match is None and near > begin + 1:  # only a word after an apostrophe is longer than that
        apostrophe = chunk.rfind("'", begin + 1, near)
        match = tail.match(chunk, apostrophe, end) if apostrophe >= 0 else None
    if match is None:
        return begin
    start = match.start()
    if start == near:  # a run of ? and ! may have begun before
        while start > begin + 1 and chunk[start - 1] in "?!":
            start -= 1
    return start


def split(text: str, tail: re.Pattern[str], owns_stop: Callable[[str, str], bool]) -> list[str]:
    """Split a text into tokens and tag opening marks."""
    chunks = [*text.split(" "), ""]
    return [
        token
        for chunk, following in pairwise(chunks)
        for token in _split_chunk(chunk, following, tail, owns_stop)
    ]


def without_outer_spaces(line: str) -> str:
    """Remove one space at each end: ` no it was ` gives `no it was`, a single space nothing."""
    return line.removeprefix(" ").removesuffix(" ")


def with_outer_spaces(line: str) -> str:
    """Invert `without_outer_spaces`."""
    return f" {line} " if line else " "
