"""Measure what a tokenizer loses: characters that decoding its tokens does not give back."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from harness.engine.tokenizer.tokenizer import INVALID_BYTE, Tokenizer
from harness.errors import EncodingError


class EncodedText(NamedTuple):
    """The text of a request with its tokens.

    The characters U+DC80 to U+DCFF stand for single bytes and are never lost.
    """

    text: str
    ids: Sequence[int]
    scored_from: int  # first character that is scored


class TextLoss(NamedTuple):
    """What is lost of one text; leading spaces do not count.

    `lost` characters are unknown, dropped, or changed in case or form. `unknown` ones are visible
    and, after normalisation, have no token but the one for unknown text.
    """

    lost: int = 0
    unknown: int = 0
    example: str = ""  # one of the unknown pieces


NO_LOSS = TextLoss()


def text_losses(tokenizer: Tokenizer, encoded: Sequence[EncodedText]) -> list[TextLoss]:
    """Measure what is lost of each text; equal texts are measured once.

    Raises:
        EncodingError: text to be scored has no token but the one for unknown text. The attribute
            `request` is the index into `encoded`.
    """
    ids = {entry.text: entry.ids for entry in encoded}
    decoded = tokenizer.decode_batch(list(ids.values()))
    by_text = {
        text: _loss(tokenizer, text)
        for text, back in zip(ids, decoded, strict=True)
        if not _same(text, back)
    }
    losses = [by_text.get(entry.text, NO_LOSS) for entry in encoded]
    for i, (entry, loss) in enumerate(zip(encoded, losses, strict=True)):
        before = entry.text[: entry.scored_from]
        if loss.unknown and loss.unknown > _loss(tokenizer, before).unknown:
            share = sum(loss.lost for loss in losses) / sum(len(entry.text) for entry in encoded)
            scored = entry.text[entry.scored_from :]
            example = _loss(tokenizer, scored).example or scored
            raise EncodingError(
                f"the tokenizer has no token for {example[:40]!r}, which is to be scored; it loses "
                f"{share:.2%} of all characters of {len(encoded):,} "
                f"request{'s' * (len(encoded) != 1)}; expected a tokenizer that covers the "
                "benchmark's text",
                i,
            )
    return losses


def _same(text: str, back: str) -> bool:
    if text == back or text.lstrip(" ") == back.lstrip(" "):
        return True
    valid = INVALID_BYTE.sub("", text)
    return len(valid) < len(text) and _comparable(valid) == _comparable(back)


def _comparable(text: str) -> str:
    return text.lstrip(" ").replace("\ufffd", "")


def _loss(tokenizer: Tokenizer, text: str) -> TextLoss:
    """Compare counts of characters: tokenizers that drop some misplace the others."""
    text = INVALID_BYTE.sub("", text)
    encoding = tokenizer.encoding(text)
    tokens: list[int] = []
    example = ""
    for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        piece = text[start:stop].strip()
        if token == tokenizer.unknown_id and piece != tokenizer.token_name(token):
            example = example or piece
        else:
            tokens.append(token)
    decoded = Counter(tokenizer.decode(tokens))
    unknown = _visible(Counter(tokenizer.normalize(text)) - decoded, tokenizer, text)
    lost = (Counter(_comparable(text)) - decoded).total()
    count = max(unknown.total(), len(example))
    return TextLoss(max(lost, count), count, example or next(iter(unknown), ""))


def _visible(characters: Counter[str], tokenizer: Tokenizer, text: str) -> Counter[str]:
    """Those of the normalised characters of a text that are visible and do not stand for spaces."""
    hidden = {c for c in characters if not c.isprintable() or c.isspace()}
    hidden.update(tokenizer.normalize(" "))
    if characters.keys() <= hidden:
        return Counter()
    originals = {c for c in text if not c.isspace()}
    normalised = {n for c in originals for n in tokenizer.normalize(c)}
    return Counter({c: characters[c] for c in characters if c in normalised and c not in hidden})
