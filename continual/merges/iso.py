"""Iso-C (Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", ICML
2025, arXiv 2502.04959).

All directions of the sum count alike,

    U S V^T = sum_t w_t delta_t,   delta = mean(S) * U V^T.

The paper's changes have full rank. The mean here is over the singular values that are not zero.
"""

import torch

from continual.merges.linear import linear
from continual.merges.spectrum import Spectrum, spectrum


def iso_c(changes: torch.Tensor, weights: torch.Tensor) -> Spectrum:
    """The flattened sum of changes (n, out, in); its directions stay in the order of the sum's singular values."""
    u, s, vh = spectrum(linear(changes, weights))
    return Spectrum(u, s.mean().expand_as(s), vh)
