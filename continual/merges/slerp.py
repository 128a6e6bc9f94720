"""Spherical linear interpolation (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985) of two
changes, each taken as one long vector.

With the angle Omega between them and the second one's share t,

    delta = sin((1 - t) Omega) / sin(Omega) * delta_0 + sin(t Omega) / sin(Omega) * delta_1.
"""

import torch

NEARLY_PARALLEL = 0.9995
"""The cosine from which on the straight line is taken, as in mergekit."""


def slerp(changes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Between two changes (2, out, in), by their weights' shares. One is itself."""
    if len(changes) == 1:
        return changes[0]
    first, second = changes
    t = weights[1] / weights.sum()
    norms = first.norm() * second.norm()
    cosine = ((first * second).sum() / torch.where(norms > 0, norms, 1.0)).clamp(-1, 1)
    if cosine.abs() > NEARLY_PARALLEL:
        return (1 - t) * first + t * second
    angle = torch.arccos(cosine)
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)
