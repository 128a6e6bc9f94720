"""The changes that several adapters make to one module, in coordinates in which they are small matrices.

With the factors of all adapters side by side, [B_1 ... B_n] = Q_B R_B and [A_1^T ... A_n^T] = Q_A R_A, each change is
B_t A_t = Q_B M_t Q_A^T, where M_t has at most (sum of ranks) rows and columns: nothing is lost (Panariello et al.,
"Accurate and Efficient Low-Rank Model Merging in Core Space", NeurIPS 2025, arXiv 2509.17786).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from continual.lora import Factors
from continual.merges import spectrum
from continual.merges.spectrum import Spectrum


@dataclass(frozen=True)
class Changes:
    """``delta_t = left @ changes[t] @ right.T``; None is the identity."""

    changes: torch.Tensor
    """(n, p, q)."""
    left: torch.Tensor | None = None
    """(out, p), orthonormal columns."""
    right: torch.Tensor | None = None
    """(in, q), orthonormal columns."""


def full(factors: Sequence[Factors]) -> Changes:
    """The changes as they are, (n, out, in), float32."""
    return Changes(torch.stack([b @ a for a, b in factors]))


def outputs(factors: Sequence[Factors]) -> Changes:
    """Small on the side of the outputs only, (n, sum of ranks, in), float64."""
    left, parts = _split([b for _, b in factors])
    return Changes(torch.stack([m @ a.double() for m, (a, _) in zip(parts, factors, strict=True)]), left)


def core(factors: Sequence[Factors]) -> Changes:
    """Small on both sides, (n, sum of ranks, sum of ranks), float64."""
    left, outs = _split([b for _, b in factors])
    right, ins = _split([a.T for a, _ in factors])
    return Changes(torch.stack([m @ n.T for m, n in zip(outs, ins, strict=True)]), left, right)


def axes(given: Changes) -> Changes:
    """Core coordinates along the principal axes of all changes together.

    Any basis of the core space loses nothing, but what works on single values gives another result in each. These
    axes follow from the changes alone: not from how they were factored, nor from the order of the adapters.
    """
    assert given.left is not None and given.right is not None
    m = given.changes
    u, v = spectrum.axes(m), spectrum.axes(m.mT)
    return Changes(u.T @ m @ v, given.left @ u, given.right @ v)


def best(matrix: torch.Tensor | Spectrum, rank: int) -> tuple[Spectrum, float, float]:
    """The nearest matrix of a rank.

    Args:
        matrix: (p, q); a Spectrum is cut in its own order.

    Returns:
        It; the squared Frobenius norm of what was given; and that of what is kept.
    """
    if isinstance(matrix, Spectrum):
        u, s, vh = matrix
        if not len(s):  # an adapter that was never taught changes nothing
            return best(u @ vh, rank)
        return Spectrum(u[:, :rank], s[:rank], vh[:rank]), float((s**2).sum()), float((s[:rank] ** 2).sum())
    m = matrix.double()
    if m.shape[0] > m.shape[1]:
        turned, energy, kept = best(m.T, rank)
        return Spectrum(turned.vh.T, turned.s, turned.u.T), energy, kept
    # The smaller product has the same left vectors as m, and costs little where m is wide.
    u = torch.linalg.eigh(m @ m.T).eigenvectors.flip(1)[:, :rank]
    rows = u.T @ m
    s = rows.norm(dim=1)
    return Spectrum(u, s, rows / torch.where(s > 0, s, 1.0)[:, None]), float((m**2).sum()), float((s**2).sum())


def factored(parts: Spectrum, given: Changes) -> Factors:
    """Factors of equal norm in the module's own coordinates, float32."""
    root = parts.s.sqrt()
    b, a = parts.u * root, root[:, None] * parts.vh
    if given.left is not None:
        b = given.left @ b
    if given.right is not None:
        a = a @ given.right.T
    return Factors(a.float().contiguous(), b.float().contiguous())


def dense(matrix: torch.Tensor | Spectrum, given: Changes) -> torch.Tensor:
    """The whole change of the module, (out, in), float32."""
    m = (matrix.u * matrix.s) @ matrix.vh if isinstance(matrix, Spectrum) else matrix
    if given.left is not None:
        m = given.left @ m
    if given.right is not None:
        m = m @ given.right.T
    return m.float()


def _split(columns: Sequence[torch.Tensor]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """An orthonormal basis of all columns, and the columns of each in it."""
    q, r = torch.linalg.qr(torch.cat([c.double() for c in columns], dim=1))
    return q, r.split([c.shape[1] for c in columns], dim=1)
