"""`start_from: base`: every task starts with a fresh adapter on the untaught base.

After task t the model is a new specialist of task t, and of what was rehearsed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from continual.methods import stack
from continual.plugin import LossPlugin, MethodPlugin
from continual.seeds import derive


class RestartPlugin(LossPlugin, MethodPlugin):
    """Replaces the adapter before each task but the first.

    It comes after all other methods: the model of the last task still writes what is rehearsed, and is the teacher of
    what is distilled.
    """

    def __init__(self, adapter: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.adapter, self.seed = adapter, seed

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        number = strategy.experience.current_experience
        if number > 0:
            stack.renew(strategy.lm, self.adapter, derive(self.seed, "adapter", number))
