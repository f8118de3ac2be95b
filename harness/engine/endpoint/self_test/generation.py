"""Probes of generated text: the greedy flag, and log-probabilities of what the model writes."""

from collections.abc import Sequence

import numpy as np

from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Written
from harness.engine.endpoint.self_test.log_probabilities import Cut, Seen, cuts
from harness.engine.endpoint.self_test.probing import Probing
from harness.engine.queries.query import GenerationQuery

PROBE, FLAG = "generation", "greedy flag"
NEW_TOKENS = 3


def check_generation(probing: Probing, seen: Seen) -> bool:
    """Generate a few tokens after each prompt; whether the server does."""
    of_sequence: dict[int, Cut] = {}
    for cut in seen.following or cuts(probing.prompts.sequences):
        of_sequence.setdefault(cut.sequence, cut)
    places = list(of_sequence.values())
    with probing.probe(PROBE):
        first = probing.asking.offered(_generate(probing, places[0].prompt))
        if isinstance(first, str):
            probing.found(PROBE, f"not offered: {first}")
            return False
        asks = [ask for cut in places[1:] if (ask := _generate(probing, cut.prompt))]
        written = [first, *probing.asking.together(asks)]
        for cut, text in zip(places, written, strict=True):
            _check_first(probing, cut, text, seen)
        if seen.prompted is not None:
            _check_prompted(probing, places, written)
    count = sum(len(text.tokens) for text in written)
    probing.found(PROBE, f"{count} tokens after {len(written)} prompts, with log-probabilities")
    return True


def check_flags(probing: Probing, seen: Seen) -> None:
    """Compare the greedy flags of prompts with the most probable token of all."""
    if seen.prompted is None:
        return
    for cut, after in seen.following.items():
        token = after.best
        flag = bool(seen.prompted[cut.sequence].greedy[len(cut.prompt) - 1])
        if flag != (token == cut.token) and not _close(probing, cut.prompt, cut.token):
            word = "greedy" if flag else "not greedy"
            text = f"token {cut.token} counts as {word}, but the best token is {token}"
            probing.fail(FLAG, text, "expected the greedy flag of the best token only")
    if seen.following:
        text = f"{len(seen.following)} greedy flags are those of the most probable tokens"
        probing.found(FLAG, text)


def _generate(probing: Probing, prompt: tuple[int, ...]) -> Ask[Written] | None:
    return probing.dialect.written(GenerationQuery(prompt, NEW_TOKENS, (), 1, ()), frozenset())


def _check_first(probing: Probing, cut: Cut, text: Written, seen: Seen) -> None:
    """Compare the first token that is written with the most probable one."""
    after = seen.following.get(cut)
    if after is None or after.best == text.tokens[0]:
        return
    if not _close(probing, cut.prompt, text.tokens[0]):
        probing.fail(
            FLAG,
            f"the server writes token {text.tokens[0]} where token {after.best} is the best",
            "expected greedy decoding at temperature 0: the server changes its logits "
            "(penalties, a grammar, speculative decoding)",
        )


def _check_prompted(probing: Probing, places: Sequence[Cut], written: Sequence[Written]) -> None:
    """Compare what is written with the same tokens in a prompt."""
    asks = [
        ask
        for cut, text in zip(places, written, strict=True)
        if (ask := probing.dialect.prompted((*cut.prompt, *text.tokens), len(cut.prompt)))
    ]
    answers = probing.asking.together(asks)
    for cut, text, answer in zip(places, written, answers, strict=True):
        values = np.array(text.logprobs, np.float32)
        probing.spread.add([answer.logprobs], [values], "generated tokens and the same in a prompt")
        for place, flag in enumerate(answer.greedy):
            prefix, token = (*cut.prompt, *text.tokens[:place]), text.tokens[place]
            if not flag and not _close(probing, prefix, token):
                seen = f"token {token} is generated greedily, but not greedy in a prompt"
                probing.fail(FLAG, seen, "expected the flag of a generated token in a prompt too")


def _close(probing: Probing, prompt: Sequence[int], token: int) -> bool:
    """Whether a token is as probable as the best of the others, so that rounding decides."""
    gap = probing.gap(prompt, token)
    return gap is not None and gap <= probing.max_spread
