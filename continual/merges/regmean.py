"""RegMean (Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, arXiv
2212.09849).

It is the linear layer whose outputs are nearest to those of each adapter on its own inputs X_t. With y = W x, the Gram
matrices G_t = X_t^T X_t, and their values off the diagonal multiplied by alpha,

    delta = (sum_t w_t delta_t G_t) (sum_t w_t G_t)^-1;

the base's own weights drop out, for all adapters share them.
"""

import torch


def regmean(changes: torch.Tensor, weights: torch.Tensor, alpha: float, statistics: torch.Tensor) -> torch.Tensor:
    """The merge of changes (n, out, in) with Gram matrices (n, in, in)."""
    # One matrix at a time: all of them in double precision would be the largest thing in memory.
    total, weighted = torch.zeros_like(statistics[0], dtype=changes.dtype), torch.zeros_like(changes[0])
    for weight, change, statistic in zip(weights, changes, statistics, strict=True):
        gram = weight * statistic.to(changes.dtype)
        diagonal = gram.diagonal().clone()
        gram.mul_(alpha).diagonal().copy_(diagonal)
        total += gram
        weighted += change @ gram
    # An input that was 0 in all samples: nothing is known about it, and its column of the left side is 0 too.
    total.diagonal().add_((total.diagonal() == 0).to(total.dtype))
    return torch.linalg.solve(total, weighted, left=False)
