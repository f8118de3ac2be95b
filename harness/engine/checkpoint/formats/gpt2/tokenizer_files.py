"""Tokenizers as files that transformers reads, made or copied from what there is."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from harness.engine.checkpoint.digest import combined_digest, file_digest

log = logging.getLogger(__name__)

_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip
# SHA-256 of the files as OpenAI published them.
_PUBLISHED = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


class TokenizerFiles(NamedTuple):
    """A tokenizer that can be written into a folder."""

    origin: str  # for the log
    key: str  # digest of what it is made from
    write: Callable[[Path], None]
    entries: int | None = None  # how many tokens it has; None: not known


def given_later(name: str) -> TokenizerFiles:
    """The place of a tokenizer that the user names: `load` takes that one, no files are written."""
    return TokenizerFiles(name, "none", lambda folder: None)


def tokenizer_in(folder: Path) -> TokenizerFiles | None:
    """The tokenizer in a folder: `tokenizer.json`, or the vocabulary and merges of GPT-2's BPE."""
    if (folder / "tokenizer.json").is_file():
        names = [name for name in _COPIED if (folder / name).is_file()]
        return copied({name: folder / name for name in names}, str(folder))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return bpe_tokenizer(folder / "vocab.json", folder / "merges.txt")
    return published_bpe(folder / "encoder.json", folder / "vocab.bpe")


def published_bpe(encoder: Path, merges: Path) -> TokenizerFiles | None:
    """GPT-2's tokenizer from the files that OpenAI published; None if these are not they."""
    if not (encoder.is_file() and merges.is_file()):
        return None
    for path, expected in zip((encoder, merges), _PUBLISHED.values(), strict=True):
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            log.warning("%s is not the file that OpenAI published (SHA-256); not used", path)
            return None
    return bpe_tokenizer(encoder, merges)


def bpe_tokenizer(vocabulary: Path, merges: Path) -> TokenizerFiles:
    """The tokenizer of a byte-level BPE like GPT-2's."""

    def write(folder: Path) -> None:
        from transformers import GPT2Tokenizer

        GPT2Tokenizer(vocab=str(vocabulary), merges=str(merges)).save_pretrained(folder)

    key = combined_digest(["bpe", file_digest(vocabulary), file_digest(merges)])
    return TokenizerFiles(str(vocabulary.parent), key, write)


def copied(files: Mapping[str, Path], origin: str) -> TokenizerFiles:
    """The tokenizer in files of transformers, by the names that they are to have."""

    def write(target: Path) -> None:
        for name, file in files.items():
            shutil.copyfile(file, target / name)
        if "tokenizer_config.json" not in files:
            # Otherwise the class would follow the model, and may change what the file says.
            config = {"tokenizer_class": "PreTrainedTokenizerFast"}
            (target / "tokenizer_config.json").write_text(json.dumps(config))

    key = combined_digest([f"{name} {file_digest(file)}" for name, file in files.items()])
    return TokenizerFiles(origin, key, write)
