"""Probes of what log-probabilities are: probabilities that add up to 1, and better than a guess.

And they depend on what is asked, not on the order in which it is asked.
"""

from math import exp, fsum, log

import numpy as np

from harness.engine.endpoint.dialects.dialect import Next
from harness.engine.endpoint.self_test.log_probabilities import Seen, cuts
from harness.engine.endpoint.self_test.probing import Probing
from harness.engine.endpoint.self_test.prompts import REPEATED

SUM = 1e-3  # by which rounded probabilities may miss a sum of 1
SMALL = 1024  # a vocabulary that is added up completely
SUM_OF_ALL = 1e-2  # and how much the rows of padding may be missing from it
PADDING = 1.1  # a model may have a few more tokens than its tokenizer
OPTIONS = "option order"
BARELY_TRAINED = 0.95  # share of the uniform loss


def check_sum(probing: Probing, seen: Seen) -> None:
    """Add up probabilities: exactly where the vocabulary is small, else between two bounds."""
    probe, vocabulary = "sum", len(probing.tokenizer)
    advice = "expected 1 in all: the server returns other numbers, such as logits"
    if probing.named > 1 and vocabulary <= SMALL:
        cut, ids = cuts(probing.prompts.sequences)[2 * REPEATED + 1], range(vocabulary)
        asks = [
            ask
            for start in range(0, vocabulary, probing.named)
            if (ask := probing.dialect.named(cut.prompt, ids[start : start + probing.named]))
        ]
        with probing.probe(probe):
            answers = probing.asking.together(asks)
        total = fsum(exp(v) for answer in answers for v in answer.logprobs.values())
        text = f"the probabilities of all {vocabulary:,} tokens add up to {total:.4f}"
        if not 1 - SUM_OF_ALL <= total <= 1 + SUM:
            probing.fail(probe, text, advice)
        probing.found(probe, text)
    elif seen.top is not None:
        _bounded_sum(probing, list(seen.top.values())[REPEATED], advice)
    else:
        probing.found(probe, "probabilities shown for one position never add up to more than 1")


def _bounded_sum(probing: Probing, answer: Next, advice: str) -> None:
    """No token that is not shown is more probable than the last one that is."""
    values = sorted(map(exp, answer.logprobs.values()))
    shown, others = fsum(values), len(probing.tokenizer) * PADDING - len(values)
    at_most = shown + max(others, 0) * values[0]
    text = (
        f"the {len(values)} most probable tokens add up to {shown:.4f}, and all others to at most "
        f"{at_most - shown:.4g}"
    )
    if not shown <= 1 + SUM or at_most < 1 - SUM:
        probing.fail("sum", text, advice)
    probing.found("sum", text)


def check_loss(probing: Probing, seen: Seen) -> None:
    """Compare the loss on the fixed prompts with that of uniform probabilities."""
    if seen.prompted is None:
        return
    probe = "uniform bound"
    values = np.concatenate([answer.logprobs for answer in seen.prompted])
    loss, bound = float(-values.astype(np.float64).mean()), log(len(probing.tokenizer))
    text = f"{loss:.2f} nats per token of built-in text; uniform probabilities give {bound:.2f}"
    if float(np.ptp(values)) == 0.0:
        advice = "expected values that depend on the text: is this the model that is meant?"
        probing.found(probe, f"every token has {values[0]:.4g} nats", "warn", advice)
    elif loss >= BARELY_TRAINED * bound and not probing.prompts.made_up:
        advice = "random weights, or another model's tokenizer: check --tokenizer"
        probing.found(probe, text, "warn", advice)
    else:
        probing.found(probe, text)


def check_options(probing: Probing, seen: Seen) -> None:
    """Choose among continuations of one prompt, asked in two orders; each is the right one in turn.

    A choice that depends on the text alone is right for exactly one of them.
    """
    cut, *others = cuts(probing.prompts.sequences)[::2]
    options = list(dict.fromkeys(option.token for option in (cut, *others)))
    if seen.prompted is None or len(options) < 2:
        return
    asks = [
        ask
        for token in options
        if (ask := probing.dialect.prompted((*cut.prompt, token), len(cut.prompt)))
    ]
    with probing.probe(OPTIONS):
        rounds = probing.asking.together(asks), probing.asking.together(asks[::-1])[::-1]
    one, other = (np.array([a.logprobs[-1] for a in answers], np.float32) for answers in rounds)
    probing.spread.add([one], [other], "options of a choice, asked in two orders")
    probing.refuse_spread()
    best = int((one == one.max()).sum())
    text = f"{len(options)} options in two orders, each the right one in turn"
    if best > 1:
        advice = "expected values that depend on the option: is this the model that is meant?"
        probing.found(OPTIONS, f"{text}: {best} of them are equally good", "warn", advice)
    else:
        probing.found(OPTIONS, f"{text}: {100 / len(options):.0f} % are chosen, which is chance")
