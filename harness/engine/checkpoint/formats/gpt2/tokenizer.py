"""Find the tokenizer of a GPT-2 that was written without one.

nanoGPT, build-nanogpt and llm.c take GPT-2's tokenizer from the package tiktoken, or, for models
of characters, write `meta.pkl` into the folder of the training data.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.engine.checkpoint.formats.format import Candidate, ReadOptions
from harness.engine.checkpoint.formats.gpt2.characters import character_tokenizer
from harness.engine.checkpoint.formats.gpt2.tokenizer_files import (
    TokenizerFiles,
    given_later,
    published_bpe,
    tokenizer_in,
)
from harness.errors import CheckpointError

GPT2_TOKENS = 50257  # the last one is <|endoftext|>
_HUB_NAMES = ("openai-community/gpt2", "gpt2")
_HUB_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_TIKTOKEN_ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
_LEVELS_ABOVE = 3  # folders above a checkpoint that may have nanoGPT's folder `data`


def find_tokenizer(
    candidate: Candidate, options: ReadOptions, *, rows: int, dataset: str | None = None
) -> TokenizerFiles:
    """The tokenizer of a checkpoint, from the first place that has one.

    Args:
        candidate: the checkpoint; files beside it come first.
        options: with `tokenizer`, nothing is looked for.
        rows: how many tokens the checkpoint has embeddings of.
        dataset: the folder of the training data below nanoGPT's `data`, if the checkpoint says it.

    Raises:
        CheckpointError: there is none.
    """
    if options.tokenizer is not None:
        return given_later(options.tokenizer)
    folder = candidate.path if candidate.path.is_dir() else candidate.path.absolute().parent
    if found := tokenizer_in(folder):
        return found
    if rows < GPT2_TOKENS:
        for meta in _meta_files(folder, dataset):
            characters = character_tokenizer(meta)
            if characters.entries == rows:
                return characters
        raise CheckpointError(
            f"{candidate.path} has embeddings of {rows:,} tokens, GPT-2's tokenizer has "
            f"{GPT2_TOKENS:,}, and no meta.pkl with as many characters lies beside it or in the "
            "data folder of its training; name its tokenizer by --tokenizer (a folder, "
            "tokenizer.json, or meta.pkl)"
        )
    if found := _gpt2(options.data_dir):
        return found
    raise CheckpointError(
        f"{candidate.path} has no tokenizer, and GPT-2's was not found in tiktoken's cache or on "
        f"the hub ({_HUB_NAMES[0]}); put encoder.json and vocab.bpe into the folder gpt2-bpe of "
        f"--data-dir, or tokenizer.json into {folder}, or name a tokenizer by --tokenizer"
    )


def _meta_files(folder: Path, dataset: str | None) -> Iterator[Path]:
    """Where nanoGPT's `meta.pkl` may be: beside the checkpoint, or with the training data."""
    places = [folder]
    if dataset and Path(dataset).name == dataset:
        roots = [folder, *list(folder.parents)[:_LEVELS_ABOVE], Path.cwd()]
        places += [root / "data" / dataset for root in roots]
    yield from (path for place in places if (path := place / "meta.pkl").is_file())


def _gpt2(data_dir: Path | None) -> TokenizerFiles | None:
    """GPT-2's tokenizer: in the data folder, in tiktoken's cache, or from the hub."""
    if data_dir is not None and (found := tokenizer_in(data_dir / "gpt2-bpe")):
        return found
    if found := _in_tiktoken_cache():
        return found
    for on_this_machine in (True, False):
        for name in _HUB_NAMES:
            snapshot = _snapshot(name, on_this_machine)
            if snapshot and (found := tokenizer_in(snapshot)):
                return found._replace(origin=f"{name} of the hub")
    return None


def _in_tiktoken_cache() -> TokenizerFiles | None:
    """GPT-2's tokenizer in the cache of tiktoken, which names files by their address."""
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    stated = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    if not stated:  # tiktoken's way to have no cache
        return None
    encoder, merges = (
        Path(stated) / hashlib.sha1(f"{_TIKTOKEN_ADDRESS}{name}".encode()).hexdigest()
        for name in ("encoder.json", "vocab.bpe")
    )
    return published_bpe(encoder, merges)


def _snapshot(name: str, on_this_machine: bool) -> Path | None:
    """The folder of tokenizer files of a model on the hub; None if it cannot be had.

    With `on_this_machine`, only the hub's local cache is asked.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=list(_HUB_FILES), local_files_only=on_this_machine
            )
        )
    except Exception:  # offline, blocked, removed: the error names all ways
        return None
