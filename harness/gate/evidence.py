"""The evidence about a score, in words and as a cell of a table.

P-values decide, so that they are always shown: besides the e-values so far, they count the test
that is held when all items are used.
"""

from harness.gate.scores import GatedScore
from harness.stats.sequential import Martingale


def in_words(score: GatedScore, p: float | None) -> str:
    """`e-value 41 against no loss (p 0.024 after Holm), 0.02 against a loss of the margin (p 1)`.

    Args:
        score: the score.
        p: of no loss, after Holm.
    """
    test = score.test
    if test is None or not score.used:
        return ""
    least = score.rule.min_loss
    worse = f"a loss of at most {least:g}" if least else "no loss"
    within = score.rule.margin is not None
    adjusted = f"{test.p_worse if p is None else p:.2g}"
    if isinstance(test, Martingale):
        words = f"e-value {test.e_worse:.3g} against {worse} (p {adjusted} after Holm)"
        more = f", {test.e_within:.3g} against a loss of the margin (p {test.p_within:.2g})"
    else:
        words = f"p {adjusted} of {worse} after Holm"
        more = f", {test.p_within:.2g} of a loss of the margin"
    return words + more if within else words


def in_a_cell(p: float | None, score: GatedScore | None) -> str:
    """`worse p 0.024, fine p 1`: the p-values that decide.

    Args:
        p: of no loss, after Holm.
        score: None of the pooled decision.
    """
    if p is None or (score and not score.used):
        return ""
    cell = f"worse p {p:.2g}"
    if score is None or score.test is None or score.rule.margin is None:
        return cell
    return f"{cell}, fine p {score.test.p_within:.2g}"
