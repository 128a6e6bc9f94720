"""What all arms of a run share: the base model's name, the chat form, samples and exams of every task."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from continual import evaluate, perplexity, stream
from continual.chat import Chat
from continual.curriculum import Splits
from continual.evaluate import Exam, Result
from continual.general import Measured
from continual.model import add_adapter, load_adapter, load_model, load_tokenizer, max_positions
from continual.origin import Origin
from continual.recipe import Recipe
from continual.rehearse.budget import own_quotas
from continual.rehearse.frame import Frame, frame_of
from continual.remembered import Remembered
from continual.sample import Sample, label_set
from continual.score import METRICS
from continual.seeds import derive
from continual.task import Task

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """The same data, base model and tests for every arm at one seed and sweep point."""

    origin: Origin
    """Of the base model."""
    dtype: str
    adapter: Mapping[str, Any] | None
    """Arguments of `peft.LoraConfig`; None for full fine-tuning."""
    chat: Chat
    samples: Splits
    """In the order of R's columns."""
    remembered: Mapping[str, Remembered]
    """The tasks that are known without their data, whose samples are empty."""
    quotas: Mapping[str, int]
    """Samples to rehearse of single tasks, where the curriculum says so."""
    exams: Mapping[str, Exam]
    exam_on: Callable[[str, Sequence[Sample]], Exam]
    """The exam of a task on other samples than the test's."""
    general: Mapping[str, Exam]
    """Of tasks that are never taught."""
    neutral: Sequence[perplexity.Window]
    """Text whose perplexity is measured; empty: none."""
    batch_tokens: int
    """The most tokens in a batch that is decoded."""
    max_length: int
    seed: int
    start: Path | None = None
    """An adapter that every student begins with."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """A hash of the samples of each task, to notice when a run is resumed on other rows."""
        rows: dict[str, Any] = {
            task: [splits[s] for s in sorted(splits)]
            for task, splits in self.samples.items()
            if task not in self.remembered
        }
        rows |= {task: exam.samples for task, exam in self.general.items()}
        if self.neutral:
            rows["the neutral text"] = self.neutral
        return {name: hashlib.sha256(repr(those).encode()).hexdigest()[:16] for name, those in rows.items()}

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

    @property
    def knowledge(self) -> dict[str, Remembered]:
        """`known`, of every task."""
        return {task: self.known(task) for task in self.samples}

    @property
    def sizes(self) -> dict[str, int]:
        """Training rows of each task."""
        return self._each(lambda known: known.rows, len)

    @property
    def label_sets(self) -> dict[str, tuple[str, ...]]:
        """The label set of each task; empty where each row has its own."""
        return self._each(lambda known: known.labels, label_set)

    @property
    def delimiters(self) -> dict[str, str]:
        """What stands before an answer of each task in the plain form."""
        return self._each(lambda known: known.delimiter, lambda rows: rows[0].delimiter)

    @property
    def frames(self) -> dict[str, Frame]:
        """What all prompts of each task begin and end with."""
        return self._each(lambda known: Frame(known.before, known.after), frame_of)

    def _each(self, remembered: Callable[[Remembered], T], real: Callable[[Sequence[Sample]], T]) -> dict[str, T]:
        """Something of each task: from its training rows, or from what is remembered of it."""
        return {
            task: remembered(self.remembered[task]) if task in self.remembered else real(splits["train"])
            for task, splits in self.samples.items()
        }

    def in_chunks(self, order: Sequence[str], chunks: int) -> Material:
        """The same with the tasks' training rows, one task after another, cut into parts of equal size."""
        rows = [sample for task in order for sample in self.samples[task]["train"]]
        edges = stream.bounds(len(rows), chunks)
        parts = [rows[low:high] for low, high in zip(edges, edges[1:], strict=False)]
        named = zip(stream.names(chunks), parts, strict=True)
        return replace(self, samples={name: {"train": part} for name, part in named})

    def base(self) -> Any:
        """The untaught model."""
        return load_model(self.origin, self.dtype)

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
        return add_adapter(self.base(), self.adapter, derive(self.seed, "adapter", *names), self.origin.revision)

    def saved(self, folder: Path, trainable: bool = False) -> Any:
        """A model as it was saved after a task."""
        if self.adapter is None:
            return load_model(self.origin.whole(folder), self.dtype)
        return load_adapter(self.base(), folder, trainable)

    def examine(self, model: Any, tasks: Sequence[str]) -> dict[str, Result]:
        """Scores of a model on some tasks."""
        return {task: evaluate.take(self.exams[task], model, self.chat, self.batch_tokens) for task in tasks}

    @property
    def asks_general(self) -> bool:
        return bool(self.general or self.neutral)

    def general_ability(self, model: Any) -> Measured | None:
        """What a model can do beside the tasks; None where nothing is asked."""
        if not self.asks_general:
            return None
        exams = self.general.items()
        scores = {task: evaluate.take(exam, model, self.chat, self.batch_tokens).score for task, exam in exams}
        measured = perplexity.perplexity(model, self.neutral, self.chat, self.batch_tokens) if self.neutral else None
        return {"perplexity": measured, "scores": scores}


