"""TSV-Merge (Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025,
arXiv 2412.00081).

With the singular value decompositions delta_t = U_t S_t V_t^T side by side,

    U = [U_1 ... U_n],   S = diag(w_1 S_1, ..., w_n S_n),   V = [V_1 ... V_n],

both U and V are replaced by the nearest matrices with orthonormal columns (Procrustes: U = P D Q^T, U_o = P Q^T), and

    delta = U_o S V_o^T.

The paper first cuts each delta_t to the n-th part of its rank, so that all fit side by side. Changes of low rank fit
as they are. Where they share directions (two equal adapters, say), D has zeros, P and Q are not unique there, and
those parts are left out.
"""

import torch

from continual.merges.spectrum import spectrum


def orthogonal(columns: torch.Tensor) -> torch.Tensor:
    """The nearest matrix of the same shape with orthonormal columns, on the span of the columns."""
    p, _, qh = spectrum(columns)
    return p @ qh


def tsv(changes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum of changes (n, out, in) whose singular vectors were made orthogonal."""
    parts = [spectrum(change) for change in changes]
    s = torch.cat([weight * part.s for weight, part in zip(weights, parts, strict=True)])
    u = orthogonal(torch.cat([part.u for part in parts], dim=1))
    v = orthogonal(torch.cat([part.vh.T for part in parts], dim=1))
    return (u * s) @ v.T
