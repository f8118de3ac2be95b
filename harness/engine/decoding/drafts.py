"""Draft the next tokens of a completion from what its prompt and its text contain already.

Prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): what followed
the last two tokens where they occurred before may follow them again. A step feeds the draft with
the last token, and the model chooses a token after each. A drafted token is kept if it is the one
that is chosen, so that drafts change no answer: they only save steps.
"""

from itertools import pairwise

from harness.engine.decoding.completion import Completion

LONGEST = 8  # tokens of a draft
_FIRST_RATE = 0.5  # of tokens that are predicted right, before any is known
_WEIGHT = 0.1  # of the latest token in the rate
# A drafted token costs more than one of a full batch, because attention is padded and every new
# number of tokens is a new shape for oneDNN. In full batches only safe drafts pay.
_MARGIN, _LEAST = 1.8, 0.2


class Drafter:
    """Drafts the tokens of one completion, as long as its text has been predicted well."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._text = [*completion.query.prompt]
        # Two tokens -> the index after their last occurrence, if the text goes on there.
        self._after = dict(zip(pairwise(self._text), range(2, len(self._text)), strict=False))
        self._rate = _FIRST_RATE

    def draft(self, worth: float) -> list[int]:
        """The next tokens, as far as each is needed with a probability above `worth`."""
        self._read()
        room = self._completion.query.max_new_tokens - len(self._completion.tokens) - 1
        begin = self._after.get(self._last_pair)
        drafted: list[int] = []
        needed = self._rate
        while begin is not None and needed > worth and len(drafted) < min(room, LONGEST):
            index = begin + len(drafted)
            is_drafted = index >= len(self._text)  # the text repeats itself
            drafted.append(drafted[index - len(self._text)] if is_drafted else self._text[index])
            needed *= self._rate
        return drafted

    @property
    def _last_pair(self) -> tuple[int, int]:
        return self._text[-2], self._text[-1]

    def _read(self) -> None:
        """Add new tokens to the text, and compare each with what would have been drafted."""
        known = len(self._text) - len(self._completion.query.prompt)
        for token in self._completion.tokens[known:]:
            if len(self._text) > 1:
                pair = self._last_pair
                if pair in self._after:
                    is_right = self._text[self._after[pair]] == token
                    self._rate += _WEIGHT * (is_right - self._rate)
                self._after[pair] = len(self._text)
            self._text.append(token)


def worth(completions: int, pass_cost: int) -> float:
    """The least probability with which a drafted token must be needed to pay for its cost.

    A step costs `pass_cost` tokens and those that it feeds, and gives one token per completion.
    From 1 on, no draft pays.
    """
    return max(_MARGIN * completions / (completions + pass_cost), _LEAST)
