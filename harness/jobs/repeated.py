"""The job of a record once more: the same protocol and choice of rows, on the same data."""

from collections.abc import Mapping

from harness.data.load import Data, Where
from harness.errors import DataError, RecordError
from harness.jobs.selection import Rows, job_for
from harness.records.record import Record
from harness.runner import Job, Prepared
from harness.task import Task


def job_of(record: Record, task: Task, where: Where, *, strict: bool = False) -> Job:
    """The job of a record of a task: its protocol and the same choice of rows.

    Raises:
        DataError: there is no data.
        UsageError: the task has no such option any more.
    """
    options = {name: str(value) for name, value in record.options.items()}
    protocol = task.protocol(record.protocol.partition("+")[0], options)
    return job_for(task, protocol, Rows(where, record.limit, record.seed, strict))


def check_same(record: Record, job: Job, prepared: Prepared, *, whose: str, remedy: str) -> None:
    """Check that data and prompt are those of a record.

    Args:
        record: of the earlier run.
        job: that repeats it.
        prepared: the job's requests.
        whose: what the record belongs to, for the message: `record` or `baseline`.
        remedy: what to do where no data helps, such as `run the task again`.

    Raises:
        DataError: the data is another.
        RecordError: the prompt is another.
    """
    _check_data(record.data, job.data, whose, remedy)
    if record.pool and job.pool:
        _check_data(record.pool, job.pool, whose, remedy)
    if record.prompt and prepared.prompt.sha256 != record.prompt["sha256"]:
        raise RecordError(
            f"the prompt {prepared.prompt.name!r} has changed since the {whose} was made; {remedy}"
        )


def _check_data(facts: Mapping[str, object], rows: Data, whose: str, remedy: str) -> None:
    if rows.sha256 == facts["sha256"]:
        return
    if facts["source"] != "sample":
        remedy = f"give --data-dir the {whose}'s file"
    elif rows.source_kind != "sample":
        remedy = "give --sample"
    raise DataError(
        f"{rows.name} has sha256 {rows.sha256[:12]}..., the {whose}'s rows came from "
        f"{facts['name']} with {str(facts['sha256'])[:12]}...; {remedy}"
    )
