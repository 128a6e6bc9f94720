"""DARE (Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", ICML
2024, arXiv 2311.03099).

Each value is dropped with the chance p = 1 - density, and the others are rescaled,

    m ~ Bernoulli(p),   delta~ = (1 - m) * delta / (1 - p),

then merged by task arithmetic or by TIES (which has nothing left to trim).
"""

import torch

from continual.merges.linear import linear
from continual.merges.ties import elected_mean


def drop(changes: torch.Tensor, keep: torch.Tensor | float, draw: torch.Generator) -> torch.Tensor:
    """Each value with a chance `keep` divided by it, else 0: the expected value stays what it was."""
    chances = torch.rand(changes.shape, generator=draw, dtype=torch.float64)
    return torch.where(chances < keep, changes / keep, 0.0)


def dare_linear(changes: torch.Tensor, weights: torch.Tensor, density: float, draw: torch.Generator) -> torch.Tensor:
    """The weighted sum of what is left."""
    return linear(drop(changes, density, draw), weights)


def dare_ties(changes: torch.Tensor, weights: torch.Tensor, density: float, draw: torch.Generator) -> torch.Tensor:
    """The mean of what is left with the elected sign."""
    return elected_mean(drop(changes, density, draw), weights)
