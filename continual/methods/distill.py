"""Distillation on rehearsed samples: the student keeps the whole distribution of its teacher, not only the next token.

Word-level knowledge distillation (Hinton et al., 2015) towards the model as it was before the task (DnR: Sun et al.,
2020, "Distill and Replay for Continual Language Learning") or towards specialists (L2KD: Chuang et al., 2020). On a
rehearsed position the loss is

    (1 - a) CE(token) + a T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)),

weighted like every other position; real samples keep plain cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from continual.batch import LMBatch
from continual.methods.spaced import SpacedPlugin
from continual.model import CausalLM
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse.teacher import Newest, Teachers, Weights, wearing, weights_of


@dataclass(frozen=True)
class Taught:
    """What teachers say about one micro-batch.

    Args:
        positions: (N,) bool, where they say something.
        logits: theirs at these M positions, (M, vocab).
        weight: a, between 0 (the token alone) and 1 (the teacher alone).
        temperature: T.
    """

    positions: torch.Tensor
    logits: torch.Tensor
    weight: float
    temperature: float

    def loss(self, logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The weighted loss of all N positions, a scalar."""
        T = self.temperature
        loss = F.cross_entropy(logits.float(), y, reduction="none")
        student = (logits[self.positions].float() / T).log_softmax(-1)
        teacher = (self.logits.float() / T).log_softmax(-1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * T**2
        mixed = (1 - self.weight) * loss[self.positions] + self.weight * divergence
        return (loss.masked_scatter(self.positions, mixed) * weight).sum()


class DistillPlugin(LossPlugin, MethodPlugin):
    """Sets the loop's tutor, and takes a copy of the model before each task.

    Args:
        teachers: `Newest` is the model before the task.
        spaced: has what is rehearsed learnt in reviews; None: it is among the rows of the task.
    """

    def __init__(
        self,
        weight: float,
        temperature: float,
        teachers: Teachers,
        tasks: dict[int, str],
        spaced: SpacedPlugin | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.teachers, self.tasks = weight, temperature, teachers, tasks
        self.spaced = spaced
        self._before: Weights | None = None

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        # A checkpoint inside the task is laid over the model later, in `before_training_exp`.
        reviews = self.spaced is not None and self.spaced.has_rows
        rehearses = reviews or 1 in strategy.adapted_dataset.rehearsed.uniques
        strategy.tutor = self if rehearses else None
        self._before = weights_of(strategy.lm) if rehearses and isinstance(self.teachers, Newest) else None

    def guide(self, model: CausalLM, x: LMBatch) -> Taught | None:
        """What the teachers say about the rehearsed rows of a micro-batch; None if there are none."""
        labels = [int(label) for label in x.rehearsed.unique() if label]
        if not labels:
            return None
        row_of = x.supervised.nonzero()[:, 0]
        by_teacher: list[tuple[torch.Tensor, Weights | None]]
        if self._before is not None:
            by_teacher = [(x.rehearsed > 0, self._before)]
        else:
            by_teacher = [(x.rehearsed == label, self._specialist(model, label)) for label in labels]
        logits: torch.Tensor | None = None
        for positions, weights in by_teacher:
            rows = row_of[positions].unique()
            part = LMBatch(
                x.input_ids[rows],
                x.supervised[rows],
                x.answer[positions],
                x.cued[positions],
                x.rehearsed[positions],
                [x.lengths[int(row)] for row in rows],
            )
            told = self._asked(model, part, weights)
            if logits is None:
                logits = told.new_zeros(len(x.rehearsed), told.shape[1])
            logits[positions] = told
        assert logits is not None
        positions = x.rehearsed > 0
        return Taught(positions, logits[positions], self.weight, self.temperature)

    def _specialist(self, model: CausalLM, label: int) -> Weights | None:
        return self.teachers.of(model.inner, self.tasks[label - 1])

    @staticmethod
    @torch.no_grad()
    def _asked(model: CausalLM, x: LMBatch, weights: Weights | None) -> torch.Tensor:
        """A teacher's logits, (M, vocab), without dropout."""
        training = model.training
        model.eval()
        try:
            with wearing(model.inner, weights or {}):
                return model(x)
        finally:
            model.train(training)
