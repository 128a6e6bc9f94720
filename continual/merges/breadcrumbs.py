"""Model Breadcrumbs (Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
ECCV 2024, arXiv 2312.06795).

Of each layer the smallest values are noise and the largest are outliers; both are masked,

    delta = sum_t w_t * m_t * delta_t,

where m_t drops the largest share `gamma`, then keeps the next share `density`.
"""

import torch

from continual.merges.linear import linear
from continual.merges.prune import magnitude_at


def middle(changes: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """Each change without its smallest and its very largest values.

    Where density + gamma is more than 1, fewer of the largest are dropped, as in mergekit.
    """
    size = changes[0].numel()
    kept = max(1, int(density * size))
    dropped = min(int(gamma * size), size - kept)
    magnitude = changes.abs()
    mask = magnitude >= magnitude_at(changes, size - kept - dropped + 1)
    if dropped:
        mask &= magnitude < magnitude_at(changes, size - dropped + 1)
    return torch.where(mask, changes, 0.0)


def breadcrumbs(changes: torch.Tensor, weights: torch.Tensor, density: float, gamma: float) -> torch.Tensor:
    """The weighted sum of the masked changes."""
    return linear(middle(changes, density, gamma), weights)
