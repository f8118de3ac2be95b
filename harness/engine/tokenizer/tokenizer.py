"""Convert text and bytes to token ids and back without changing them.

Wraps the `tokenizers` back end of a Hugging Face tokenizer. Nothing is stripped, and special tokens
such as `<|endoftext|>` inside data are ordinary characters. Start tokens are separate.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from string import ascii_letters
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core import Bos
from harness.engine.tokenizer.offsets import token_starts
from harness.engine.tokenizer.token_decoder import TokenDecoder
from harness.errors import CheckpointError, EncodingError

_BATCH = 512  # texts at once; the back end needs much memory per text while it works
# `bytes.decode(errors="surrogateescape")` turns each invalid byte 0xNN into U+DCNN.
INVALID_BYTE = re.compile("([\udc80-\udcff])")
_END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """A transformers tokenizer with a fast back end; `name` is its checkpoint's, for messages.

    Raises:
        CheckpointError: it has no vocabulary (transformers loads a folder without tokenizer files
            as an empty tokenizer), or no fast back end.
    """

    def __init__(self, tokenizer: Any, *, name: str) -> None:
        vocabulary = tokenizer.get_vocab()
        if len(vocabulary) <= 1:
            raise CheckpointError(
                f"model {name!r} has no tokenizer; expected tokenizer.json, or vocab.json with "
                "merges.txt, next to its weights"
            )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                f"model {name!r}: its tokenizer has no fast version; expected a tokenizer.json"
            )
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "<|endoftext|>" in data is ordinary text
        # Sub-word regularisation draws one of several encodings during training.
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        if getattr(backend.model, "alpha", None) is not None:
            backend.model.alpha = None
        self._hf = tokenizer
        self._backend = backend
        self._decoder = TokenDecoder(backend.decoder)
        # All encoded texts share one object per id; the back end makes one per token.
        self._ids = {i: i for i in vocabulary.values()}
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
        """The largest id in the vocabulary."""
        return int(max(self._ids))

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a text: the tokenizer's own, and `<|endoftext|>`."""
        ends = (self._hf.eos_token_id, self._backend.token_to_id(_END_OF_TEXT))
        return frozenset(int(token) for token in ends if token is not None)

    @cached_property
    def unknown_id(self) -> int | None:
        """The token for text that the vocabulary lacks; None if there is no such token."""
        model = self._backend.model
        if not hasattr(model, "unk_token"):  # a unigram model shows it only in its file
            unknown = json.loads(self._backend.to_str())["model"].get("unk_id")
            return None if unknown is None else int(unknown)
        return None if model.unk_token is None else self._backend.token_to_id(model.unk_token)

    @cached_property
    def has_lone_spaces(self) -> bool:
        """Whether the space before some English letter is a token of its own."""
        try:
            encoded = self.encode([f"a {letter}" for letter in ascii_letters])
        except EncodingError:
            return False
        return any(" " in self.token_texts(ids[1:-1]) for ids in encoded)

    def token_name(self, token: int) -> str:
        """How the vocabulary writes a token; empty for an unknown id."""
        return str(self._backend.id_to_token(token) or "")

    def normalize(self, text: str) -> str:
        """Apply the tokenizer's normaliser."""
        normalizer = self._backend.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text

    # --- text to tokens -------------------------------------------------------------------

    def start_tokens(self, bos: Bos) -> tuple[int, ...]:
        """The start tokens of `bos` (see `harness.core.Encoding`): none or one."""
        if bos == "none":
            return ()
        if bos == "tokenizer":
            return self._added_in_front()
        token = self._hf.bos_token_id if bos == "auto" else None
        for candidate in (token, self._backend.token_to_id(_END_OF_TEXT), self._hf.eos_token_id):
            if candidate is not None:
                return (int(candidate),)
        return ()

    def _added_in_front(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer itself puts before a text."""
        with_special = self._backend.encode("a", add_special_tokens=True).ids
        plain = self._backend.encode("a", add_special_tokens=False).ids
        count = len(with_special) - len(plain)
        while count and with_special[count : count + len(plain)] != plain:
            count -= 1
        return tuple(with_special[:count])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens.

        Raises:
            EncodingError: the back end refuses a text, for example one of words for which it has
                no token, not even one for unknown words.
        """
        ids: list[list[int]] = []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            try:
                encodings = self._backend.encode_batch_fast(batch, add_special_tokens=False)
            except Exception:  # the back end does not say which text; one by one does
                encodings = [self.encoding(text) for text in batch]
            ids += [[self._ids[i] for i in encoding.ids] for encoding in encodings]
        return ids

    def encoding(self, text: str) -> Any:
        """The back end's encoding of one text, without special tokens; raises as `encode`."""
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except Exception as error:
            raise EncodingError(f"the tokenizer cannot encode {text[:60]!r}: {error}") from error

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that continues another one; raises as `encode`."""
        prefix, count = self._neutral_prefix(text)
        return self.encode([prefix + text])[0][count:]

    def _neutral_prefix(self, text: str) -> tuple[str, int]:
        """A prefix behind which a text is encoded as a continuation, and its number of tokens.

        Tokenizers like that of Llama 2 put a space before a text, but not before a continuation,
        for example behind a line break.
        """
        if self._needs_no_prefix:
            return "", 0
        for prefix in ("", "\n", ".", "a", "0"):
            count = self._prefix_tokens(prefix, text)
            if count is not None:
                return prefix, count
        return "", 0

    @cached_property
    def _needs_no_prefix(self) -> bool:
        """Whether a text is encoded as a continuation is, with and without a leading space."""
        return all(self._prefix_tokens("", text) == 0 for text in ("a", " a"))

    def _prefix_tokens(self, prefix: str, text: str) -> int | None:
        """The number of tokens of `prefix`; None if `text` has no tokens of its own behind it."""
        try:
            prefix_ids, ids = self.encode([prefix, prefix + text])
        except EncodingError:
            return None
        count = len(prefix_ids)
        if ids[:count] != prefix_ids or self._decoder.inside(self._names(ids[count:])) != text:
            return None
        return count

    def encode_with_starts(self, text: str) -> tuple[list[int], NDArray[np.int64]]:
        """Token ids of one text and the character at which each token begins.

        The characters U+DC80 to U+DCFF stand for single invalid bytes and become one token each.

        Raises:
            EncodingError: the vocabulary has no token for such a byte, or the tokenizer does not
                report which characters a token stands for.
        """
        ids: list[int] = []
        starts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        position = 0
        for part in INVALID_BYTE.split(text):
            if INVALID_BYTE.fullmatch(part):
                ids.append(self._byte_id(ord(part) - 0xDC00))
                starts.append(np.array([position]))
            elif part:
                part_ids, part_starts = self._encode_part(part, inside=position > 0)
                ids.extend(part_ids)
                starts.append(part_starts + position)
            position += len(part)
        return ids, np.concatenate(starts)

    def _encode_part(self, text: str, inside: bool) -> tuple[list[int], NDArray[np.int64]]:
        prefix, count = self._neutral_prefix(text) if inside else ("", 0)
        encoding = self.encoding(prefix + text)
        ids = [self._ids[i] for i in encoding.ids[count:]]
        spans = np.array(encoding.offsets[count:], np.int64).reshape(-1, 2) - len(prefix)
        return ids, token_starts(text, spans, lambda k: self.token_texts([ids[k]])[0])

    def _byte_id(self, byte: int) -> int:
        byte_name = self._decoder.byte_name
        token = byte_name and self._backend.token_to_id(byte_name(byte))
        if token is None:
            raise EncodingError(
                f"byte 0x{byte:02x} is not valid UTF-8 and the tokenizer has no token for single "
                "bytes; expected a byte-level vocabulary"
            )
        return int(token)

    # --- tokens to text -------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some tokens; incomplete UTF-8 shows as U+FFFD."""
        return self.decode_batch([ids])[0] if ids else ""  # some decoders fail on no tokens

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Text of each sequence of tokens, special ones included."""
        texts: list[str] = []
        for start in range(0, len(sequences), _BATCH):
            batch = [list(ids) for ids in sequences[start : start + _BATCH]]
            texts += self._backend.decode_batch(batch, False)
        return texts

    def new_text(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add after `before`; see `new_texts`."""
        return self.new_texts([(before, ids)])[0]

    def new_texts(self, parts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[str]:
        """Text that `ids` add after `before`, for each (before, ids); special tokens add none.

        After nothing but a start token the text begins, so a decoder may drop its leading space.
        """
        named: list[tuple[str | None, list[str]]] = []
        for before, ids in parts:
            begins = not before or before[-1] in self._special
            named.append((None if begins else self.token_name(before[-1]), self._names(ids)))
        return self._decoder.after(named)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds inside a running text, with its leading space.

        Incomplete UTF-8 shows as U+FFFD; an unknown id adds nothing.
        """
        return self._decoder.between([self.token_name(i) for i in ids])

    def tokens_with(self, characters: set[str], size: int) -> NDArray[np.bool_]:
        """Which of the tokens 0 to `size` - 1 may complete a text with one of the characters."""
        texts = self.token_texts(range(size))
        matches = np.zeros(size, np.bool_)
        for i, text in enumerate(texts):
            name = self.token_name(i).replace("\u2581", " ")
            matches[i] = "\ufffd" in text or any(c in text or c in name for c in characters)
        if " " in characters and any(
            text.endswith(" ") and self._decoder.inside([self.token_name(i)]) != text
            for i, text in enumerate(texts)
        ):  # the space at a token's end shows with the next token (`BPEDecoder`), whichever that is
            matches[:] = True
        return matches

    def _names(self, ids: Sequence[int]) -> list[str]:
        """Names of tokens, without special and unknown ones."""
        return [name for i in ids if i not in self._special and (name := self.token_name(i))]
