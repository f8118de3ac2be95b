"""Text and bytes -> token ids, exactly: nothing is stripped, added or read as a special token.

Wraps the `tokenizers` back end of a Hugging Face tokenizer. Text such as `<|endoftext|>` inside
data is encoded as ordinary characters; start tokens are added by `encode` alone.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from string import ascii_letters
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core import Bos
from harness.engine.tokenizer.offsets import token_starts
from harness.errors import CheckpointError, EncodingError

_AT_ONCE = 512  # texts; what the back end keeps of each is large while it is at work
# `bytes.decode(errors="surrogateescape")` turns each invalid byte 0xNN into U+DCNN.
STRAY = re.compile("([\udc80-\udcff])")
# Stand before and behind a token while it is decoded: private-use characters, which are in no
# vocabulary and which every decoder passes on as they are.
_BEFORE, _AFTER = "\U000f0000", "\U000f0001"


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
        entries = tokenizer.get_vocab()
        if len(entries) <= 1:
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
        _encode_deterministically(backend)
        self._hf = tokenizer
        self._backend = backend
        self._decoder = backend.decoder
        self._ids = {i: i for i in entries.values()}
        self._special = frozenset(
            i for i, token in backend.get_added_tokens_decoder().items() if token.special
        )

    def __len__(self) -> int:
        """Number of entries, added tokens included."""
        return len(self._hf)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokenizer's own serialisation: vocabulary, merges, normaliser."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    @cached_property
    def largest_id(self) -> int:
        """The largest id of an entry."""
        return int(max(self._ids))

    def token_name(self, token: int) -> str:
        """How the vocabulary writes a token; empty for an id that it does not have."""
        return str(self._backend.id_to_token(token) or "")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens.

        Raises:
            EncodingError: the back end refuses a text, such as one of words that it has no token
                for, not even one for unknown words.
        """
        found: list[list[int]] = []
        for start in range(0, len(texts), _AT_ONCE):
            part = list(texts[start : start + _AT_ONCE])
            try:
                batch = self._backend.encode_batch_fast(part, add_special_tokens=False)
            except Exception:  # the back end raises no class of its own; one by one names the text
                batch = [self.encoding(text) for text in part]
            found += [self._shared(encoding.ids) for encoding in batch]
        return found

    def _shared(self, ids: list[int]) -> list[int]:
        """The same ids as objects that all texts share: the back end makes one for each token."""
        return list(map(self._ids.__getitem__, ids))

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that goes on where another one ended; raises as `encode`."""
        before, count = self._opening(text)
        return self.encode([before + text])[0][count:]

    def _opening(self, text: str) -> tuple[str, int]:
        """What to put before a text that goes on with another, and how many tokens that is.

        Encoded by itself, a text gets a space in front from tokenizers of Llama 2's kind; behind
        a line, say, it does not.
        """
        if self._opens_as_it_goes_on:
            return "", 0
        for before in ("", "\n", ".", "a", "0"):
            count = self._behind(before, text)
            if count is not None:
                return before, count
        return "", 0

    @cached_property
    def _opens_as_it_goes_on(self) -> bool:
        """Whether a text alone is encoded as inside another one, with or without a space."""
        return all(self._behind("", text) == 0 for text in ("a", " a"))

    def _behind(self, before: str, text: str) -> int | None:
        """How many tokens `before` is if `text` behind it is its own tokens; None if it is not."""
        try:
            opening, whole = self.encode([before, before + text])
        except EncodingError:
            return None
        count = len(opening)
        own = whole[:count] == opening and self._inside(self._tokens(whole[count:])) == text
        return count if own else None

    def normalize(self, text: str) -> str:
        """A text as the tokenizer's normaliser leaves it."""
        normalizer = self._backend.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text

    def encoding(self, text: str) -> Any:
        """The back end's encoding of one text, without special tokens; raises as `encode`."""
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except Exception as error:
            raise EncodingError(f"the tokenizer cannot encode {text[:60]!r}: {error}") from error

    def encode_with_starts(self, text: str) -> tuple[list[int], NDArray[np.int64]]:
        """Token ids of one text and the character at which each token begins.

        Characters U+DC80 to U+DCFF stand for single invalid bytes and become single-byte tokens.

        Raises:
            EncodingError: the vocabulary has no token for such a byte, or the tokenizer does not
                say which characters a token stands for.
        """
        ids: list[int] = []
        starts: list[NDArray[np.int64]] = []
        position = 0
        for part in STRAY.split(text):
            if STRAY.fullmatch(part):
                ids.append(self._byte_id(ord(part) - 0xDC00))
                starts.append(np.array([position]))
            elif part:
                some, their_starts = self._encode_part(part, inside=position > 0)
                ids.extend(some)
                starts.append(their_starts + position)
            position += len(part)
        return ids, np.concatenate(starts) if starts else np.zeros(0, np.int64)

    def _encode_part(self, text: str, inside: bool) -> tuple[list[int], NDArray[np.int64]]:
        before, count = self._opening(text) if inside else ("", 0)
        encoding = self.encoding(before + text)
        ids = self._shared(encoding.ids[count:])
        spans = [(a - len(before), b - len(before)) for a, b in encoding.offsets[count:]]
        return ids, token_starts(text, spans, lambda k: self._piece(ids[k]))

    def start_tokens(self, bos: Bos) -> tuple[int, ...]:
        """The start tokens of `bos`: none or one (see `harness.core.Encoding`)."""
        if bos == "none":
            return ()
        if bos == "tokenizer":
            return self._added_by_tokenizer()
        own = self._hf.bos_token_id if bos == "auto" else None
        found = own if own is not None else self._end_of_text()
        return () if found is None else (int(found),)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some tokens; incomplete UTF-8 shows as U+FFFD."""
        return self.decode_batch([ids])[0] if ids else ""  # some decoders take no empty text

    def decode_batch(self, many: Sequence[Sequence[int]]) -> list[str]:
        """Text of each sequence of tokens, special ones written out."""
        found: list[str] = []
        for start in range(0, len(many), _AT_ONCE):
            part = [list(ids) for ids in many[start : start + _AT_ONCE]]
            found += self._backend.decode_batch(part, False)
        return found

    def new_text(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add after `before`; special tokens add none.

        Behind nothing but a start token the text begins, and a decoder that drops the space which
        opens a text drops it.
        """
        tokens = self._tokens(ids)
        if not before or before[-1] in self._special:
            return self._decode(tokens)
        opened = self._inside(self._tokens(before[-1:]))
        waiting = self._piece(before[-1])[len(opened) :] if tokens else ""
        return waiting + self._inside(tokens)

    def tokens_with(self, characters: set[str], size: int) -> NDArray[np.bool_]:
        """Which of the tokens 0 to `size` - 1 may complete a text with one of the characters."""
        texts = self.token_texts(range(size))
        found = np.zeros(size, np.bool_)
        for i, text in enumerate(texts):
            raw = self.token_name(i).replace("\u2581", " ")
            found[i] = "\ufffd" in text or any(c in text or c in raw for c in characters)
        if " " in characters and any(self._waits(i, text) for i, text in enumerate(texts)):
            found[:] = True  # the space shows when the next token comes, whichever that is
        return found

    def _waits(self, token: int, text: str) -> bool:
        """Whether the space that ends a token shows only when another follows (`BPEDecoder`)."""
        return text.endswith(" ") and self._inside([self.token_name(token)]) != text

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens after which a text is over: the tokenizer's own, and `<|endoftext|>`."""
        return frozenset(
            int(token)
            for token in (self._hf.eos_token_id, self._backend.token_to_id("<|endoftext|>"))
            if token is not None
        )

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds inside a running text, with its leading space.

        Incomplete UTF-8 shows as U+FFFD; an id that the vocabulary does not have adds nothing.
        """
        return [self._piece(i) for i in ids]

    def _piece(self, token: int) -> str:
        """Decoded between two others and cut out: some decoders change the ends of a text."""
        name = self.token_name(token)
        if not name:
            return ""
        whole = self._decode([_BEFORE, name, _AFTER])
        return whole[len(_BEFORE) : len(whole) - len(self._opened_after)]

    @cached_property
    def has_lone_spaces(self) -> bool:
        """Whether the space in front of some English letter is a token of its own."""
        try:
            encoded = self.encode([f"a {letter}" for letter in ascii_letters])
        except EncodingError:
            return False
        return any(" " in self.token_texts(ids[1:-1]) for ids in encoded)

    @cached_property
    def _opened_after(self) -> str:
        """What the token behind shows as: some decoders put a space in front."""
        return self._decode([_BEFORE, _AFTER])[len(_BEFORE) :]

    def _inside(self, tokens: list[str]) -> str:
        """Text of tokens that go on with a text."""
        return self._decode([_BEFORE, *tokens])[len(_BEFORE) :]

    def _decode(self, tokens: list[str]) -> str:
        return str(self._decoder.decode(tokens)) if self._decoder else " ".join(tokens)

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        """How the vocabulary writes tokens, without special and unknown ids."""
        return [name for i in ids if i not in self._special and (name := self.token_name(i))]

    @cached_property
    def unknown_id(self) -> int | None:
        """The token for what the vocabulary does not have; None if there is no such token."""
        model = self._backend.model
        if not hasattr(model, "unk_token"):  # a unigram model, which tells only its file
            found = json.loads(self._backend.to_str())["model"].get("unk_id")
            return None if found is None else int(found)
        return None if model.unk_token is None else self._backend.token_to_id(model.unk_token)

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
        found = self._byte_name and self._backend.token_to_id(self._byte_name(byte))
        if found is None:
            raise EncodingError(
                f"byte 0x{byte:02x} is no valid UTF-8 and the tokenizer has no token for single "
                "bytes; expected a byte-level vocabulary"
            )
        return int(found)

    @cached_property
    def _byte_name(self) -> Callable[[int], str] | None:
        """How the vocabulary writes a byte, which the decoder tells; None if it has no bytes.

        A vocabulary of characters has the names of byte-level BPE too, as characters.
        """
        for name in (_byte_level_name, "<0x{:02X}>".format):
            if self._inside([name(byte) for byte in "é".encode()]) == "é":
                return name
        return None


def _encode_deterministically(backend: Any) -> None:
    """Switch off sub-word regularisation, by which training draws one of several encodings."""
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None
    if getattr(backend.model, "alpha", None) is not None:
        backend.model.alpha = None


def _byte_level_name(byte: int) -> str:
    """How byte-level BPE writes a byte that is no printable Latin-1 character, or the byte itself.

    Radford et al. 2019, section 2.2; 0xFF is `ÿ`, 0x80 (no printable character) is U+0122.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    others = [b for b in range(256) if b not in printable]
    return chr(256 + others.index(byte))
