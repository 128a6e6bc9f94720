"""Only the largest values of each change, then the sum.

    delta = sum_t w_t * trim(delta_t, density),

what PEFT calls `magnitude_prune`: TIES (arXiv 2306.01708) without its election.
"""

import torch

from continual.merges.linear import linear


def magnitude_at(changes: torch.Tensor, rank: int) -> torch.Tensor:
    """The magnitude that stands at a rank within each change, the smallest first: shape (n, 1, 1).

    Args:
        changes: (n, out, in).
        rank: from 1 to out * in.
    """
    return changes.abs().flatten(1).kthvalue(rank, dim=1).values[:, None, None]


def trim(changes: torch.Tensor, density: float) -> torch.Tensor:
    """Each change with zeros in place of all but its largest values: a share `density`, at least one."""
    size = changes[0].numel()
    kept = max(1, int(density * size))
    return torch.where(changes.abs() >= magnitude_at(changes, size - kept + 1), changes, 0.0)


def magnitude_prune(changes: torch.Tensor, weights: torch.Tensor, density: float) -> torch.Tensor:
    """The weighted sum of the trimmed changes."""
    return linear(trim(changes, density), weights)
