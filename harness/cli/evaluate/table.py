"""`harness table3` and `harness section3`."""

from harness.cli.evaluate.benchmark import MORE_MODELS, SEVERAL_TASKS
from harness.cli.options import command
from harness.commands.options import RunOptions


@command()
def table3(more_models: tuple[str, ...] = MORE_MODELS, options: RunOptions = SEVERAL_TASKS) -> None:
    """Reproduce the paper's Table 3, with the paper's numbers next to yours."""
    from harness.commands.evaluate.models import with_models
    from harness.commands.evaluate.run import run_tasks

    run_tasks(["table3"], with_models(options, more_models))


@command()
def section3(
    more_models: tuple[str, ...] = MORE_MODELS, options: RunOptions = SEVERAL_TASKS
) -> None:
    """Reproduce the tasks of the paper's section 3, with its numbers next to yours.

    Reading comprehension, summarization with the paper's Table 4, translation, question answering
    with calibration, and Winograd schemas.
    """
    from harness.commands.evaluate.models import with_models
    from harness.commands.evaluate.run import run_tasks

    run_tasks(["section3"], with_models(options, more_models))
