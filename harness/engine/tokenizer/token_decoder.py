"""Decode tokens at the beginning of a text and inside a running text.

Many decoders change the ends of a text: they drop its first space or put one before each word.
Tokens inside a running text are therefore decoded between two characters that no vocabulary has
and every decoder passes on.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

_BEFORE, _AFTER = "\U000f0000", "\U000f0001"  # for private use


class TokenDecoder:
    """Text of token names, as a decoder of `tokenizers` has it; None joins them with spaces."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def at_start(self, names: Sequence[str]) -> str:
        """Text of tokens that begin a text."""
        return str(self._decoder.decode(list(names))) if self._decoder else " ".join(names)

    def inside(self, names: Sequence[str]) -> str:
        """Text of tokens that continue a text."""
        return self.at_start([_BEFORE, *names])[len(_BEFORE) :]

    def after(self, parts: Sequence[tuple[str | None, Sequence[str]]]) -> list[str]:
        """Text that tokens add after another one, or at the beginning (None) of a text.

        Some decoders show the end of a token only with the next one.
        """
        texts = []
        for before, names in parts:
            if before is None:
                texts.append(self.at_start(names))
                continue
            shown = self.inside([before] if before else [])
            pending = self.between([before])[0][len(shown) :] if names else ""
            texts.append(pending + self.inside(names))
        return texts

    def between(self, names: Sequence[str]) -> list[str]:
        """Text of each token where other tokens come before and after it; none for no name."""
        texts = []
        for name in names:
            text = self.inside([name, _AFTER]) if name else self._next_token
            texts.append(text[: len(text) - len(self._next_token)])
        return texts

    @cached_property
    def _next_token(self) -> str:
        """The text of a following token: some decoders put a space before it."""
        return self.inside([_AFTER])

    @cached_property
    def byte_name(self) -> Callable[[int], str] | None:
        """How the vocabulary writes a byte; None if it has no bytes.

        The decoder decides: a vocabulary of characters has the names of byte-level BPE, too.
        """
        for name in (_byte_level_name, "<0x{:02X}>".format):
            if self.inside([name(byte) for byte in "é".encode()]) == "é":
                return name
        return None


def _byte_level_name(byte: int) -> str:
    """How byte-level BPE writes a byte: as itself if it is a printable Latin-1 character.

    Radford et al. 2019, section 2.2; 0xFF is `ÿ`, 0x80 (not printable) is U+0122.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte if byte in printable else 256 + others.index(byte))
