"""Fisher merging (Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022, arXiv 2111.09832).

Each value of each model counts as much as its Fisher information F_t, the diagonal,

    delta = sum_t w_t F_t delta_t / sum_t w_t F_t;

the base's own weights drop out, for all adapters share them. Where no model has information, it is their plain mean.
"""

import torch


def fisher(changes: torch.Tensor, weights: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
    """The merge of changes (n, out, in) with Fisher information (n, out, in)."""
    shares = weights[:, None, None] * statistics
    total = shares.sum(0)
    shares = torch.where(total > 0, shares, weights[:, None, None].expand_as(shares))
    return (shares * changes).sum(0) / shares.sum(0)
