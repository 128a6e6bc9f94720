"""MagMax (Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual Learning", ECCV 2024,
arXiv 2407.06322).

    delta^p = w_k delta_k^p   with   k = argmax_t |w_t delta_t^p|   for each value p; of equal ones the earlier.
"""

import torch


def magmax(changes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Of each value of changes (n, out, in) the one that is farthest from zero."""
    weighted = weights[:, None, None] * changes
    return weighted.gather(0, weighted.abs().argmax(0, keepdim=True))[0]
