"""The mean of models (Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482), and task arithmetic (Ilharco et
al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089).

    delta = sum_t w_t * delta_t,

with w_t = 1/n for the mean, and w_t = 1 and a scale lambda outside for task arithmetic.
"""

import torch


def linear(changes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of changes (n, out, in)."""
    return torch.tensordot(weights, changes, 1)


task_arithmetic = linear
