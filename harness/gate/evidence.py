"""The evidence about a score, in words and as a cell of a table."""

from harness.gate.scores import GatedScore
from harness.stats.sequential import Martingale


def in_words(score: GatedScore, p: float | None) -> str:
    """`e-value 41 against no loss, 0.02 against a loss of the margin, p 0.024 after Holm`.

    Args:
        score: the score.
        p: of no loss, after Holm.
    """
    test = score.test
    if test is None or not score.used:
        return ""
    kind, value_of, worse, within = _kind(test)
    least = score.rule.min_loss
    found = [
        f"{kind} {worse:.3g} {value_of} {f'a loss of at most {least:g}' if least else 'no loss'}"
    ]
    if score.rule.margin is not None:
        found.append(f"{within:.3g} {value_of} a loss of the margin")
    if p is not None:
        found.append(f"p {p:.2g} after Holm")
    return ", ".join(found)


def in_a_cell(score: GatedScore) -> str:
    """`worse 41, fine 0.02`: e-values, or p-values of a test with a fixed number of looks."""
    test = score.test
    if test is None or not score.used:
        return ""
    kind, _, worse, within = _kind(test)
    sign = "" if kind == "e-value" else "p "
    cell = f"worse {sign}{worse:.2g}"
    return cell if score.rule.margin is None else f"{cell}, fine {sign}{within:.2g}"


def _kind(test: object) -> tuple[str, str, float, float]:
    """What a test's numbers are called, how they relate to a hypothesis, and both of them."""
    if isinstance(test, Martingale):
        return "e-value", "against", test.e_worse, test.e_within
    return "p-value", "of", test.p_worse, test.p_within  # type: ignore[attr-defined]
