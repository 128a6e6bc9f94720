"""Riemannian walk: a weight is held by its squared gradients, and by how far the loss fell where it moved.

Chaudhry et al., 2018, "Riemannian Walk for Incremental Learning", eq. 6 to 8. As in Avalanche, and unlike `ewc` here,
what is squared is the gradient of a whole step: it is at hand at each step, single rows would be too dear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from continual.avalanche_settings import RWalk
from continual.errors import ContinualError
from continual.guard import guard
from continual.methods.importance import flat, named
from continual.methods.lesson import Lesson
from continual.plugin import LossPlugin, MethodPlugin

guard()

from avalanche.training.plugins import RWalkPlugin  # noqa: E402
from avalanche.training.utils import copy_params_dict  # noqa: E402

KEPT = (
    "checkpoint_params",
    "checkpoint_loss",
    "checkpoint_scores",
    "iter_importance",
    "exp_scores",
    "exp_params",
    "exp_importance",
    "exp_penalties",
)
"""What lasts longer than a step."""


class RWalkMethod(RWalkPlugin, LossPlugin, MethodPlugin):
    """Avalanche's RWalk over all micro-batches of a step, with scores counted from the first step of each task."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        if self.exp_scores is None and strategy.steps < self.delta_t:
            raise ContinualError(
                f"method_args.delta_t: the first task takes {strategy.steps} steps, and its scores would never be "
                f"updated every {self.delta_t}; lower it"
            )

    def _update_grad(self, strategy: Any) -> None:
        """The gradient of the mean cross-entropy of the step, without penalty."""
        model, (x, y) = strategy.model, (strategy.mb_x, strategy.mb_y)
        model.eval()
        strategy.optimizer.zero_grad()
        of_step = [*x.earlier, (x, y)]
        positions = sum(len(labels) for _, labels in of_step)
        for batch, labels in of_step:
            weight = torch.full((len(labels),), 1 / positions, device=labels.device)
            model(batch, labels, weight).backward()
        self.iter_grad = copy_params_dict(model, copy_grad=True)
        # Avalanche leaves the model in evaluation mode, and trains it without dropout from here on.
        model.train()

    def _is_checkpoint_iter(self, strategy: Any) -> bool:
        return bool(strategy.step % self.delta_t == 0)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for kind in KEPT:
            state |= flat(kind, vars(self)[kind] or {})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for kind in KEPT:
            known = named(kind, state)
            setattr(self, kind, known if known or kind.startswith("checkpoint") else None)


def build(arguments: RWalk, lesson: Lesson) -> RWalkMethod:
    return RWalkMethod(arguments.lambda_, arguments.alpha, arguments.delta_t)
