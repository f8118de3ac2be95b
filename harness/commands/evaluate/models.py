"""The models that a command evaluates: patterns become the checkpoints that they match."""

import glob
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from harness.commands.options import RunOptions
from harness.display import terminal
from harness.engine.checkpoint.steps import natural_order, path_exists, split_revision, step_of
from harness.engine.endpoint.settings import is_endpoint
from harness.errors import UsageError

MAX_NAMED = 5  # revisions in an error message


def with_models(options: RunOptions, more_models: Sequence[str] = ()) -> RunOptions:
    """The options with more models, each model once, and patterns replaced by what they match.

    Raises:
        UsageError: a pattern matches nothing, or a model has two revisions.
        CheckpointError: the revisions of a repository cannot be listed.
    """
    revision = options.model.revision
    matches = [matching(name, revision) for name in (*options.model.names, *more_models)]
    names = [name for group in matches for name in group]
    distinct = tuple(dict.fromkeys(names))
    if len(distinct) < len(names):
        terminal.note("a model that is given more than once is evaluated once")
    return replace(options, model=replace(options.model, names=distinct))


def matching(name: str, revision: str | None = None) -> list[str]:
    """The models that a name stands for: itself, or what it matches, by step.

    Args:
        name: such as `gpt2`, `out/checkpoint-*`, or `EleutherAI/pythia-14m@step*`.
        revision: of all models, for those that name none.
    """
    if is_endpoint(name):  # it may have characters of a pattern, and has no revision
        return [name]
    repository, own = split_revision(name)
    if own is not None and revision is not None:
        raise UsageError(f"--model {name} names a revision; leave out --revision {revision}")
    if not glob.has_magic(name) or path_exists(name):
        return [name]
    if own is None:
        # Path.glob takes no absolute pattern.
        found = glob.glob(str(Path(name).expanduser()))  # noqa: PTH207
        expected = "expected the files or folders of checkpoints"
    else:
        from harness.engine.checkpoint.locate import hub_revisions

        revisions = hub_revisions(repository)
        found = [f"{repository}@{r}" for r in revisions if fnmatchcase(r, own)]
        some = ", ".join(sorted(revisions, key=_order)[:MAX_NAMED]) or "none"
        expected = f"{repository} has {len(revisions)} revisions: {some}"
        expected += ", ..." if len(revisions) > MAX_NAMED else ""
    if not found:
        raise UsageError(f"--model {name!r} matches nothing; {expected}")
    return sorted(found, key=_order)


def _order(name: str) -> tuple[float, list[tuple[int, str]]]:
    """Names without a step first, then by step."""
    step = step_of(name)
    return (-1 if step is None else step, natural_order(name))
