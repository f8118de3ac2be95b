"""Tokens that are fed one after the other, put side by side with those of the same branch.

Products with weights take single tokens in any order. Attention is computed branch by branch, so
that the keys of a branch are read once for all of its tokens.

Letters: R tokens of N branches, M of the branch with the most, D size of a head.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.engine.attention.parts import Part, attend


class SideBySide:
    """Places (N, M) for tokens (R,).

    Args:
        counts: tokens of each branch.
        device: of the tokens.

    Attributes:
        tokens: (N, M), the token at each place; its branch's last where there are no more.
        branches: (R,), the branch of each token.
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        of_branch, place = np.array(counts)[:, None], np.arange(max(counts))
        ends = of_branch.cumsum()[:, None]
        tokens = np.minimum(ends - of_branch + place, ends - 1)
        places = np.flatnonzero(place < of_branch)
        self.tokens = torch.from_numpy(tokens).to(device)
        self.branches = torch.from_numpy(places // len(place)).to(device)
        self._places = torch.from_numpy(places).to(device)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scale: float
    ) -> Part:
        """As `parts.attend`, of queries (R, heads, 1, D) over the keys of N branches."""
        query = query.squeeze(2)[self.tokens].transpose(1, 2)
        output, total = attend(query, keys, values, hidden, scale)
        return Part(
            output.transpose(1, 2).flatten(0, 1)[self._places].unsqueeze(2),
            total.transpose(1, 2).flatten(0, 1)[self._places].unsqueeze(2),
        )
