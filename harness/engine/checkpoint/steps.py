"""Training steps and revisions in the names of checkpoints.

Programs that train put the step into the name of a folder, a file or a revision on the hub:

    checkpoint-500              Hugging Face Trainer        step1000-tokens4B   OLMo
    model_00005000.bin          llm.c, nanochat             epoch=3-step=900    Lightning
    iter_0002000, iter-002000   Megatron-LM, litgpt         ep0-ba4800-rank0    Composer
    0000000500                  lingua

Any other number in a name is a size, a version, a date or the number of a part.
"""

import re
from pathlib import Path
from typing import NamedTuple

_NOT_IN_A_WORD = r"(?<![A-Za-z])"
_NUMBER_ENDS = r"(?![0-9A-Za-z]|\.[0-9]|[-_ ]?of[-_ ]?[0-9])"
_DATE = r"20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_WORDED = re.compile(
    rf"{_NOT_IN_A_WORD}(?:(?:global|state|train)[-_]?)?(?:steps?|iter(?:ation)?s?)[-_= ]?"
    rf"(?P<number>[0-9]{{1,12}})(?P<thousands>k?){_NUMBER_ENDS}"
    rf"|{_NOT_IN_A_WORD}ep[0-9]+-ba(?P<batches>[0-9]{{1,12}}){_NUMBER_ENDS}",
    re.IGNORECASE,
)
"""A number after a word that means step; `50k` is 50,000."""
_NUMBERED = re.compile(
    rf"{_NOT_IN_A_WORD}(?:(?:checkpoints?|ckpt)[-_=]|model[-_](?=[0-9]{{5}}))(?!{_DATE}(?![0-9]))"
    rf"(?P<number>[0-9]{{1,12}}){_NUMBER_ENDS}(?![-_][0-9])",
    re.IGNORECASE,
)
"""The number of a checkpoint. After `model` it needs five digits: models are numbered, too."""
_PADDED = re.compile(r"^(?P<number>0[0-9]{9})$")
"""A whole name of ten digits; without a zero in front it could be a time."""
# Other parts of a name that change with the step.
_EPOCH = re.compile(rf"({_NOT_IN_A_WORD}ep(?:och)?[-_]?)[0-9]+", re.IGNORECASE)
_TOKENS = re.compile(
    r"([-_](?:tokens?[-_]?)?)[0-9]+(?:\.[0-9]+)?[bmt](?![0-9A-Za-z])", re.IGNORECASE
)
_MEASURED = re.compile(r"(=)[0-9]+(?:\.[0-9]+)?")
_MAX_PARENTS = 1  # folders above a file whose names may have its step
FILE_SUFFIXES = (".bin", ".ckpt", ".gguf", ".pt", ".pth", ".safetensors")  # of checkpoints
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")


class _Found(NamedTuple):
    """A step and where its number stands in a name."""

    step: int
    part: int  # start of the part of the path
    start: int  # of the number
    end: int


def step_of(name: str) -> int | None:
    """The training step in the name of a folder, file or revision; None if it has none.

    The last part of a path counts first, then the folders above it.

    >>> step_of("out/checkpoint-500/model.safetensors"), step_of("gpt2"), step_of("model_124M")
    (500, None, None)
    """
    found = _find(name)
    return found.step if found else None


def run_of(name: str) -> str:
    """What the names of all checkpoints of one training run share; `*` stands for the step.

    >>> run_of("out/checkpoint-500"), run_of("allenai/OLMo-1B@step1000-tokens4B"), run_of("gpt2")
    ('out/checkpoint-*', 'allenai/OLMo-1B@step*-tokens*', 'gpt2')
    """
    found = _find(name)
    if found is None:
        return name
    before, after = name[: found.start], name[found.end :]
    folder, last = before[: found.part], before[found.part :]
    rest, slash, below = after.partition("/")
    last = _MEASURED.sub(r"\1*", _EPOCH.sub(r"\1*", last))
    rest = _MEASURED.sub(r"\1*", _TOKENS.sub(r"\1*", rest))
    return f"{folder}{last}*{rest}{slash}{below}"


def split_revision(name: str) -> tuple[str, str | None]:
    """A name on the hub and the revision after `@`; None without one, and for existing paths.

    >>> split_revision("EleutherAI/pythia-14m@step1000"), split_revision("out/ckpt.pt")
    (('EleutherAI/pythia-14m', 'step1000'), ('out/ckpt.pt', None))
    """
    repository, at, revision = name.partition("@")
    if not at or not revision or not _HUB_NAME.fullmatch(repository) or path_exists(name):
        return name, None
    return repository, revision


def path_exists(name: str) -> bool:
    """Whether a name, which may be anything, is that of an existing file or folder."""
    try:
        return local_path(name).exists()
    except (OSError, ValueError):  # too long, or a null character
        return False


def local_path(name: str) -> Path:
    """The path that a name stands for; `~` and `~user` are home folders where there are such."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # an unknown user
        return Path(name)


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts step 2 before step 10, and layer 2 before layer 10."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces]


def _find(name: str) -> _Found | None:
    """The step in the last part of a path that has one."""
    parts = [(part.start(), part.group()) for part in re.finditer(r"[^/@]+", name)]
    for start, part in reversed(parts[-1 - _MAX_PARENTS :]):
        for pattern in (_WORDED, _NUMBERED, _PADDED):
            if matches := list(pattern.finditer(part)):
                match = matches[-1]
                group = "batches" if match.groupdict().get("batches") else "number"
                factor = 1000 if match.groupdict().get("thousands") else 1
                begin, end = match.start(group), match.end()
                return _Found(int(match[group]) * factor, start, start + begin, start + end)
    return None
