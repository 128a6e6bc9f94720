"""Spaced reviews: the scheduler of FOREVER (Feng et al., 2026, "FOREVER: Forgetting Curve-Inspired Memory Replay for
Language Model Continual Learning", arXiv 2601.03938).

The time of a task is how far its steps have moved the model, tau = sum_t ||theta_t - theta_{t-1}||, over the trainable
parameters. A day is how far the first 24 steps move it. Whenever tau passes 1, 2, 4, 7, 15, 30, … days, all rehearsed
rows are learnt once, in a review of their own; so they are after the task's last step. Reviews take no time.

While it reviews, the paper also pulls the weights back to where they were before the task, more strongly the faster
they move (its intensity-aware regularization). That half is not here; docs/recipes.md tells what else differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from continual.guard import guard
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse.modeltime import Clock
from continual.seeds import derive

guard()

import torch  # noqa: E402


class SpacedPlugin(LossPlugin, MethodPlugin):
    """Has rows learnt in reviews.

    It keeps a copy of the trainable weights, to see how far a step moves them.

    Args:
        day_steps: see `Clock`.
    """

    def __init__(self, day_steps: int) -> None:
        super().__init__()
        self.clock = Clock(day_steps)
        self.reviews = 0
        """Reviews in the current task."""
        self._sets: Sequence[Any] = ()
        self._before: list[torch.Tensor] = []
        self._moved = 0.0

    @property
    def has_rows(self) -> bool:
        """Whether there is something to review in the current task."""
        return bool(self._sets)

    def begin(self, sets: Sequence[Any]) -> None:
        """A task begins.

        Args:
            sets: Avalanche data sets of what is reviewed in it, taken in turn; none where there is nothing.
        """
        self.clock.begin()
        self._sets, self.reviews = sets, 0

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self._before = [p.detach().clone() for p in strategy.model.parameters()]

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        pairs = zip(strategy.model.parameters(), self._before, strict=True)
        squares = [(p.detach() - before).float().pow(2).sum() for p, before in pairs]
        self._moved = float(torch.stack(squares).sum().sqrt())
        self._before = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        # The steps of a review are no iterations: what they move is not counted.
        if self.clock.tick(self._moved):
            self._review(strategy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._review(strategy)

    def _review(self, strategy: Any) -> None:
        """Learn the rows of a set once, with an optimizer and a schedule of this review's own."""
        if not self._sets:
            return
        rows = self._sets[self.reviews % len(self._sets)]
        self.reviews += 1
        names = ("optimizer", "schedule", "mbatch", "loss", "mb_output")
        kept = {name: getattr(strategy, name) for name in names}
        seed = derive(strategy.seed, strategy.experience.current_experience, self.reviews, "review")
        batches = strategy.batches_of(rows, derive(seed, "batches"))
        strategy.renew_optimizer(len(batches))
        for step, strategy.mbatch in enumerate(batches):
            torch.manual_seed(derive(seed, step, "step"))
            strategy._unpack_minibatch()
            strategy._compute_gradient()
            strategy._before_update()
            strategy.optimizer_step()
            strategy._after_update()
            tokens = sum(batch.tokens for batch in strategy.mb_x.step)
            strategy.train_tokens += tokens * strategy.accelerator.num_processes
        for name, value in kept.items():
            setattr(strategy, name, value)

    def state_dict(self) -> dict[str, Any]:
        return {**asdict(self.clock), "reviews": self.reviews}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reviews = state["reviews"]
        self.clock = Clock(**{name: value for name, value in state.items() if name != "reviews"})