def gather(
    recipe: Recipe,
    tasks: Mapping[str, Task],
    seed: int,
    data_root: Path | None,
    general: Mapping[str, Task] | None = None,
) -> Material:
    """Read everything a run needs.

    Args:
        tasks: those whose data is there, in the order of R's columns.
        general: those of `evaluate.general`.

    Raises:
        ContinualError: the model or the data of a task cannot be had, or there are more chunks than rows.
    """
    tokenizer = load_tokenizer(recipe.origin)
    chat = Chat(tokenizer, recipe.roles)
    room = max_positions(recipe.origin)
    rows = {entry.task: entry.max_samples or recipe.training.max_samples for entry in recipe.curriculum}
    longest = min(room, recipe.training.max_length)

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
    questions: dict[str, Task | Remembered] = {**tasks, **(general or {}), **remembered}
    samples: dict[str, dict[str, list[Sample]]] = {}
    exams = {}
    for name in (*remembered, *tasks):
        if name in remembered:
            samples[name] = {"train": [], "dev": [], "test": []}
            continue
        task = tasks[name]
        test_rows = recipe.evaluate.limit
        samples[name] = {
            "train": [
                row
                for sample in task.samples(
                    "train", seed=derive(seed, "wording"), data_root=data_root, limit=rows[name]
                )
                for row in chat.rows(sample)
            ],
            "dev": task.samples("dev", data_root=data_root, limit=test_rows),
            "test": task.samples("test", data_root=data_root, limit=test_rows),
        }
        tested = samples[name][recipe.evaluate.split]
        exams[name] = exam_on(name, tested)
        if METRICS[task.metric].by_dialogue and not any(sample.dialogue for sample in tested):
            log.warning("%s: its rows name no dialogues, so %s scores each by itself", name, task.metric)
    if recipe.stream is not None:
        # More chunks than rows are an error before anything is written.
        stream.bounds(sum(len(splits["train"]) for splits in samples.values()), recipe.stream.chunks)
    beside = {}
    for name, task in (general or {}).items():
        asked = task.samples(recipe.evaluate.split, data_root=data_root, limit=recipe.evaluate.limit)
        beside[name] = exam_on(name, asked)
    return Material(
        origin=recipe.origin,
        dtype=recipe.weights_dtype,
        adapter=recipe.adapter.lora_arguments if recipe.adapter else None,
        chat=chat,
        samples=samples,
        remembered=remembered,
        quotas=own_quotas(recipe.curriculum),
        exams=exams,
        general=beside,
        neutral=perplexity.read(recipe.evaluate.perplexity, chat, longest) if recipe.evaluate.perplexity else [],
        exam_on=exam_on,
        batch_tokens=recipe.evaluate.batch_tokens,
        max_length=longest,
        seed=seed,
        start=Path(recipe.start) if recipe.start is not None else None,
    )
