"""Overlaps in the form of the paper's Table 6, and scores with and without them."""

from collections.abc import Sequence

from harness.display.layout import table
from harness.display.terminal import OUT
from harness.overlap.scan import Found, Probe
from harness.overlap.shares import CORPORA, MUCH, Overlap, Subset, published
from harness.report.number_format import number

PAPER_NGRAM = 8


def _cells(values: Sequence[float | None]) -> list[str]:
    """The values, then their mean if there are several and none is missing."""
    known = [value for value in values if value is not None]
    whole = len(known) == len(values) > 1
    return [*map(number, values), *([number(sum(known) / len(known))] if whole else ["-"])]


def show_overlaps(overlaps: Sequence[Overlap], found: Found, n: int) -> None:
    """A column a benchmark: ours, the paper's, and how overlap is spread over the items."""
    size = f"{found.bytes / 1e6:,.1f} MB in {found.seconds:.1f} s, {found.speed:,.1f} MB/s"
    OUT.print(f"{n}-grams that the corpus has too, in percent ({size})", markup=False)
    rows = table("", *(f">{overlap.task}" for overlap in overlaps), ">mean")
    rows.add_row("here", *_cells([overlap.percent for overlap in overlaps]))
    if n == PAPER_NGRAM:
        for corpus in CORPORA:
            values = [published().get((overlap.task, corpus)) for overlap in overlaps]
            if any(value is not None for value in values):
                rows.add_row(f"paper, {corpus}", *_cells(values))
    rows.add_row(f"{n}-grams", *(f"{overlap.grams:,}" for overlap in overlaps))
    rows.add_row("items or lines", *(f"{len(overlap.parts):,}" for overlap in overlaps))
    for name, least in (("with any, %", 0.0), (f"with over {MUCH:g} %, %", MUCH)):
        rows.add_row(f"  {name}", *(number(overlap.above(least)) for overlap in overlaps))
    OUT.print(rows)
    if found.probe:
        _show_probe(found.probe)
    for overlap in overlaps:
        for warning in overlap.texts.data["warnings"]:
            OUT.print(f"note: {warning}", markup=False)


def _show_probe(probe: Probe) -> None:
    OUT.print(
        f"Bloom filter: {probe.items:,} distinct in {probe.bytes / 1e6:,.1f} MB, false positives "
        f"{probe.rate:.1e} from its bits, {probe.positives:,} of {probe.probes:,} unseen ones",
        markup=False,
    )


def show_subsets(scores: Sequence[Subset]) -> None:
    """Each score on all items, those without overlap, and those with it."""
    rows = table(
        "\nbenchmark", "\nmodel", "\nscore", "\nitems", ">\ncount", ">\nvalue", "\n95 % interval"
    )
    for score in scores:
        interval = ""
        if score.low is not None and score.high is not None:
            interval = f"{number(score.low, score.unit)} to {number(score.high, score.unit)}"
        rows.add_row(
            score.task,
            score.model,
            score.metric,
            score.group,
            f"{score.outcomes:,}",
            number(score.value, score.unit),
            interval,
        )
    OUT.print(rows)
