"""The tokenizer that the user names by `--tokenizer`, as a folder that transformers can load."""

from pathlib import Path

from harness.engine.checkpoint.digest import cache_root
from harness.engine.checkpoint.formats.gpt2.characters import character_tokenizer
from harness.engine.checkpoint.formats.gpt2.tokenizer_files import (
    TokenizerFiles,
    copied,
    tokenizer_in,
)
from harness.engine.checkpoint.formats.nanochat.tokenizer import (
    encoding_tokenizer,
    holds_encoding,
    pickle_in,
)
from harness.engine.checkpoint.formats.registry import VERSION, write_once
from harness.engine.checkpoint.locate import hub_reason
from harness.engine.checkpoint.steps import local_path, path_exists
from harness.errors import CheckpointError, clipped_repr

_OWN_FILES = ("tokenizer_config.json", "config.json")  # by these transformers knows the class
_HUB_FILES = ("*token*", "vocab.*", "merges.txt", "*.model", "config.json", "*.jinja")


def tokenizer_folder(name: str) -> Path:
    """The folder of a tokenizer.

    Args:
        name: a folder with tokenizer files; a `tokenizer.json`; the `meta.pkl` of nanoGPT's
            character data; nanochat's `tokenizer.pkl`; or a model on the hub.

    Raises:
        CheckpointError: nothing has that name, or what has it is no tokenizer.
    """
    if not path_exists(name):
        return _from_hub(name)
    path = local_path(name)
    if path.name == "tokenizer.json" and path.is_file():
        path = path.parent  # with the special tokens that are stated beside it
    return _folder(path) if path.is_dir() else _written(_file(path))


def _folder(path: Path) -> Path:
    if any((path / name).is_file() for name in _OWN_FILES):
        return path
    if found := tokenizer_in(path):
        return _written(found)
    if (path / "meta.pkl").is_file():
        return _written(character_tokenizer(path / "meta.pkl"))
    if pickled := pickle_in(path):
        return _written(encoding_tokenizer(pickled))
    raise CheckpointError(
        f"--tokenizer {path} has no tokenizer; expected tokenizer.json, vocab.json with "
        "merges.txt, encoder.json with vocab.bpe, meta.pkl or tokenizer.pkl in the folder"
    )


def _file(path: Path) -> TokenizerFiles:
    """The tokenizer in a file: JSON of the package tokenizers, or a pickle."""
    with path.open("rb") as opened:
        is_json = opened.read(1) == b"{"
    if not is_json:
        try:
            return encoding_tokenizer(path) if holds_encoding(path) else character_tokenizer(path)
        except CheckpointError as error:
            expected = "expected a tokenizer.json, meta.pkl of characters, or tokenizer.pkl"
            raise CheckpointError(f"--tokenizer: {error}; {expected}") from error
    return copied({"tokenizer.json": path}, str(path))


def _written(files: TokenizerFiles) -> Path:
    """The tokenizer in the user's cache."""
    target = cache_root() / "converted" / f"tokenizer-{files.key}-{VERSION}"
    write_once(files.write, target)
    return target


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except Exception as error:
        raise CheckpointError(
            f"--tokenizer {clipped_repr(name)}: there is no file or folder of that name, and "
            f"{hub_reason(error)}"
        ) from error
