"""`harness table3` and `harness section3`."""

from typing import Any

import click

from harness.cli.evaluate.benchmark import MORE_MODELS, SEVERAL_TASKS, run_options
from harness.cli.options import Command


@click.command(cls=Command)
@MORE_MODELS
@SEVERAL_TASKS
def table3(**groups: Any) -> None:
    """Reproduce the paper's Table 3, with the paper's numbers next to yours."""
    from harness.commands.evaluate.run import run_tasks

    run_tasks(["table3"], run_options(**groups))


@click.command(cls=Command)
@MORE_MODELS
@SEVERAL_TASKS
def section3(**groups: Any) -> None:
    """Reproduce the tasks of the paper's section 3, with its numbers next to yours.

    Reading comprehension, summarization with the paper's Table 4, translation, question answering
    with calibration, and Winograd schemas.
    """
    from harness.commands.evaluate.run import run_tasks

    run_tasks(["section3"], run_options(**groups))
