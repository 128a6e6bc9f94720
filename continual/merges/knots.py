"""KnOTS (Stoica et al., "Model merging with SVD to tie the Knots", ICLR 2025, arXiv 2410.19735), with TIES.

    [delta_1 ... delta_n] = U S [V_1^T ... V_n^T],   delta = U S V^T,   V^T = TIES(V_1^T, ..., V_n^T).

All changes are brought to the same singular vectors U S; what is left of each, V_t^T, shape (k, in), lies in one
space.
"""

import torch

from continual.merges.spectrum import NOISE
from continual.merges.ties import ties


def knots(changes: torch.Tensor, weights: torch.Tensor, density: float) -> torch.Tensor:
    """TIES on changes (n, out, in) that were brought to shared singular vectors."""
    # U and S by the products (out, out): the changes side by side are n times as wide.
    squares, u = torch.linalg.eigh(torch.einsum("nor,npr->op", changes.double(), changes.double()))
    there = squares > (NOISE * NOISE) * squares[-1]
    u, s = u[:, there].to(changes.dtype), squares[there].sqrt().to(changes.dtype)
    return (u * s) @ ties((u / s).T @ changes, weights, density)
