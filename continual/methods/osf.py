"""OSFT (Nayak et al., "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning", ICLR 2026,
arXiv 2504.07097).

Before each task every weight matrix is decomposed anew,

    W = U_high S_high V_high^T + U_low S_low V_low^T,

and its k largest singular directions are kept as they are: gradients are projected away from them,

    grad <- (I - U_high U_high^T) grad (I - V_high V_high^T).

k grows with the tasks: of n tasks, the t-th keeps (t - 1) / n of the directions (the schedule of PEFT's OSF, which
does the same on factors). Adam's steps and weight decay do not lie along the gradient; so each step is projected too,

    W <- U_high S_high V_high^T + (I - U_high U_high^T) W (I - V_high V_high^T),

after which U_high^T W and W V_high are what they were, to rounding. The paper chooses k for each layer by how alike
its inputs and outputs are; here all layers keep the same share. What is no matrix (norms, biases) is free.
"""

from __future__ import annotations

from typing import Any

import torch

from continual.catalogue import OSFArguments
from continual.methods.lesson import Lesson
from continual.plugin import LossPlugin, MethodPlugin


class Subspace:
    """The k largest singular directions of a matrix (m, n), 0 < k <= min(m, n)."""

    def __init__(self, weight: torch.Tensor, k: int) -> None:
        u, s, v = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        self.u, self.v = u[:, :k].contiguous(), v[:k].contiguous()
        self.kept = (self.u * s[:k]) @ self.v

    def outside(self, matrix: torch.Tensor) -> torch.Tensor:
        """What of a matrix (m, n) lies outside of both subspaces."""
        matrix = matrix - self.u @ (self.u.T @ matrix)
        return matrix - (matrix @ self.v.T) @ self.v


class OSFPlugin(LossPlugin, MethodPlugin):
    """Protects the largest singular directions of each matrix. There is no state: they are those of the weights as a
    task finds them.

    Args:
        step: share of the directions that each earlier task adds to what is kept.
    """

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step
        self._subspaces: dict[str, Subspace] = {}
        self._skipped: set[int] = set()

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        share = min(1.0, self.step * (strategy.experience.current_experience - len(self._skipped)))
        self._subspaces = {}
        for name, parameter in strategy.lm.named_parameters():
            if parameter.ndim == 2 and (k := round(share * min(parameter.shape))):
                self._subspaces[name] = Subspace(parameter, k)

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        for name, parameter in strategy.lm.named_parameters():
            if name in self._subspaces and parameter.grad is not None:
                parameter.grad.copy_(self._subspaces[name].outside(parameter.grad.float()))

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        for name, parameter in strategy.lm.named_parameters():
            if name in self._subspaces:
                subspace = self._subspaces[name]
                parameter.copy_(subspace.kept + subspace.outside(parameter.float()))

    def skip(self, number: int) -> None:
        self._skipped.add(number)


def build(arguments: OSFArguments, lesson: Lesson) -> OSFPlugin:
    """The method of a recipe."""
    return OSFPlugin(arguments.step if arguments.step is not None else 1 / len(lesson.order))
