"""Learning without forgetting: the model as it was before a task teaches, on the rows of the new task.

Li and Hoiem, 2016, "Learning without Forgetting", eq. 2 and 3, on every supervised token:

    loss + alpha * KL(softmax(z_before / T) || softmax(z / T)), the mean over the tokens of a step
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from continual.avalanche_settings import Lwf
from continual.guard import guard
from continual.methods.lesson import Lesson
from continual.plugin import MethodPlugin
from continual.rehearse.teacher import Weights, wearing, weights_of

guard()

from avalanche.training.plugins import LwFPlugin  # noqa: E402


class LwfMethod(LwFPlugin, MethodPlugin):
    """Avalanche's LwF with the trained weights in the place of a second model, and every token of the vocabulary in
    the place of the classes seen so far.
    """

    def __init__(self, alpha: float, temperature: float) -> None:
        super().__init__(alpha, temperature)
        self._before: Weights = {}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        strategy.one_forward = True

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        if not self._before:
            return
        model = strategy.model
        model.eval()
        with torch.no_grad(), wearing(strategy.lm, self._before):
            before = model(strategy.mb_x)
        model.train()
        self.lwf.prev_model = lambda x: before
        self.lwf.prev_classes_by_task[0] = range(before.shape[1])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._before = weights_of(strategy.lm)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._before)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._before = dict(state)


def build(arguments: Lwf, lesson: Lesson) -> LwfMethod:
    return LwfMethod(arguments.alpha, arguments.temperature)
