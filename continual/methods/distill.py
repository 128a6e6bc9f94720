"""Distillation on rehearsed samples: the student keeps the whole distribution of its teacher, not only the next token.

Word-level knowledge distillation (Hinton et al., 2015) towards the model as it was before the task (DnR: Sun et al.,
2020, "Distill and Replay for Continual Language Learning") or towards specialists (L2KD: Chuang et al., 2020). On a
rehearsed position the loss is

    (1 - a) CE(token) + a T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)),

weighted like every other position; real samples keep plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from continual import crossentropy
from continual.batch import LMBatch
from continual.crossentropy import Loss, LossOf
from continual.methods.spaced import SpacedPlugin
from continual.model import CausalLM, LogitsOf
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse.teacher import Newest, Teachers, Weights, teacher_logits, weights_of


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


@dataclass(frozen=True)
class Lessons:
    """What teachers say about one micro-batch, of a slice of its N positions at a time.

    Args:
        told: of each teacher, where it says something, (N,) bool, and its logits at a slice of these positions.
        weight, temperature: as of `Taught`.
    """

    told: Sequence[tuple[torch.Tensor, LogitsOf]]
    weight: float
    temperature: float

    def part(self, part: slice) -> Taught | None:
        """What they say of a slice; None if nothing."""
        places, said = [], []
        for where, logits_of in self.told:
            here = where[part].nonzero()[:, 0]
            if len(here):
                first = int(where[: part.start].sum())
                places.append(here)
                said.append(logits_of(slice(first, first + len(here))))
        if not places:
            return None
        place, order = torch.cat(places).sort()
        positions = torch.zeros_like(self.told[0][0][part]).index_fill(0, place, True)
        return Taught(positions, torch.cat(said)[order], self.weight, self.temperature)

    def loss_of(self, part: slice) -> Loss:
        taught = self.part(part)
        return crossentropy.weighted if taught is None else taught.loss


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

    def guide(self, model: CausalLM, x: LMBatch) -> LossOf:
        """What is learned of a micro-batch: at rehearsed positions also what the teachers say."""
        labels = [int(label) for label in x.rehearsed.unique() if label]
        if not labels:
            return crossentropy.plain
        row_of = x.supervised.nonzero()[:, 0]
        by_teacher: list[tuple[torch.Tensor, Weights | None]]
        if self._before is not None:
            by_teacher = [(x.rehearsed > 0, self._before)]
        else:
            by_teacher = [(x.rehearsed == label, self._specialist(model, label)) for label in labels]
        told: list[tuple[torch.Tensor, LogitsOf]] = []
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
            told.append((positions, teacher_logits(model, part, weights or {})))
        return Lessons(told, self.weight, self.temperature).loss_of

    def _specialist(self, model: CausalLM, label: int) -> Weights | None:
        return self.teachers.of(model.inner, self.tasks[label - 1])
