"""What a tokenizer loses of a text: characters that its tokens do not give back."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.engine.tokenizer import STRAY, Tokenizer
from harness.errors import EncodingError


class Read(NamedTuple):
    """A request's text as it was encoded.

    Characters U+DC80 to U+DCFF stand for single bytes and are never lost.
    """

    text: str
    ids: Sequence[int]
    scored: int  # from which character the text is scored


class Loss(NamedTuple):
    """What is lost of one text; spaces that open it do not count.

    `lost` counts characters that the text of the tokens does not have, or not as often: of another
    case or form, dropped, or unknown. `unknown` are the places of those, white space and control
    characters aside, that no token stands for but the one for what is unknown.
    """

    lost: int = 0
    unknown: tuple[int, ...] = ()


NOTHING = Loss()


def losses(tokenizer: Tokenizer, read: Sequence[Read]) -> list[Loss]:
    """What is lost of each text; equal texts are looked at once.

    Raises:
        EncodingError: text that is to be scored has no token but the one for what is unknown. Its
            `request` is the place in `read`.
    """
    ids = {each.text: each.ids for each in read}
    decoded = tokenizer.texts(list(ids.values()))
    lossy = {
        text: _loss(tokenizer, text)
        for text, back in zip(ids, decoded, strict=True)
        if not _same(text, back)
    }
    found = [lossy.get(each.text, NOTHING) for each in read]
    for i, (each, loss) in enumerate(zip(read, found, strict=True)):
        place = next((k for k in loss.unknown if k >= each.scored), None)
        if place is not None:
            share = sum(loss.lost for loss in found) / sum(len(each.text) for each in read)
            near = each.text[max(each.scored, place - 20) : place + 20]
            raise EncodingError(
                f"the tokenizer has no token for {each.text[place]!r} in {near!r}, which is to be "
                f"scored; it loses {share:.2%} of the characters of these {len(read):,} requests; "
                "expected a tokenizer that covers the benchmark's text",
                i,
            )
    return found


def _same(text: str, back: str) -> bool:
    if text == back or text.lstrip(" ") == back.lstrip(" "):
        return True
    plain = STRAY.sub("", text)
    return len(plain) < len(text) and _comparable(plain) == _comparable(back)


def _comparable(text: str) -> str:
    return text.lstrip(" ").replace("\ufffd", "")


def _loss(tokenizer: Tokenizer, text: str) -> Loss:
    missing: Counter[str] = Counter(_comparable(STRAY.sub("", text)))
    unknown: list[int] = []
    position = 0
    for part in STRAY.split(text):
        if part and not STRAY.fullmatch(part):
            encoding = tokenizer.encoding(part)
            held, known = _known(tokenizer, part, encoding)
            unknown += [position + k for k in held]
            missing -= Counter(tokenizer.text(known))
        position += len(part)
    return Loss(max(missing.total(), len(unknown)), tuple(unknown))


def _known(tokenizer: Tokenizer, text: str, encoding: Any) -> tuple[list[int], list[int]]:
    """Places of the characters that have no token, and the tokens that stand for the others."""
    known: list[int] = []
    covered = bytearray(len(text))
    for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
        if token == tokenizer.unknown and text[first:last].strip() != tokenizer.name(token):
            continue
        known.append(token)
        covered[first:last] = b"\1" * (last - first)
    places = (k for k, there in enumerate(covered) if not there)
    return [k for k in places if text[k].isprintable() and not text[k].isspace()], known
