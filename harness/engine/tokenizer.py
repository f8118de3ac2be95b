"""Text and bytes -> token ids, exactly: nothing is stripped, added or read as a special token.

Wraps the `tokenizers` back end of a Hugging Face tokenizer. Text such as `<|endoftext|>` inside
data is encoded as ordinary characters; start tokens are added by `harness.engine.encode` alone.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core import Bos
from harness.errors import CheckpointError, EncodingError

# `bytes.decode(errors="surrogateescape")` turns each invalid byte 0xNN into U+DCNN.
_AT_ONCE = 512  # texts; what the back end keeps of each is large while it is at work
_STRAY = re.compile("[\udc80-\udcff]")


class Tokenizer:
    """A tokenizer with a fast back end.

    Args:
        tokenizer: a transformers tokenizer.
        name: the checkpoint's name, for error messages.

    Raises:
        CheckpointError: it has no vocabulary (a model folder without tokenizer files gives an
            empty tokenizer, not an error), or no fast back end.
    """

    def __init__(self, tokenizer: Any, *, name: str) -> None:
        if len(tokenizer) <= 1:
            raise CheckpointError(
                f"model {name!r} has no tokenizer; expected tokenizer.json, or vocab.json with "
                "merges.txt, beside its weights"
            )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                f"model {name!r}: its tokenizer has no fast version; expected a tokenizer.json"
            )
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "<|endoftext|>" in data is ordinary text
        self._hf = tokenizer
        self._backend = backend
        self._ids = list(range(max(tokenizer.get_vocab().values()) + 1))

    def __len__(self) -> int:
        """Number of entries, added tokens included."""
        return len(self._hf)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokenizer's own serialisation: vocabulary, merges, normaliser."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        found: list[list[int]] = []
        for start in range(0, len(texts), _AT_ONCE):
            part = list(texts[start : start + _AT_ONCE])
            batch = self._backend.encode_batch_fast(part, add_special_tokens=False)
            found += [self._shared(encoding.ids) for encoding in batch]
        return found

    def _shared(self, ids: list[int]) -> list[int]:
        """The same ids as objects that all texts share: the back end makes one for each token."""
        return list(map(self._ids.__getitem__, ids))

    def encode_long(self, text: str) -> tuple[list[int], NDArray[np.int64]]:
        """Token ids of one text and the character at which each token begins.

        Characters U+DC80 to U+DCFF stand for single invalid bytes and become single-byte tokens.

        Raises:
            EncodingError: the vocabulary has no token for such a byte.
        """
        ids: list[int] = []
        starts: list[NDArray[np.int64]] = []
        position = 0
        for part in re.split("([\udc80-\udcff])", text):
            if _STRAY.fullmatch(part):
                ids.append(self._byte_id(ord(part) - 0xDC00))
                starts.append(np.array([position]))
            elif part:
                encoding = self._backend.encode(part, add_special_tokens=False)
                ids.extend(self._shared(encoding.ids))
                starts.append(np.array([o[0] for o in encoding.offsets], np.int64) + position)
            position += len(part)
        return ids, np.concatenate(starts) if starts else np.zeros(0, np.int64)

    def start(self, bos: Bos) -> tuple[int, ...]:
        """The start tokens of `bos`: none or one (see `harness.core.Encoding`)."""
        if bos == "none":
            return ()
        if bos == "tokenizer":
            return self._added_by_tokenizer()
        own = self._hf.bos_token_id if bos == "auto" else None
        found = own if own is not None else self._end_of_text()
        return () if found is None else (int(found),)

    def text(self, ids: Sequence[int]) -> str:
        """Text of some tokens; incomplete UTF-8 shows as U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def new_text(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add after `before`; special tokens add none.

        Decoded behind one token of `before`, for some decoders drop the space that opens a text.
        """
        known = self._plain(before[-1:])
        return self._plain([*before[-1:], *ids])[len(known) :]

    def _plain(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def holding(self, characters: set[str], size: int) -> NDArray[np.bool_]:
        """Which of the tokens 0 to `size` - 1 may hold one of the characters or a part of one."""
        texts = self.strings(range(size))
        found = np.zeros(size, np.bool_)
        for i, text in enumerate(texts):
            raw = str(self._backend.id_to_token(i) or "").replace("\u2581", " ")
            found[i] = "\ufffd" in text or any(c in text or c in raw for c in characters)
        return found

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens after which a text is over: the tokenizer's own, and `<|endoftext|>`."""
        return frozenset(
            int(token)
            for token in (self._hf.eos_token_id, self._backend.token_to_id("<|endoftext|>"))
            if token is not None
        )

    def strings(self, ids: Sequence[int]) -> list[str]:
        """Text of each token by itself, a leading space kept."""
        return [str(s) for s in self._backend.decode_batch([[i] for i in ids], False)]

    def _end_of_text(self) -> int | None:
        known = self._backend.token_to_id("<|endoftext|>")
        found = known if known is not None else self._hf.eos_token_id
        return None if found is None else int(found)

    def _added_by_tokenizer(self) -> tuple[int, ...]:
        with_special = self._backend.encode("a", add_special_tokens=True).ids
        plain = self._backend.encode("a", add_special_tokens=False).ids
        before = len(with_special) - len(plain)
        while before and with_special[before : before + len(plain)] != plain:
            before -= 1
        return tuple(with_special[:before])

    def _byte_id(self, byte: int) -> int:
        for name in (_byte_level_name(byte), f"<0x{byte:02X}>"):
            found = self._backend.token_to_id(name)
            if found is not None:
                return int(found)
        raise EncodingError(
            f"byte 0x{byte:02x} is no valid UTF-8 and the tokenizer has no token for single "
            "bytes; expected a byte-level vocabulary"
        )


def _byte_level_name(byte: int) -> str:
    """How byte-level BPE writes a byte that is no printable Latin-1 character, or the byte itself.

    Radford et al. 2019, section 2.2; 0xFF is `ÿ`, 0x80 (no printable character) is U+0122.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    others = [b for b in range(256) if b not in printable]
    return chr(256 + others.index(byte))
