"""nanochat's tokenizer: a pickled `tiktoken.Encoding`, as a tokenizer of transformers.

The pickle is read with a class of ours in the place of tiktoken's, so nothing in it is executed.
tiktoken joins the two neighbours whose bytes together have the lowest rank, whatever the two are.
The merges of the other tokenizer are therefore all ways to put a token together from two others,
by its rank.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.digest import file_digest
from harness.engine.checkpoint.formats.format import ReadOptions
from harness.engine.checkpoint.formats.gpt2.tokenizer_files import (
    TokenizerFiles,
    given_later,
    tokenizer_in,
)
from harness.engine.checkpoint.formats.pickles import read_plain_pickle
from harness.errors import CheckpointError, short_reason

FILE = "tokenizer.pkl"
BOS = "<|bos|>"
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


class _Stored:
    """Stands for tiktoken's class, and keeps what a pickle states."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def find_tokenizer(model: Path, options: ReadOptions, size: int) -> TokenizerFiles:
    """The tokenizer of a model, from the first place that has one.

    Args:
        model: the file of the model; places around it are searched.
        options: with `tokenizer`, nothing is looked for.
        size: number of tokens of the model.

    Raises:
        CheckpointError: there is none, it cannot be read, or it has another number of tokens.
    """
    if options.tokenizer is not None:
        return given_later(options.tokenizer)
    folder = model.absolute().parent
    path = next(filter(None, map(pickle_in, (folder, folder.parent, folder.parent.parent))), None)
    if path is None:
        if found := tokenizer_in(folder):
            return found
        raise CheckpointError(
            f"{model} has no tokenizer: there is no {FILE} beside it, and none in a folder "
            "'tokenizer' there or up to two levels above; name one by --tokenizer FILE"
        )
    files = encoding_tokenizer(path)
    if files.entries != size:
        raise CheckpointError(
            f"{path} has {files.entries:,} tokens, the model {size:,}; they do not belong together"
        )
    return files


def pickle_in(folder: Path) -> Path | None:
    """The pickle in a folder, or in the folder `tokenizer` there."""
    places = (folder / FILE, folder / "tokenizer" / FILE)
    return next((path for path in places if path.is_file()), None)


def encoding_tokenizer(path: Path) -> TokenizerFiles:
    """The tokenizer in a pickle; raises as `read_encoding` does."""
    encoding = read_encoding(path)
    return TokenizerFiles(
        origin=str(path),
        key=file_digest(path),
        write=lambda folder: transformers_tokenizer(encoding, path).save_pretrained(folder),
        entries=len(encoding.ids),
    )


@dataclass(frozen=True, slots=True)
class Encoding:
    """What defines a tokenizer of tiktoken."""

    pattern: str  # regular expression of what is encoded apart
    ranks: dict[bytes, int]  # token ids by bytes; lower ones are merged first
    special: dict[str, int]

    @property
    def ids(self) -> list[int]:
        """All token ids, special ones last."""
        return [*self.ranks.values(), *self.special.values()]


def read_encoding(path: Path) -> Encoding:
    """The encoding in a pickle.

    Raises:
        CheckpointError: the file cannot be read, calls for more than plain values, or holds
            something else.
    """
    values = _stored(path)
    names = ("pat_str", "mergeable_ranks", "special_tokens")
    pattern, ranks, special = ((values or {}).get(name) for name in names)
    if not (isinstance(pattern, str) and _is_table(ranks, bytes) and _is_table(special, str)):
        raise CheckpointError(
            f"{path} is a pickle, but not that of a tiktoken.Encoding with pat_str, "
            "mergeable_ranks and special_tokens"
        )
    encoding = Encoding(pattern, dict(ranks or {}), dict(special or {}))
    missing = next((b for b in range(256) if bytes([b]) not in encoding.ranks), None)
    if missing is not None:
        raise CheckpointError(
            f"{path} has no token for the byte 0x{missing:02x}; expected one for every byte"
        )
    ids = encoding.ids
    if sorted(ids) != list(range(len(ids))) or max(encoding.ranks.values()) >= len(ranks or {}):
        raise CheckpointError(
            f"{path}: its {len(ids)} token ids are not 0 to {len(ids) - 1}, special tokens last"
        )
    return encoding


def holds_encoding(path: Path) -> bool:
    """Whether a pickle is that of an encoding; raises as `read_encoding` for a damaged one."""
    return _stored(path) is not None


def _stored(path: Path) -> dict[str, Any] | None:
    """The values of a pickled `tiktoken.Encoding`; None for another pickle."""
    stored = read_plain_pickle(path, {"tiktoken.core.Encoding": _Stored})
    if not isinstance(stored, _Stored):
        return None
    return stored.state if isinstance(stored.state, dict) else {}


def _is_table(value: Any, kind: type) -> bool:
    """Whether a value is a dict from values of one type to integers."""
    return isinstance(value, dict) and all(
        type(key) is kind and type(number) is int for key, number in value.items()
    )


def transformers_tokenizer(encoding: Encoding, path: Path) -> Any:
    """A byte-level BPE tokenizer of transformers with the same splits, merges and ids.

    Raises:
        CheckpointError: the pattern of `path` is none that the other library understands.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = {token: _name(token) for token in encoding.ranks}
    vocabulary = {names[token]: rank for token, rank in encoding.ranks.items()}
    merges = [(names[left], names[right]) for left, right in all_merges(encoding.ranks)]
    # A piece that is a token as a whole is not put together by merges, there as here.
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    try:
        pattern = Regex(encoding.pattern)
    except Exception as error:
        raise CheckpointError(
            f"{path}: its pattern {encoding.pattern[:60]!r} cannot be used ({short_reason(error)})"
        ) from error
    # Matches are kept and anything between them is dropped, as tiktoken does.
    split = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    backend.decoder = decoders.ByteLevel()
    special = sorted(encoding.special, key=lambda token: encoding.special[token])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    bos = BOS if BOS in encoding.special else None
    # A document ends where the next one begins.
    tokenizer: Any = PreTrainedTokenizerFast
    return tokenizer(tokenizer_object=backend, bos_token=bos, eos_token=bos)


def all_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every two tokens that together are a token, by its rank: (b"th", b"e"), (b"t", b"he")."""
    return [
        (token[:cut], token[cut:])
        for token in sorted(ranks, key=lambda token: ranks[token])
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]


def _name(token: bytes) -> str:
    """How a byte-level vocabulary writes bytes: one visible character each."""
    return "".join(map(_CHARACTERS.__getitem__, token))


def _byte_characters() -> list[str]:
    """Visible bytes of Latin-1 stand for themselves, the others for characters from U+0100 on."""
    hidden = [byte for byte in range(256) if byte not in _VISIBLE]
    names = {byte: chr(byte) for byte in _VISIBLE}
    names |= {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    return [names[byte] for byte in range(256)]


_CHARACTERS = _byte_characters()
