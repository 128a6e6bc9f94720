"""Methods that train one set of weights and hand out another: what is examined and saved is merged from what the tasks
left, while the next task goes on from the last fine-tuned point.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse.teacher import Weights, weights_of


class ApartPlugin(LossPlugin, MethodPlugin):
    """Swaps the two sets of weights at the ends of a task.

    The merged weights are in the model between tasks; so they write what is rehearsed and teach what is distilled. The
    fine-tuned ones are the state.
    """

    def __init__(self) -> None:
        super().__init__()
        self._merged: Weights = {}
        self._finetuned: Weights = {}
        self._skipped: set[int] = set()

    def start(self, finetuned: Weights) -> Weights:
        """Where the next task starts, from where the last one ended."""
        return finetuned

    @abstractmethod
    def merge(self, merged: Weights, finetuned: Weights, tasks: int) -> Weights:
        """The merged weights after a task, from those before it.

        Args:
            tasks: how many are learnt, at least 2.
        """

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience > 0:
            self._merged = weights_of(strategy.lm)
            put(strategy.lm, self.start(self._finetuned))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._finetuned = weights_of(strategy.lm)
        tasks = strategy.experience.current_experience + 1 - len(self._skipped)
        if tasks > 1:
            put(strategy.lm, self.merge(self._merged, self._finetuned, tasks))

    def skip(self, number: int) -> None:
        self._skipped.add(number)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._finetuned)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._finetuned = dict(state)


@torch.no_grad()
def put(model: Any, weights: Weights) -> None:
    """Write weights into the parameters of these names."""
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.copy_(weights[name])
