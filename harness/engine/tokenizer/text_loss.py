"""What a tokenizer loses of a text: characters that its tokens do not give back."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from harness.engine.tokenizer.tokenizer import STRAY, Tokenizer
from harness.errors import EncodingError


class EncodedText(NamedTuple):
    """A request's text as it was encoded.

    Characters U+DC80 to U+DCFF stand for single bytes and are never lost.
    """

    text: str
    ids: Sequence[int]
    scored: int  # from which character the text is scored


class TextLoss(NamedTuple):
    """What is lost of one text; spaces that open it do not count."""

    lost: int = 0
    """Characters that the text of the tokens does not have, or not as often: unknown, dropped, or
    of another case or form."""
    unknown: int = 0
    """Characters, white space and control characters aside, that no token stands for after the
    tokenizer's own normalisation, but the token for what is unknown."""
    example: str = ""
    """One of the unknown pieces."""


NO_LOSS = TextLoss()


def text_losses(tokenizer: Tokenizer, read: Sequence[EncodedText]) -> list[TextLoss]:
    """What is lost of each text; equal texts are looked at once.

    Raises:
        EncodingError: text that is to be scored has no token but the one for what is unknown. Its
            `request` is the place in `read`.
    """
    ids = {each.text: each.ids for each in read}
    decoded = tokenizer.decode_batch(list(ids.values()))
    lossy = {
        text: _loss(tokenizer, text)
        for text, back in zip(ids, decoded, strict=True)
        if not _same(text, back)
    }
    found = [lossy.get(each.text, NO_LOSS) for each in read]
    for i, (each, loss) in enumerate(zip(read, found, strict=True)):
        if loss.unknown > _loss(tokenizer, each.text[: each.scored]).unknown:
            share = sum(loss.lost for loss in found) / sum(len(each.text) for each in read)
            scored = each.text[each.scored :]
            example = _loss(tokenizer, scored).example or scored
            raise EncodingError(
                f"the tokenizer has no token for {example[:40]!r}, which is to be scored; it loses "
                f"{share:.2%} of the characters of these {len(read):,} requests; expected a "
                "tokenizer that covers the benchmark's text",
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


def _loss(tokenizer: Tokenizer, text: str) -> TextLoss:
    """Counts characters, wherever they stand: tokenizers that drop some misplace the others."""
    text = STRAY.sub("", text)
    encoding = tokenizer.encoding(text)
    known: list[int] = []
    example = ""
    for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
        source = text[first:last].strip()
        if token == tokenizer.unknown_id and source != tokenizer.token_name(token):
            example = example or source
        else:
            known.append(token)
    back = Counter(tokenizer.decode(known))
    unknown = _visible(Counter(tokenizer.normalize(text)) - back, tokenizer, text)
    lost = (Counter(_comparable(text)) - back).total()
    count = max(unknown.total(), len(example))
    return TextLoss(max(lost, count), count, example or next(iter(unknown), ""))


def _visible(found: Counter[str], tokenizer: Tokenizer, text: str) -> Counter[str]:
    """Those of normalised characters that stand for characters to be seen, not for spaces."""
    spaces = set(tokenizer.normalize(" "))
    found = Counter(
        {c: n for c, n in found.items() if c not in spaces and c.isprintable() and not c.isspace()}
    )
    if found:
        normalised = {n for c in set(text) if not c.isspace() for n in tokenizer.normalize(c)}
        found = Counter({c: n for c, n in found.items() if c in normalised})
    return found
