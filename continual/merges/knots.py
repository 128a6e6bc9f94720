"""KnOTS (Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025, arXiv 2410.19735), with TIES.

    [delta_1 ... delta_n] = U S [V_1^T ... V_n^T],   delta = U TIES(S V_1^T, ..., S V_n^T).

All changes are brought to the same left singular vectors U; what is left of each, S V_t^T = U^T delta_t, shape
(k, in), lies in one space. S goes with V before the trimming, as in the authors' code (`s_on_V`).
"""

import torch

from continual.merges.spectrum import axes
from continual.merges.ties import ties


def knots(changes: torch.Tensor, weights: torch.Tensor, density: float) -> torch.Tensor:
    """TIES on changes (n, out, in) that were brought to shared singular vectors."""
    u = axes(changes)
    return u @ ties(u.T @ changes, weights, density)
