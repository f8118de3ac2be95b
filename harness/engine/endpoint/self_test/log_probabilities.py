"""Probes of log-probabilities: the same ones, asked in every way that the server offers.

    prompt log-probabilities   alone, all in flight, reversed, again    -> spread
    tokens by name             the same positions                       -> shift by one, spread
    most probable tokens       the same positions                       -> sum, spread

Calls that name tokens and calls for the most probable ones are never in flight together, because
vLLM then mixes up their answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.engine.endpoint.dialects.dialect import Next, Prompted
from harness.engine.endpoint.self_test.findings import Known, Values
from harness.engine.endpoint.self_test.probing import COARSE, Probing
from harness.errors import ResponseError

NAMED = (128, 16, 1)
AGAIN = 1  # the last of the questions that are asked alone once more
TOP = (200, 100, 50, 20, 10, 5, 1)

PROMPT = "prompt log-probabilities"
BY_NAME = "tokens by name"
BEST = "most probable tokens"
SHIFT = "shift by one"


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt and the token that follows it in a fixed prompt."""

    sequence: int
    prompt: tuple[int, ...]
    token: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server said of the fixed prompts; None for what it does not offer."""

    prompted: Sequence[Prompted] | None
    named: Mapping[Cut, Next] | None
    top: Mapping[Cut, Next] | None

    @property
    def following(self) -> dict[Cut, Next]:
        """What follows each prompt."""
        return {**(self.named or {}), **(self.top or {})}

    def known(self, sequences: Sequence[tuple[int, ...]]) -> tuple[Known, ...]:
        """What identifies the model, by the best way that there is."""
        if self.prompted is not None:
            return tuple(
                Known(ids, tuple(answer.logprobs.tolist()))
                for ids, answer in zip(sequences, self.prompted, strict=True)
            )
        if self.named is not None:
            return tuple(
                Known((*cut.prompt, cut.token), (answer.logprobs[cut.token],))
                for cut, answer in self.named.items()
            )
        return tuple(
            Known((*cut.prompt, answer.best), (answer.logprobs[answer.best],))
            for cut, answer in (self.top or {}).items()
        )


def cuts(sequences: Sequence[tuple[int, ...]]) -> list[Cut]:
    """Two prompts of each sequence: its first half, and all but its last token."""
    return [
        Cut(number, ids[:end], ids[end])
        for number, ids in enumerate(sequences)
        for end in (len(ids) // 2, len(ids) - 1)
    ]


def ask_all(probing: Probing) -> Seen:
    """Ask for the same log-probabilities in every way."""
    with probing.probe(PROMPT):
        prompted = _prompted(probing)
    with probing.probe(BY_NAME):
        named = _named(probing)
    if prompted is not None and named is not None:
        _shift(probing, prompted, named, BY_NAME)
    with probing.probe(BEST):
        top = _top(probing)
    if top is not None:
        _agree(probing, prompted, named, top)
    if prompted is not None and named is top is None:
        with probing.probe(SHIFT):
            _shorter(probing, prompted)
            _last_token(probing, prompted)
    if prompted is None and named is None and top is None:
        reasons = "; ".join(f"{f.probe}: {f.seen}" for f in probing.findings if f.probe != "server")
        advice = "expected a server that returns log-probabilities, such as vLLM or SGLang"
        probing.fail("log-probabilities", f"there are none ({reasons})", advice)
    return Seen(prompted, named, top)


def _prompted(probing: Probing) -> list[Prompted] | None:
    sequences = probing.prompts.sequences
    first = probing.asking.offered(probing.dialect.prompted(sequences[0], 1))
    if isinstance(first, str):
        probing.found(PROMPT, f"not offered: {first}")
        return None
    asks = [ask for ids in sequences if (ask := probing.dialect.prompted(ids, 1))]
    alone = [first, *probing.asking.each(asks[1:])]
    for ids, answer in zip(sequences, alone, strict=True):
        if len(answer.logprobs) != len(ids) - 1:
            seen = f"{len(answer.logprobs)} values for a prompt of {len(ids)} tokens"
            probing.fail(PROMPT, seen, f"expected {len(ids) - 1}, one for each but the first")
    rounds = {
        "asked alone and together": probing.asking.together(asks),
        "asked alone and together in reverse order": probing.asking.together(asks[::-1])[::-1],
        "asked alone, and again in reverse order": probing.asking.each(asks[AGAIN::-1])[::-1],
    }
    for between, answers in rounds.items():
        same = alone[: len(answers)]
        probing.spread.add(_logprobs(same), _logprobs(answers), f"{PROMPT} {between}")
    probing.refuse_spread()
    count = sum(map(len, sequences))
    probing.found(
        PROMPT,
        f"{len(sequences)} prompts of {count} tokens: ids come back unchanged, with one value for "
        "each token but the first",
    )
    return alone


def _logprobs(answers: Sequence[Prompted]) -> list[Values]:
    return [answer.logprobs for answer in answers]


def _named(probing: Probing) -> dict[Cut, Next] | None:
    places = cuts(probing.prompts.sequences)
    if not _offers_names(probing, places[0]):
        return None
    tokens = sorted({cut.token for cut in places})
    asks = [ask for cut in places if (ask := probing.dialect.named(cut.prompt, tokens))]
    if probing.named < len(tokens):
        asks = [ask for c in places if (ask := probing.dialect.named(c.prompt, [c.token]))]
    together = probing.asking.together(asks)
    alone = probing.asking.each(asks[AGAIN::-1])[::-1]
    between = f"{BY_NAME}, asked alone and together"
    probing.spread.add(_values(together[: len(alone)]), _values(alone), between)
    probing.refuse_spread()
    probing.found(BY_NAME, f"up to {probing.named} in one call")
    return dict(zip(places, together, strict=True))


def _offers_names(probing: Probing, cut: Cut) -> bool:
    """Whether tokens can be named, and how many."""
    others = [i for i in range(len(probing.tokenizer)) if i != cut.token]
    reason = ""
    for count in NAMED:
        tokens = [cut.token, *others[: count - 1]]
        try:
            answer = probing.asking.offered(probing.dialect.named(cut.prompt, tokens))
        except ResponseError as error:
            # An older vLLM does not know the field, and then answers as if it was not there. Any
            # other wrong answer is found by a plain call too.
            probing.asking.offered(probing.dialect.top(cut.prompt, 1))
            answer = str(error)
        if not isinstance(answer, str):
            probing.named = count
            return True
        reason = reason or answer
    probing.found(BY_NAME, f"not offered: {reason}")
    return False


def _values(answers: Sequence[Next]) -> list[Values]:
    return [np.array([a.logprobs[i] for i in sorted(a.logprobs)], np.float32) for a in answers]


def _shift(
    probing: Probing, prompted: Sequence[Prompted], answers: Mapping[Cut, Next], what: str
) -> None:
    """Compare the log-probabilities of tokens in a prompt with those after its beginning."""
    with_both = [(cut, next_) for cut, next_ in answers.items() if cut.token in next_.logprobs]
    of_prompt = [prompted[cut.sequence].logprobs[len(cut.prompt) - 1] for cut, _ in with_both]
    of_next = [next_.logprobs[cut.token] for cut, next_ in with_both]
    if not with_both:
        return
    one, other = np.array(of_prompt, np.float32), np.array(of_next, np.float32)
    difference = probing.spread.add([one], [other], f"{PROMPT} and {what}")
    seen = f"{len(one)} tokens have the same log-probability in a prompt and after its beginning"
    if difference <= COARSE:
        probing.found(SHIFT, f"{seen}, within {difference:.1e} nats")
        return
    place = int(np.abs(one - other).argmax())
    cut = with_both[place][0]
    probing.fail(
        SHIFT,
        f"token {len(cut.prompt)} of a prompt has {one[place]:.3f} nats there, and "
        f"{other[place]:.3f} after the tokens before it",
        "expected the same: the server returns the values of other tokens; try another version",
    )


def _shorter(probing: Probing, prompted: Sequence[Prompted]) -> None:
    """Compare tokens in the middle of a prompt with the same at the end of a shorter one."""
    ends = cuts(probing.prompts.sequences)[::2]
    asks = [
        ask
        for cut in ends
        if (ask := probing.dialect.prompted((*cut.prompt, cut.token), len(cut.prompt)))
    ]
    last = [float(answer.logprobs[-1]) for answer in probing.asking.together(asks)]
    after = {
        cut: Next({cut.token: value}, cut.token, None)
        for cut, value in zip(ends, last, strict=True)
    }
    _shift(probing, prompted, after, "those of shorter prompts")


def _last_token(probing: Probing, prompted: Sequence[Prompted]) -> None:
    """Change the last token of each prompt, which nothing but its own value may depend on.

    Where only prompts are scored, rows that belong to the token before or after are the same in
    shorter prompts, and are seen by this alone: what the model predicts there is known without the
    token.
    """
    sequences = probing.prompts.sequences
    lasts = [ids[-1] for ids in sequences]
    others = [next(t for t in (*lasts, *ids) if t != ids[-1]) for ids in sequences]
    changed = [(*ids[:-1], other) for ids, other in zip(sequences, others, strict=True)]
    asks = [ask for ids in changed if (ask := probing.dialect.prompted(ids, 1))]
    answers = probing.asking.together(asks)
    moved = 0.0
    for part in (lambda a: a.logprobs[:-1], lambda a: a.best):
        before, after = list(map(part, prompted)), list(map(part, answers))
        moved = max(moved, probing.spread.add(before, after, f"{PROMPT} with two last tokens"))
    if moved > COARSE:
        probing.fail(
            SHIFT,
            f"another last token of a prompt moves what is predicted before it by {moved:.3f} nats",
            "expected the same: the server returns the values of other tokens; try another version",
        )


def _top(probing: Probing) -> dict[Cut, Next] | None:
    places = cuts(probing.prompts.sequences)[1::2]
    reason = ""
    for count in TOP:
        if count > len(probing.tokenizer):
            continue
        answer = probing.asking.offered(probing.dialect.top(places[0].prompt, count))
        if not isinstance(answer, str):
            probing.top = count
            break
        reason = reason or answer
    else:
        probing.found(BEST, f"not offered: {reason}")
        return None
    asks = [ask for cut in places if (ask := probing.dialect.top(cut.prompt, probing.top))]
    together = probing.asking.together(asks)
    alone = probing.asking.each(asks[AGAIN::-1])[::-1]
    between = f"{BEST}, asked alone and together"
    probing.spread.add(_ranked(together[: len(alone)]), _ranked(alone), between)
    probing.refuse_spread()
    probing.found(BEST, f"up to {probing.top} in one call")
    return dict(zip(places, together, strict=True))


def _ranked(answers: Sequence[Next]) -> list[Values]:
    """The values from the best down: near the end, one token may take the place of another."""
    return [np.array(sorted(a.logprobs.values(), reverse=True), np.float32) for a in answers]


def _agree(
    probing: Probing,
    prompted: Sequence[Prompted] | None,
    named: Mapping[Cut, Next] | None,
    top: Mapping[Cut, Next],
) -> None:
    """Compare the values of the most probable tokens with the others."""
    if named is None:
        if prompted is not None:
            _shift(probing, prompted, top, BEST)
        return
    for cut, answer in top.items():
        shared = sorted(answer.logprobs.keys() & named[cut].logprobs.keys())
        one, other = (
            np.array([a.logprobs[token] for token in shared], np.float32)
            for a in (answer, named[cut])
        )
        probing.spread.add([one], [other], f"{BY_NAME} and {BEST}")
