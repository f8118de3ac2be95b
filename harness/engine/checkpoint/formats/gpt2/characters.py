"""Tokenizers of single characters, from the file `meta.pkl` beside nanoGPT's character data."""

import json
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.digest import combined_digest
from harness.engine.checkpoint.formats.gpt2.tokenizer_files import TokenizerFiles
from harness.engine.checkpoint.formats.pickles import read_plain_pickle
from harness.errors import CheckpointError, clipped_repr


def character_tokenizer(path: Path) -> TokenizerFiles:
    """The tokenizer in a `meta.pkl`: its `stoi` has the id of each character.

    Raises:
        CheckpointError: the file is damaged, calls for code, or has something else.
    """
    meta = read_plain_pickle(path)
    ids = meta.get("stoi") if isinstance(meta, dict) else None
    if not isinstance(ids, dict) or not ids:
        raise CheckpointError(
            f"{path} has no stoi; expected the meta.pkl of character data, with the id of each "
            "character"
        )
    for character, i in ids.items():
        if not isinstance(character, str) or len(character) != 1 or type(i) is not int or i < 0:
            raise CheckpointError(
                f"{path}: its stoi maps {clipped_repr(character)} to {clipped_repr(i)}; expected "
                "single characters and their ids"
            )
    if len(set(ids.values())) != len(ids):
        raise CheckpointError(f"{path}: its stoi gives two characters the same id")
    return TokenizerFiles(
        origin=f"the {len(ids)} characters in {path}",
        key=combined_digest(["characters", json.dumps(sorted(ids.items()))]),
        write=lambda folder: _write(folder, ids),
        entries=len(ids),
    )


def _write(folder: Path, ids: dict[str, int]) -> None:
    """Write a tokenizer without merges and start tokens; it drops other characters.

    What it drops of a text is counted, and refused if it was to be scored.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(ids, []))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
