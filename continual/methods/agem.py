"""Averaged gradient episodic memory: a step that would raise the loss on stored rows is turned until it does not.

Chaudhry et al., 2019, "Efficient Lifelong Learning with A-GEM", eq. 11: where the gradient g of a step and the
gradient r on rows drawn from the memory point apart (g . r < 0), the step is g - (g . r / r . r) r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from continual.avalanche_settings import Agem
from continual.batch import Triple
from continual.errors import ContinualError
from continual.guard import guard
from continual.methods.lesson import Lesson
from continual.methods.memory import kept, rows_of_task
from continual.plugin import LossPlugin, MethodPlugin
from continual.seeds import derive

guard()

from avalanche.training.plugins import AGEMPlugin  # noqa: E402


class AgemMethod(AGEMPlugin, LossPlugin, MethodPlugin):
    """Avalanche's A-GEM with draws that derive from the seed.

    Avalanche shuffles a memory once and then goes through it in that order. Here rows are drawn anew at each step, so
    that a resumed run draws what the uninterrupted one would have drawn, and the memory of earlier tasks is drawn
    again from the seed.
    """

    def __init__(self, lesson: Lesson, patterns_per_experience: int, sample_size: int) -> None:
        super().__init__(patterns_per_experience, sample_size)
        if sample_size < len(lesson.order):
            raise ContinualError(
                f"method_args.sample_size: {sample_size} rows are less than one of each of {len(lesson.order)} tasks"
            )
        self.lesson = lesson
        self._picked: dict[str, list[int]] = {}
        self._kept: list[dict[str, Any]] = []
        self._draw = 0

    @property
    def kept(self) -> list[dict[str, Any]]:
        return self._kept

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        self._kept = kept(self.lesson, self._picked)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._draw = derive(self.lesson.seed, strategy.experience.current_experience, strategy.step, "memory")
        super().before_training_iteration(strategy, **kwargs)

    def sample_from_memory(self) -> Triple:
        """The same number of rows of each earlier task."""
        chance, share = np.random.default_rng(self._draw), self.sample_size // len(self.buffers)
        drawn = [(b, chance.permutation(len(b))[:share]) for b in self.buffers]
        return self.lesson.collate([buffer[int(i)] for buffer, rows in drawn for i in rows])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._remember(strategy.experience.current_experience)

    def _remember(self, number: int) -> None:
        rows = rows_of_task(self.lesson, number)
        chance = np.random.default_rng(derive(self.lesson.seed, number, "remember"))
        picked = chance.permutation(len(rows))[: self.patterns_per_experience].tolist()
        self._picked[self.lesson.order[number]] = picked
        self.update_memory(rows.subset(picked))

    def state_dict(self) -> dict[str, Any]:
        return {"tasks": [self.lesson.order.index(task) for task in self._picked]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.buffers.clear()
        self._picked.clear()
        for number in state.get("tasks", []):
            self._remember(number)


def build(arguments: Agem, lesson: Lesson) -> AgemMethod:
    return AgemMethod(lesson, arguments.patterns_per_experience, arguments.sample_size)
