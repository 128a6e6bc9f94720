"""SDFT (Shenfeld et al., "Self-Distillation Enables Continual Learning", 2026, arXiv 2601.19897).

The model that has seen a demonstration is the teacher of the model that has not. For a prompt x with the demonstration
c (the answer in the data), the student writes an answer itself, y ~ pi_theta(. | x), and on the tokens of y

    loss = sum_t KL(pi_theta(. | y_<t, x) || pi_phi(. | y_<t, x, c)),

over the whole vocabulary; no gradient goes through the drawing of y or through the teacher. Its weights follow the
student's, phi <- alpha theta + (1 - alpha) phi after each step, from phi = theta at the start of a task. The answer in
the data is never a target itself. Here the loss is the mean over the answer tokens of a step, as everywhere in this
program. It can only teach what the model does better with the demonstration in sight.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from continual.batch import LMBatch, Triple
from continual.catalogue import SDFTArguments
from continual.crossentropy import LossOf
from continual.data import room
from continual.decode import Decoder
from continual.methods.lesson import Lesson
from continual.model import CausalLM
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse.teacher import Weights, teacher_logits, weights_of
from continual.sample import Message, Sample
from continual.sampling import Sampling
from continual.seeds import derive


@dataclass(frozen=True)
class Reverse:
    """What the teacher says about one micro-batch.

    Args:
        logits: theirs at all N supervised positions, (N, vocab).
    """

    logits: torch.Tensor

    def loss(self, logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The weighted KL(student || teacher), a scalar."""
        student, teacher = logits.float().log_softmax(-1), self.logits.float().log_softmax(-1)
        return ((student.exp() * (student - teacher)).sum(-1) * weight).sum()


@dataclass(frozen=True)
class Asked:
    """A prompt as student and teacher see it, as ids after `bos_ids`, and how long an answer may be."""

    student: list[int]
    teacher: list[int]
    new_tokens: int


Row = tuple[int, ...]


class SDFTPlugin(LossPlugin, MethodPlugin):
    """Puts the student's own answers in the place of those in the data, in each step, and is the loop's tutor."""

    def __init__(self, arguments: SDFTArguments, lesson: Lesson) -> None:
        super().__init__()
        self.arguments, self.lesson = arguments, lesson
        self.generated_tokens = 0
        self._asked: dict[Row, Asked] = {}
        """By the ids of a row as the data has it."""
        self._teacher_of: dict[Row, list[int]] = {}
        """What the teacher reads, by the ids of a row as the student wrote it in this step."""
        self._teacher: Weights = {}

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        task = self.lesson.order[strategy.experience.current_experience]
        chat, space = self.lesson.chat, room(self.lesson.max_length, self.lesson.collate)
        self._asked = {}
        shortened = 0
        for sample in self.lesson.samples[task]:
            whole = chat.encode(sample, space)
            begin = _last_answer(whole.answer)
            new_tokens = min(self.arguments.max_new_tokens, space - begin)
            shown, first = self._shown(sample), len(chat.bos_ids)
            prompt = chat.prompt_ids(shown, first + space - new_tokens)[first:]
            shortened += len(prompt) < len(chat.prompt_ids(shown, sys.maxsize)) - first
            self._asked[tuple(whole.input_ids)] = Asked(whole.input_ids[:begin], prompt, new_tokens)
        if shortened:
            self.lesson.say(
                f"[yellow]mind:[/yellow] sdft: {shortened} prompts of {task} do not fit into training.max_length with "
                "their demonstration, and lose their middle"
            )
        strategy.tutor = self

    def _shown(self, sample: Sample) -> list[Message]:
        """A prompt that shows the answer."""
        *before, question = sample.prompt
        head, tail = self.arguments.demonstration.split("{question}")
        words = head + question.content + tail.replace("{answer}", sample.answer)
        return [*before, replace(question, content=words)]

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._teacher, self.generated_tokens = weights_of(strategy.lm), 0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        batches = [
            [self._asked[row[len(self.lesson.chat.bos_ids) :]] for row in _rows(batch)] for batch in strategy.mb_x.step
        ]
        answers = iter(self._answers(strategy, [asked for batch in batches for asked in batch]))
        self._teacher_of = {}
        triples = [self._written([(asked, next(answers)) for asked in batch]) for batch in batches]
        x, y, t = triples[-1]
        x.earlier = [(batch, labels) for batch, labels, _ in triples[:-1]]
        strategy.mbatch = [x, y, t]
        strategy._unpack_minibatch()

    def _answers(self, strategy: Any, asked: list[Asked]) -> list[list[int]]:
        """What the student says to each prompt now."""
        chat, number = self.lesson.chat, strategy.experience.current_experience
        outputs = Decoder(strategy.lm, chat.stop_ids, chat.end_id, text=chat.text).generate(
            [chat.bos_ids + one.student for one in asked],
            [one.new_tokens for one in asked],
            Sampling(self.arguments.temperature),
            [derive(self.lesson.seed, number, strategy.step, n, "sdft") for n in range(len(asked))],
            until=chat.stop_texts,
        )
        self.generated_tokens += sum(len(output.ids) for output in outputs)
        return [list(output.ids) for output in outputs]

    def _written(self, said: list[tuple[Asked, list[int]]]) -> Triple:
        """A micro-batch of what the student wrote."""
        for asked, answer in said:
            self._teacher_of[(*self.lesson.chat.bos_ids, *asked.student, *answer)] = asked.teacher + answer
        return self._collated([(asked.student + answer, len(answer)) for asked, answer in said])

    def _collated(self, rows: list[tuple[list[int], int]]) -> Triple:
        """Rows after `bos_ids`, each with the length of the answer at its end."""
        marks = [([0] * (len(ids) - length) + [1] * length) for ids, length in rows]
        return self.lesson.collate(
            [
                {"input_ids": ids, "answer": mark, "targets_task_labels": 0, "cue_key": 0, "rehearsed": 0}
                for (ids, _), mark in zip(rows, marks, strict=True)
            ]
        )

    def guide(self, model: CausalLM, x: LMBatch) -> LossOf:
        """What the teacher says about the student's answers."""
        rows = [self._teacher_of[row] for row in _rows(x)]
        shown, *_ = self._collated(list(zip(rows, x.supervised.sum(1).tolist(), strict=True)))
        logits_of = teacher_logits(model, shown.to(x.input_ids.device), self._teacher)
        return lambda part: Reverse(logits_of(part)).loss

    @torch.no_grad()
    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        for name, parameter in strategy.lm.named_parameters():
            if name in self._teacher:
                self._teacher[name].lerp_(parameter, self.arguments.alpha)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._teacher = {}

    def state_dict(self) -> dict[str, Any]:
        return {**self._teacher, "generated_tokens": self.generated_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._teacher = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        self.generated_tokens = state["generated_tokens"]


def _last_answer(answer: list[int]) -> int:
    """Where the last answer begins, in the marks of a row."""
    end = len(answer) - answer[::-1].index(1)
    return max((n for n in range(end) if not answer[n]), default=-1) + 1


def _rows(x: LMBatch) -> list[Row]:
    """The ids of each row, without padding."""
    return [tuple(ids[:length]) for ids, length in zip(x.input_ids.tolist(), x.lengths, strict=True)]


def build(arguments: SDFTArguments, lesson: Lesson) -> SDFTPlugin:
    """The method of a recipe."""
    return SDFTPlugin(arguments, lesson)
