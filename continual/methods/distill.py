"""Distillation on rehearsed samples: the student keeps the whole distribution of its teacher, not only the next token.

Word-level knowledge distillation (Hinton et al., 2015) towards the model as it was when the samples were written,
towards the model as it was before the task (DnR: Sun et al., 2020, "Distill and Replay for Continual Language
Learning"), or towards specialists (L2KD: Chuang et al., 2020). On a rehearsed position the loss is

    (1 - a) CE(token) + a T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)),

weighted like every other position; real samples keep plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from continual import crossentropy
from continual.batch import LMBatch
from continual.crossentropy import Loss, LossOf
from continual.methods.spaced import SpacedPlugin
from continual.model import CausalLM, LogitsOf
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse.expected import Likeliest, TargetStore
from continual.rehearse.teacher import Newest, Teachers, Weights, teacher_logits, weights_of


class Expected(Protocol):
    """What a teacher expects at some positions."""

    def divergence(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """KL of a student's softened distribution from the teacher's, (M,); `logits` are (M, vocab)."""
        ...


@dataclass(frozen=True)
class AllLogits:
    """A teacher's whole distribution: its logits, (M, vocab)."""

    logits: torch.Tensor

    def divergence(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        student = (logits.float() / temperature).log_softmax(-1)
        teacher = (self.logits.float() / temperature).log_softmax(-1)
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


@dataclass(frozen=True)
class Taught:
    """What teachers say about one micro-batch.

    Args:
        positions: (N,) bool, where they say something.
        expected: theirs at these M positions.
        weight: a, between 0 (the token alone) and 1 (the teacher alone).
        temperature: T.
    """

    positions: torch.Tensor
    expected: Expected
    weight: float
    temperature: float

    def loss(self, logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The weighted loss of all N positions, a scalar."""
        loss = F.cross_entropy(logits.float(), y, reduction="none")
        divergence = self.expected.divergence(logits[self.positions], self.temperature) * self.temperature**2
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
        return Taught(positions, AllLogits(torch.cat(said)[order]), self.weight, self.temperature)

    def loss_of(self, part: slice) -> Loss:
        taught = self.part(part)
        return crossentropy.weighted if taught is None else taught.loss


@dataclass(frozen=True)
class KeptLessons:
    """What was expected when the samples of one micro-batch were written.

    Args:
        positions: where something was expected, (N,) bool.
        expected: at these positions.
        weight, temperature: as of `Taught`.
    """

    positions: torch.Tensor
    expected: Likeliest
    weight: float
    temperature: float

    def loss_of(self, part: slice) -> Loss:
        here = self.positions[part]
        first, size = int(self.positions[: part.start].sum()), int(here.sum())
        if not size:
            return crossentropy.weighted
        return Taught(here, self.expected[first : first + size], self.weight, self.temperature).loss


class DistillPlugin(LossPlugin, MethodPlugin):
    """Sets the loop's tutor; with `Newest`, takes a copy of the model before each task.

    Args:
        teachers: `Newest` is the model before the task; a `TargetStore` has what was expected when the
            samples were written.
        spaced: has what is rehearsed learnt in reviews; None: it is among the rows of the task.
    """

    def __init__(
        self,
        weight: float,
        temperature: float,
        teachers: Teachers | TargetStore,
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
        if isinstance(self.teachers, TargetStore):
            expected = self.teachers.of(x)
            return KeptLessons(x.rehearsed > 0, expected, self.weight, self.temperature).loss_of
        row_of = x.supervised.nonzero()[:, 0]
        by_teacher: list[tuple[torch.Tensor, Weights | None]]
        if self._before is not None:
            by_teacher = [(x.rehearsed > 0, self._before)]
        else:
            by_teacher = [(x.rehearsed == label, self._specialist(self.teachers, model, label)) for label in labels]
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

    def _specialist(self, teachers: Teachers, model: CausalLM, label: int) -> Weights | None:
        return teachers.of(model.inner, self.tasks[label - 1])
