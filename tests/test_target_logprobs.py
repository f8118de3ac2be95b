"""Log-probabilities of tokens against float64, for logits of any size."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.scoring.target_logprobs import target_logprobs

VOCABULARY = 5000


@given(scale=st.floats(0, 60), shift=st.floats(-200, 200), seed=st.integers(0, 9))
def test_same_as_in_float64(scale: float, shift: float, seed: int) -> None:
    """Within the rounding of the logits themselves, also where targets are next to impossible."""
    drawn = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits = drawn * scale + shift
    peak, best = logits.max(dim=-1)
    row = torch.tensor([0, 0, 1, 2, 3, 3])
    target = torch.tensor([0, 4999, 7, int(best[2]), int(best[3]), int(logits[3].argmin())])
    wanted = logits.double().log_softmax(-1)[row, target]
    found = target_logprobs(logits.clone(), peak, row, target)
    rounding = torch.finfo(torch.float32).eps * float(logits.abs().max())
    torch.testing.assert_close(found.double(), wanted, atol=2e-6 + 2 * rounding, rtol=3e-7)


def test_impossible_tokens() -> None:
    """A logit of minus infinity is a probability of zero; NaN stays NaN."""
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, torch.nan, 0.0]])
    row, target = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    found = target_logprobs(logits, logits.amax(dim=-1), row, target)
    wanted = torch.tensor([-0.6931472, -torch.inf, torch.nan])
    torch.testing.assert_close(found, wanted, equal_nan=True)
