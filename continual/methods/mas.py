"""Memory aware synapses: a weight is held by how much the size of the logits hangs on it.

Aljundi et al., 2018, "Memory Aware Synapses: Learning what (not) to forget", eq. 2 and 4:

    loss + lambda * sum over weights of Omega * (theta - theta*)^2

theta* is the weight right after the newest task, Omega the mean over a task's rows of the absolute gradient of the
squared length of the logits (the mean over the positions of an answer). Over tasks it is a moving average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from continual.avalanche_settings import Mas
from continual.guard import guard
from continual.methods.importance import flat, named, row_by_row
from continual.methods.lesson import Lesson
from continual.plugin import LossPlugin, MethodPlugin

guard()

from avalanche.training.plugins import MASPlugin  # noqa: E402


class MasMethod(MASPlugin, LossPlugin, MethodPlugin):
    """Avalanche's MAS with gradients of single rows.

    Args:
        alpha: share of the older importance.
        rows: of a task that make its importance; None: all.
        seed: decides which.
    """

    def __init__(self, strength: float, alpha: float, rows: int | None, seed: int) -> None:
        super().__init__(strength, alpha)
        self.rows, self.seed = rows, seed

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with row_by_row(strategy, self.rows, self.seed):
            super().after_training_exp(strategy, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        return flat("params", self.params or {}) | flat("importance", self.importance or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.params, self.importance = named("params", state) or None, named("importance", state) or None


def build(arguments: Mas, lesson: Lesson) -> MasMethod:
    return MasMethod(arguments.lambda_, arguments.alpha, arguments.importance_samples, lesson.seed)
