"""Tables of overlaps, in the form of the paper's Table 6, and of scores on subsets."""

from collections.abc import Sequence

from harness.display.layout import table
from harness.display.terminal import OUT
from harness.overlap.scan import ScanResult
from harness.overlap.shares import LARGE_PERCENT, PAPER_CORPORA, Overlap, published
from harness.overlap.subset_scores import SubsetScore
from harness.report.number_format import interval, number

PAPER_NGRAM = 8


def show_overlaps(overlaps: Sequence[Overlap], result: ScanResult, n: int) -> None:
    """Print one column per task: its share, the paper's, and how many examples overlap."""
    size = f"{result.bytes / 1e6:,.1f} MB in {result.seconds:.1f} s, {result.speed:,.1f} MB/s"
    OUT.print(f"percentage of {n}-grams that the corpus has ({size})")
    rows = table("", *(f">{overlap.task}" for overlap in overlaps), ">mean")
    rows.add_row("here", *_with_mean([overlap.total.percent for overlap in overlaps]))
    if n == PAPER_NGRAM:
        for corpus in PAPER_CORPORA:
            values = [published().get((overlap.task, corpus)) for overlap in overlaps]
            if any(value is not None for value in values):
                rows.add_row(f"paper, {corpus}", *_with_mean(values))
    rows.add_row(f"{n}-grams", *(f"{overlap.total.grams:,}" for overlap in overlaps), "")
    rows.add_row("examples or lines", *(f"{len(overlap.pieces):,}" for overlap in overlaps), "")
    for name, least in (("any overlap, %", 0.0), (f"over {LARGE_PERCENT:g} %, %", LARGE_PERCENT)):
        rows.add_row(
            f"  {name}", *(number(overlap.percent_above(least)) for overlap in overlaps), ""
        )
    OUT.print(rows)
    if bloom := result.filter:
        OUT.print(
            f"Bloom filter: {bloom.items:,} distinct n-grams in {bloom.bytes / 1e6:,.1f} MB; rate "
            f"of false positives {bloom.rate:.1e} from its bits, {bloom.positives:,} of "
            f"{bloom.probes:,} random n-grams measured",
        )
    for overlap in overlaps:
        for warning in overlap.data["warnings"]:
            OUT.print(f"note: {warning}")


def _with_mean(values: Sequence[float | None]) -> list[str]:
    """The values, and their mean if there are several and none is missing."""
    present = [value for value in values if value is not None]
    complete = len(present) == len(values) > 1
    return [*map(number, values), number(sum(present) / len(present) if complete else None)]


def show_subset_scores(scores: Sequence[SubsetScore]) -> None:
    """Print each score on all examples, on those without overlap, and on those with it."""
    rows = table("task", "model", "score", "examples", ">count", ">value", "95 % interval")
    for score in scores:
        rows.add_row(
            score.task,
            score.model,
            score.metric,
            score.group,
            f"{score.outcomes:,}",
            number(score.value, score.unit),
            interval(score.low, score.high, score.unit),
        )
    OUT.print(rows)
