"""MagMax (Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual Learning", ECCV 2024,
arXiv 2407.06322).

Tasks are learnt one after another. With the task vectors tau_i = theta_i - theta_0, relative to the untaught model,

    theta = theta_0 + lambda * tau,   tau^p = tau_k^p with k = argmax_i |tau_i^p|   for each parameter p.

The maximum is kept up as tasks come; of equal ones the earlier stays. Lambda scales the first task's vector, too: what
is examined after it is what later scores are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from continual.catalogue import MagMaxArguments
from continual.methods.apart import ApartPlugin, put
from continual.methods.lesson import Lesson
from continual.rehearse.teacher import Weights, weights_of


class MagMaxPlugin(ApartPlugin):
    """Keeps the untaught weights, and of each parameter the value that is farthest from there.

    Args:
        scale: lambda.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self._untaught: Weights = {}
        self._farthest: Weights = {}

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience == 0:
            self._untaught = weights_of(strategy.lm)
        super().after_train_dataset_adaptation(strategy, **kwargs)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        first = strategy.experience.current_experience == 0
        if first:
            self._farthest = weights_of(strategy.lm)
        super().after_training_exp(strategy, **kwargs)
        if first:
            put(strategy.lm, self._scaled())

    def merge(self, merged: Weights, finetuned: Weights, tasks: int) -> Weights:
        for name, untaught in self._untaught.items():
            new, old = finetuned[name], self._farthest[name]
            self._farthest[name] = torch.where((new - untaught).abs() > (old - untaught).abs(), new, old)
        return self._scaled()

    def _scaled(self) -> Weights:
        """Return theta_0 + lambda * tau."""
        if self.scale == 1:
            return self._farthest
        return {name: base + self.scale * (self._farthest[name] - base) for name, base in self._untaught.items()}

    def state_dict(self) -> dict[str, Any]:
        parts = {"finetuned": self._finetuned, "untaught": self._untaught, "farthest": self._farthest}
        return {f"{part}/{name}": weight for part, weights in parts.items() for name, weight in weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        def part(prefix: str) -> Weights:
            return {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}

        self._finetuned, self._untaught = part("finetuned/"), part("untaught/")
        self._farthest = part("farthest/")


def build(arguments: MagMaxArguments, lesson: Lesson) -> MagMaxPlugin:
    """The method of a recipe."""
    return MagMaxPlugin(arguments.scale)
