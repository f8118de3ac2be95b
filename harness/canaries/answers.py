"""Canary of answers: generated texts and words that are all empty, or all the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import clipped_repr

MIN_ANSWERS = 10


@dataclass(slots=True)
class Answers:
    """Are all answers the same, although the right ones differ?"""

    refuted: bool = False  # by a counterexample
    count: int = 0
    _text: str = ""
    _right: frozenset[str] | None = None  # references that all examples have in common

    def add(self, texts: Sequence[str], references: Sequence[str]) -> None:
        """Take the texts that a model wrote for one example."""
        if self.refuted or not texts:
            return
        self._right = frozenset(references if self._right is None else self._right & {*references})
        if not self.count:
            self._text = texts[0].strip()
        self.count += len(texts)
        self.refuted = any(text.strip() != self._text for text in texts)

    def warning(self) -> str:
        """What was seen; empty if all is well."""
        if self.refuted or self.count < MIN_ANSWERS or self._right:
            return ""
        advice = "look at some with harness explain, and run harness doctor"
        if not self._text:
            return (
                f"empty answers: all {self.count:,} answers of the model are empty; expected text; "
                f"{advice}"
            )
        return (
            f"equal answers: all {self.count:,} answers of the model are "
            f"{clipped_repr(self._text, 40)}; expected answers that differ with the question; "
            f"{advice}"
        )
