"""IncLoRA: a new LoRA adapter for each task, the earlier ones frozen, all of them summed.

The baseline of O-LoRA (Wang et al., Findings of EMNLP 2023, arXiv 2310.14152) without its penalty: after task t,

    W = W_0 + sum_{i <= t} s B_i A_i,    and only B_t, A_t are trained in task t.

It is also what `start_from: merged` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from continual.catalogue import NoArguments
from continual.methods import stack
from continual.methods.lesson import Lesson
from continual.plugin import LossPlugin, MethodPlugin
from continual.seeds import derive


class IncLoRAPlugin(LossPlugin, MethodPlugin):
    """Puts a fresh adapter on top before each task but the first, and stacks both after it.

    What earlier tasks left is in the model itself: there is no state to keep.

    Args:
        adapter: arguments of `peft.LoraConfig` for each task's adapter.
        seed: decides their initial weights.
    """

    def __init__(self, adapter: Mapping[str, Any], seed: int) -> None:
        super().__init__()
        self.adapter, self.seed = adapter, seed

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        # Before anything asks which parameters are trained: a teacher's copy, the optimizer.
        number = strategy.experience.current_experience
        if number > 0:
            stack.check_one_process(strategy)
            stack.add(strategy.lm, self.adapter, derive(self.seed, "adapter", number))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience > 0:
            stack.stack(strategy.lm)


def build(arguments: NoArguments, lesson: Lesson) -> IncLoRAPlugin:
    """The method of a recipe."""
    assert lesson.adapter is not None
    return IncLoRAPlugin(lesson.adapter, lesson.seed)
