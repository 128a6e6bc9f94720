"""DELLA (Deep et al., "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling", 2024,
arXiv 2406.11617).

Its MagPrune drops small values with a greater chance than large ones. In each row of n values, with the rank r = 0 for
the largest,

    p_r = p - epsilon / 2 + epsilon * r / n,   m ~ Bernoulli(p_r),   delta~ = (1 - m) * delta / (1 - p_r),

where p = 1 - density; then a sign is elected, and the mean is taken of what has it, as in TIES.
"""

import torch

from continual.merges.dare import drop
from continual.merges.ties import elected_mean


def chances(changes: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """Of each value the chance 1 - p_r to stay."""
    ranks = changes.abs().argsort(dim=-1, descending=True).argsort(dim=-1)
    lowest = 1 - density - epsilon / 2
    return 1 - (lowest + epsilon * ranks / changes.shape[-1]).clamp(0, 1)


def della(
    changes: torch.Tensor, weights: torch.Tensor, density: float, epsilon: float, draw: torch.Generator
) -> torch.Tensor:
    """Drop, elect and fuse changes (n, out, in)."""
    return elected_mean(drop(changes, chances(changes, density, epsilon), draw), weights)
