"""Elastic weight consolidation: a weight is held the more, the more the likelihood of earlier answers hangs on it.

Kirkpatrick et al., 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3, with one penalty for each
earlier task; Schwarz et al., 2018, "Progress & Compress", section 4, with one for all of them (``ewc_online``):

    loss + lambda * sum over tasks and weights of F * (theta - theta*)^2

theta* is the weight right after its task, F the mean over the task's rows of the squared gradient of
log p(answer | prompt), with the answers of the data (the empirical Fisher information).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from continual.avalanche_settings import Ewc, OnlineEwc
from continual.guard import guard
from continual.methods.importance import flat, named, row_by_row
from continual.methods.lesson import Lesson
from continual.plugin import LossPlugin, MethodPlugin

guard()

from avalanche.training.plugins import EWCPlugin  # noqa: E402


class EwcMethod(EWCPlugin, LossPlugin, MethodPlugin):
    """Avalanche's EWC with a Fisher information of single rows.

    Args:
        decay_factor: of the older importance in the one penalty for all tasks; None: one penalty for each task.
        rows: of a task that make its importance; None: all.
        seed: decides which.
    """

    def __init__(self, strength: float, decay_factor: float | None, rows: int | None, seed: int) -> None:
        super().__init__(strength, "separate" if decay_factor is None else "online", decay_factor)
        self.rows, self.seed = rows, seed

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with row_by_row(strategy, self.rows, self.seed):
            super().after_training_exp(strategy, **kwargs)

    def compute_importances(self, model: Any, criterion: Any, *args: Any, **kwargs: Any) -> Any:
        # The likelihood of an answer is the product over its tokens, not their mean.
        return super().compute_importances(model, torch.nn.CrossEntropyLoss(reduction="sum"), *args, **kwargs)

    def update_importances(self, importances: Any, t: int) -> None:
        if self.decay_factor is not None and t > 0:
            # Avalanche pairs old and new ones by their order, which a file does not keep.
            self.importances[t - 1] = {name: self.importances[t - 1][name] for name in importances}
        super().update_importances(importances, t)

    def skip(self, number: int) -> None:
        if self.decay_factor is not None:
            # Avalanche looks for the one penalty under the number of the task right before.
            self.saved_params[number] = self.saved_params[number - 1]
            self.importances[number] = self.importances[number - 1]

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for kind, of_tasks in (("params", self.saved_params), ("importances", self.importances)):
            for task, own in of_tasks.items():
                state |= flat(f"{kind}/{task}", own)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        tasks = sorted({int(key.split("/")[1]) for key in state})
        self.saved_params = defaultdict(dict, {task: named(f"params/{task}", state) for task in tasks})
        self.importances = defaultdict(dict, {task: named(f"importances/{task}", state) for task in tasks})


def build(arguments: Ewc, lesson: Lesson) -> EwcMethod:
    decay = arguments.decay_factor if isinstance(arguments, OnlineEwc) else None
    return EwcMethod(arguments.lambda_, decay, arguments.importance_samples, lesson.seed)
