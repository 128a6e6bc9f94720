"""Replay of stored real rows, a random sample of all rows learnt so far.

Reservoir sampling: Vitter, 1985, "Random sampling with a reservoir"; for continual learning Rolnick et al., 2019,
"Experience Replay for Continual Learning".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from continual.avalanche_settings import Replay
from continual.guard import guard
from continual.methods.lesson import Lesson
from continual.methods.memory import kept, rows_of_task
from continual.plugin import LossPlugin, MethodPlugin
from continual.seeds import derive

guard()

from avalanche.benchmarks.utils import concat_datasets  # noqa: E402
from avalanche.training.storage_policy import ReservoirSamplingBuffer  # noqa: E402


class ReplayMethod(LossPlugin, MethodPlugin):
    """Avalanche's reservoir, whose rows are mixed into those of each new task.

    Avalanche's `ReplayPlugin` brings a loader of its own, which fills half of each batch from the memory. Here a row
    of the memory comes once in an epoch like any other, in batches of as many tokens as elsewhere.
    """

    def __init__(self, lesson: Lesson, mem_size: int) -> None:
        super().__init__()
        self.lesson, self.storage_policy = lesson, ReservoirSamplingBuffer(mem_size)
        self.tasks: list[int] = []
        self._kept: list[dict[str, Any]] = []

    @property
    def kept(self) -> list[dict[str, Any]]:
        return self._kept

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        memory = self.storage_policy.buffer
        if len(memory) == 0:
            return
        picked: dict[str, list[int]] = {self.lesson.order[number]: [] for number in self.tasks}
        names = {label: task for task, label in self.lesson.labels.items()}
        for label, number in zip(memory.targets_task_labels, memory.row_number, strict=True):
            picked[names[int(label)]].append(int(number))
        self._kept = kept(self.lesson, picked)
        strategy.adapted_dataset = concat_datasets([strategy.adapted_dataset, memory])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._remember(strategy.experience.current_experience)

    def _remember(self, number: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.lesson.seed, number, "remember"))
            self.storage_policy.update_from_dataset(rows_of_task(self.lesson, number))
        self.tasks.append(number)

    def state_dict(self) -> dict[str, Any]:
        """The numbers of the tasks that were learnt; the memory is drawn again from the seed."""
        return {"tasks": self.tasks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.storage_policy, self.tasks = ReservoirSamplingBuffer(self.storage_policy.max_size), []
        for number in state.get("tasks", []):
            self._remember(number)


def build(arguments: Replay, lesson: Lesson) -> ReplayMethod:
    return ReplayMethod(lesson, arguments.mem_size)
