"""What all arms of a run share: the base model's name, the chat form, samples and exams of every task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from continual import evaluate
from continual.chat import Chat
from continual.curriculum import Splits
from continual.evaluate import Exam, Result
from continual.model import add_adapter, load_adapter, load_model, load_tokenizer, max_positions
from continual.recipe import Recipe
from continual.rehearse.frame import Frame, frame_of
from continual.remembered import Remembered
from continual.sample import Sample, label_set
from continual.seeds import derive
from continual.task import Task


@dataclass(frozen=True)
class Material:
    """The same data, base model and tests for every arm at one seed and sweep point."""

    model_name: str
    dtype: str
    trust_remote_code: bool
    adapter: Mapping[str, Any] | None
    """Arguments of `peft.LoraConfig`; None for full fine-tuning."""
    chat: Chat
    samples: Splits
    """In the order of R's columns."""
    remembered: Mapping[str, Remembered]
    """The tasks that are known without their data, whose samples are empty."""
    exams: Mapping[str, Exam]
    exam_on: Callable[[str, Sequence[Sample]], Exam]
    """The exam of a task on other samples than the test's."""
    batch_tokens: int
    """The most tokens in a batch that is decoded."""
    max_length: int
    seed: int
    start: Path | None = None
    """An adapter that every student begins with."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """A hash of the samples of each task, to notice when a run is resumed on other rows."""
        return {
            task: hashlib.sha256(repr([splits[s] for s in sorted(splits)]).encode()).hexdigest()[:16]
            for task, splits in self.samples.items()
            if task not in self.remembered
        }

    def known(self, task: str) -> Remembered:
        """What is to be remembered of a task for the day on which its data is gone."""
        if task in self.remembered:
            return self.remembered[task]
        train, exam = self.samples[task]["train"], self.exams[task]
        frame = frame_of(train)
        return Remembered(
            rows=len(train),
            labels=label_set(train),
            delimiter=train[0].delimiter,
            before=frame.before,
            after=frame.after,
            metric=exam.metric,
            multiple_choice=exam.choices is not None,
            max_gen_toks=exam.max_new_tokens,
            until=exam.until,
        )

    @cached_property
    def knowledge(self) -> dict[str, Remembered]:
        """`known`, of every task."""
        return {task: self.known(task) for task in self.samples}

    @property
    def sizes(self) -> dict[str, int]:
        """Training rows of each task."""
        return {task: known.rows for task, known in self.knowledge.items()}

    @property
    def label_sets(self) -> dict[str, tuple[str, ...]]:
        """The label set of each task; empty where each row has its own."""
        return {task: known.labels for task, known in self.knowledge.items()}

    @property
    def delimiters(self) -> dict[str, str]:
        """What stands before an answer of each task in the plain form."""
        return {task: known.delimiter for task, known in self.knowledge.items()}

    @property
    def frames(self) -> dict[str, Frame]:
        """What all prompts of each task begin and end with."""
        return {task: Frame(known.before, known.after) for task, known in self.knowledge.items()}

    def base(self) -> Any:
        """The untaught model."""
        return load_model(self.model_name, self.dtype, self.trust_remote_code)

    def untaught(self) -> Any:
        """The model before anything is taught here: the base, with the adapter that it begins with."""
        return self.base() if self.start is None else load_adapter(self.base(), self.start)

    def student(self, *names: str) -> Any:
        """A model to teach: the base, with an adapter if the recipe has one, fresh or the one to begin with.

        Args:
            names: tell apart the adapters of one run; the same names give the same initial weights in every
                arm.
        """
        if self.adapter is None:
            return self.base()
        if self.start is not None:
            return load_adapter(self.base(), self.start, trainable=True)
        return add_adapter(self.base(), self.adapter, derive(self.seed, "adapter", *names))

    def saved(self, folder: Path, trainable: bool = False) -> Any:
        """A model as it was saved after a task."""
        if self.adapter is None:
            return load_model(str(folder), self.dtype, self.trust_remote_code)
        return load_adapter(self.base(), folder, trainable)

    def examine(self, model: Any, tasks: Sequence[str]) -> dict[str, Result]:
        """Scores of a model on some tasks."""
        return {task: evaluate.take(self.exams[task], model, self.chat, self.batch_tokens) for task in tasks}


def gather(recipe: Recipe, tasks: Mapping[str, Task], seed: int, data_root: Path | None) -> Material:
    """Read everything a run needs.

    Args:
        tasks: those whose data is there.

    Raises:
        ContinualError: the model or the data of a task cannot be had.
    """
    tokenizer = load_tokenizer(recipe.model_name_or_path, recipe.trust_remote_code)
    chat = Chat(tokenizer, recipe.roles)
    room = max_positions(recipe.model_name_or_path, recipe.trust_remote_code)
    rows = {entry.task: entry.max_samples or recipe.training.max_samples for entry in recipe.curriculum}

    def exam_on(name: str, asked: Sequence[Sample]) -> Exam:
        how = questions[name]
        # An answer may take half of what the model can see; the rest is for the question.
        new_tokens = min(how.max_gen_toks, room // 2)
        return evaluate.prepare(
            name,
            how.metric,
            asked,
            chat,
            # A written sample of a task without a label set has no choices.
            multiple_choice=how.multiple_choice and all(sample.choices for sample in asked),
            max_new_tokens=new_tokens,
            until=how.until,
            max_length=min(room, recipe.training.max_length + new_tokens),
        )

    remembered = {entry.task: entry.remembered for entry in recipe.curriculum if entry.remembered is not None}
    questions: dict[str, Task | Remembered] = {**tasks, **remembered}
    samples: dict[str, dict[str, list[Sample]]] = {}
    exams = {}
    for name in (entry.task for entry in recipe.curriculum):
        if name in remembered:
            samples[name] = {"train": [], "dev": [], "test": []}
            continue
        task = tasks[name]
        test_rows = recipe.evaluate.limit
        samples[name] = {
            "train": task.samples("train", seed=derive(seed, "wording"), data_root=data_root, limit=rows[name]),
            "dev": task.samples("dev", data_root=data_root, limit=test_rows),
            "test": task.samples("test", data_root=data_root, limit=test_rows),
        }
        exams[name] = exam_on(name, samples[name][recipe.evaluate.split])
    return Material(
        model_name=recipe.model_name_or_path,
        dtype=recipe.weights_dtype,
        trust_remote_code=recipe.trust_remote_code,
        adapter=recipe.adapter.model_dump(mode="json", exclude={"type"}, exclude_none=True)
        if recipe.adapter
        else None,
        chat=chat,
        samples=samples,
        remembered=remembered,
        exams=exams,
        exam_on=exam_on,
        batch_tokens=recipe.evaluate.batch_tokens,
        max_length=min(room, recipe.training.max_length),
        seed=seed,
        start=Path(recipe.start) if recipe.start is not None else None,
    )
