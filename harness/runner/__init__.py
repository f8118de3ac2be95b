"""The run loop: a job and an engine in, a record out; all at once, or in parts drawn at random.

Rows are chosen, read into examples and turned into requests. As soon as all responses of an example
are there, its outcomes are extracted and the responses dropped. Knows neither tasks nor tensors.
"""

from harness.runner.evaluation import Evaluation, evaluate
from harness.runner.job import (
    MAX_ROUNDS,
    Job,
    Observer,
    Prepared,
    encode,
    follow_up,
    prepare,
)
from harness.runner.parts import Part, part_sums

__all__ = [
    "MAX_ROUNDS",
    "Evaluation",
    "Job",
    "Observer",
    "Part",
    "Prepared",
    "encode",
    "evaluate",
    "follow_up",
    "part_sums",
    "prepare",
]
