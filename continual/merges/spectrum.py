"""A matrix by its singular values, and only those that are there."""

from typing import NamedTuple

import torch

NOISE = 1e-5
"""Singular values below this share of the largest are rounding."""


class Spectrum(NamedTuple):
    """``matrix = u @ diag(s) @ vh``, the columns of u and the rows of vh orthonormal, what matters most first."""

    u: torch.Tensor
    """(out, k)."""
    s: torch.Tensor
    """(k,)."""
    vh: torch.Tensor
    """(k, in)."""


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """The singular value decomposition of a matrix (out, in) without its null directions, largest values first."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    k = int((s > NOISE * s[:1]).sum())
    return Spectrum(u[:, :k], s[:k], vh[:k])


def axes(changes: torch.Tensor) -> torch.Tensor:
    """The left singular vectors, (out, k), of changes (n, out, in) side by side; those of the largest values first.

    From the products of the changes with themselves, for side by side they are far wider than high. Null directions
    are left out, but where there is nothing else.
    """
    m = changes.double()
    squares, vectors = torch.linalg.eigh(torch.einsum("nor,npr->op", m, m))
    return vectors[:, squares >= NOISE * NOISE * squares[-1]].flip(1).to(changes.dtype)
