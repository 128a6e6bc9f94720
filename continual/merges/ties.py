"""TIES (Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023, arXiv 2306.01708).

1. trim: of each change only the largest values, a share `density`, stay;
2. elect: of each value the sign gamma = sgn(sum_t w_t delta_t);
3. merge: the mean over those changes whose value has the elected sign, A = {t: sgn(delta_t) = gamma},

    delta = sum_{t in A} w_t delta_t / sum_{t in A} w_t.

The paper has no weights (all are 1). Here they are shares in both sums, as in mergekit, so that an adapter of weight
0 neither votes nor counts. What is trimmed is chosen within each module, as in PEFT and mergekit.
"""

import torch

from continual.merges.prune import trim


def elected_mean(changes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Steps 2 and 3. A sum of exactly 0 elects plus, as in PEFT and mergekit."""
    weights = weights[:, None, None]
    weighted = weights * changes
    sign = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agree = weighted.sign() == sign
    # The share of a change that is taken away is positive too: a negative weight turns the change, not the mean.
    shares = (weights.abs() * agree).sum(0)
    return (weighted * agree).sum(0) / torch.where(shares > 0, shares, 1.0)


def ties(changes: torch.Tensor, weights: torch.Tensor, density: float) -> torch.Tensor:
    """All three steps on changes (n, out, in)."""
    return elected_mean(trim(changes, density), weights)
