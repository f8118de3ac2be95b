"""Find out where transformers disagrees with itself, so that there is no reference value.

The test runs on the same tokens; it does not depend on a model's name.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.families.referee import Referee, Text, full_pass, log_softmax

TOLERANCE = 2e-4  # nats per example, as everywhere in the table


def unsteady(referee: Referee) -> str:
    """Why two passes over the longest request contradict each other; empty if they do not."""
    tokens = referee.longest()
    first = _of_next(referee.model, tokens)
    again = float((_of_next(referee.model, tokens) - first).abs().max())
    if again > TOLERANCE:
        return f"the same pass twice differs by {again:.0e} nats a token"
    cuts = sorted({len(tokens) * part // 8 for part in range(1, 8)} - {0, 1})
    moved = max(_moved(referee.model, tokens, first, cut) for cut in cuts)
    if moved > TOLERANCE:
        return f"not causal: later tokens move earlier log-probabilities by {moved:.0e} nats"
    return ""


def rounding(referee: Referee) -> float:
    """Nats by which float32 passes over the longest tokens are off from float64, in sum."""
    tokens = referee.longest()
    try:
        exact = _of_next(copy.deepcopy(referee.model).double(), tokens)
    except (RuntimeError, TypeError, ValueError):
        return 0.0  # a model that computes in float32 whatever its weights are
    return float((_of_next(referee.model, tokens) - exact).abs().sum())


def generated(referee: Referee, prompt: Sequence[int], count: int) -> Text:
    """What `model.generate` writes greedily after a prompt, with its cache."""
    ids = torch.tensor([list(prompt)])
    found = referee.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=referee.start,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = found.sequences[0, len(prompt) :].tolist()
    rows = [log_softmax(logits[0]) for logits in found.logits]
    best = [row.topk(2).values for row in rows]
    return Text(
        tuple(tokens),
        tuple(float(row[token]) for row, token in zip(rows, tokens, strict=True)),
        tuple(float(pair[0] - pair[1]) for pair in best),
    )


def _of_next(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities (T - 1,) of every token but the first, by one pass."""
    rows = log_softmax(full_pass(model, tokens))[:-1]
    return rows.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def _moved(model: Any, tokens: Sequence[int], whole: torch.Tensor, cut: int) -> float:
    """How far the values before a cut move if the tokens after it are left out."""
    return float((_of_next(model, tokens[:cut]) - whole[: cut - 1]).abs().max())
