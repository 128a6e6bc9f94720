"""Rehearsal (LAMOL: Sun, Ho and Lee, 2020, "LAMOL: LAnguage MOdeling for Lifelong Language Learning").

Samples of every earlier task are written, before each new task or once after their own, and mixed into what is learnt
next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from continual import scant
from continual.batch import Collate
from continual.chat import Chat
from continual.data import encode
from continual.guard import guard
from continual.methods.spaced import SpacedPlugin
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse import text
from continual.rehearse.expected import TARGETS, TargetStore
from continual.rehearse.shape import Shape, restored, stored
from continual.rehearse.text import SURPLUS
from continual.rehearse.writer import Writer
from continual.sample import Message, Sample
from continual.seeds import derive

guard()

from avalanche.benchmarks.utils import concat_datasets  # noqa: E402


def summary(
    before: str, task: str, age: int, wanted: int, samples: Sequence[text.Written], real: bool
) -> dict[str, Any]:
    """What was rehearsed of one task before another, for the report: counts, and the reasons of rejection.

    Args:
        age: how many tasks ago it was learnt; 1 is the last one.
    """
    reasons = [s.reason for s in samples if s.reason is not None and s.reason != SURPLUS]
    kept = sum(s.reason is None for s in samples)
    return {
        "before": before,
        "task": task,
        "age": age,
        "wanted": wanted,
        "kept": min(kept, wanted),
        "drawn": len(samples),
        "valid": 1 - len(reasons) / len(samples) if samples else None,
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "real_rows": kept if real else 0,
        "real_bytes": sum(len(json.dumps([vars(m) for m in s.messages or ()])) for s in samples) if real else 0,
    }


def told_in_words(told: Mapping[str, Any]) -> str:
    """A `summary` in one line, and where too little was kept, a warning in another."""
    rejected = ", ".join(f"{count} {reason}" for reason, count in told["rejected"].items())
    why = f" (rejected: {rejected})" if rejected else ""
    line = f"    [dim]rehearses {told['task']}: {told['kept']} of {told['wanted']}{why}[/dim]"
    if not scant.is_scant(told):
        return line
    return f"{line}\n    [yellow]mind:[/yellow] {escape(scant.in_words(told))}"


def rehearsed_sets(
    sizes: Sequence[int], quotas: Sequence[int], sets: int, rows: int | None, seed: int
) -> list[np.ndarray]:
    """Which rehearsed rows are learnt in each set: of every task its quota.

    Where fewer samples of a task are there than its sets want, they come in several sets, but never twice in one.

    Args:
        sizes: rehearsed rows of each task, at least one; they are numbered through.
        quotas: of each task, rows in one set.
        sets: how many; epochs take them in turn.
        rows: of each set, which is repeated or thinned out to it; None: as they come.
    """
    random = np.random.default_rng(seed)
    of_tasks = []
    for n, (size, quota) in enumerate(zip(sizes, quotas, strict=True)):
        numbers = sum(sizes[:n]) + random.permutation(size)
        of_tasks.append(np.resize(numbers, (sets, min(size, quota))))
    if not of_tasks:
        return []
    found = [random.permutation(np.concatenate(parts)) for parts in zip(*of_tasks, strict=True)]
    return found if rows is None else [np.resize(one, rows) for one in found]


@dataclass(eq=False)
class RehearsalPlugin(LossPlugin, MethodPlugin):
    """Adds rehearsed samples of all earlier tasks to the data of the current one.

    The hook is `after_train_dataset_adaptation`: in `before_training_exp` the data loader already exists.

    Args:
        order: names of the tasks (or chunks) in the order taught; the n-th experience teaches the n-th.
        writer: writes the samples.
        quotas: (new task, earlier tasks, rise of the loss on each) -> samples wanted of each.
        folder: where the written text is kept, ``<i>-<task>.jsonl`` for what is written before the i-th task; text
            that is there already is not written again.
        labels: the number of each task, see `curriculum.labels_of`.
        choices: label set of each task.
        delimiters: `Sample.delimiter` of each task.
        shape_of_new: (the task that is learnt, tokens of its longest row) -> the shape of its rows.
        likeness: (task, conversations) -> figures for the report, which nothing here looks at.
    """

    order: Sequence[str]
    writer: Writer
    quotas: Callable[[str, Sequence[str], Mapping[str, float]], dict[str, int]]
    folder: Path
    chat: Chat
    collate: Collate
    max_length: int
    labels: Mapping[str, int]
    choices: Mapping[str, tuple[str, ...]]
    delimiters: Mapping[str, str]
    shape_of_new: Callable[[str, int], Shape]
    likeness: Callable[[str, Sequence[Sequence[Message]]], dict[str, Any]]
    seed: int
    stored: Mapping[str, int] | None = None
    """Rows of each task that there are, where the writer hands out real ones."""
    sets: int = 1
    """How many times what an epoch rehearses is written; epochs take the sets in turn."""
    once: bool = False
    """Whether each task is written once, by the model that has just learnt it, and its text then kept."""
    pool: str | None = None
    """Where tasks are not announced: the name under which everything so far is rehearsed together."""
    share: float | None = None
    """Share of rehearsed rows among all that are learnt; None: each once."""
    spaced: SpacedPlugin | None = None
    """Who has what was rehearsed learnt in reviews; None: it is mixed into what is learnt."""
    targets: TargetStore | None = None
    """Keeps what the model expects of its samples when it has written them, where that is learned."""
    loss_on: Callable[[Any, Sequence[Sample]], float] | None = None
    """Mean loss of a model on some samples' answers, where quotas ask how far it has risen."""
    say: Callable[[str], None] = field(default=lambda line: None)
    generated_tokens: int = 0
    """Tokens generated before the current task."""
    _told: list[dict[str, Any]] = field(default_factory=list)
    _skipped: set[int] = field(default_factory=set)
    """Numbers of tasks that were taken back: there is nothing to rehearse of them."""
    _losses: dict[str, float] = field(default_factory=dict)
    """Loss on the samples of each task, by the model that wrote them."""
    _shapes: dict[str, Shape] = field(default_factory=dict)
    """Of the rows of each task that was learnt."""
    _alike: dict[Path, dict[str, Any]] = field(default_factory=dict)
    """What `likeness` said about each file."""

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Of the rows of each task that was learnt."""
        return self._shapes

    @property
    def told(self) -> list[dict[str, Any]]:
        reviews = {} if self.spaced is None else {"reviews": self.spaced.reviews}
        return [{**entry, **reviews} for entry in self._told]

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        number = strategy.experience.current_experience
        new, old = self.order[number], self._old(number)
        self.generated_tokens, self._told, strategy.turns = 0, [], ()
        parts, quotas = [], []
        each = self.quotas(new, old, self._surprise(strategy.lm, number)) if old else {}
        wanted = {task: self._most(task, self.sets * samples) for task, samples in each.items()}
        fresh = self._to_write(number)
        if self.targets is not None:
            self.targets.begin()
        for task, written in self._written(strategy.lm, number, wanted).items():
            if task in fresh:
                self.generated_tokens += sum(s.tokens for s in written)
            age = len(old) - old.index(task)
            counts = summary(new, task, age, wanted[task], written, self.stored is not None)
            self._tell({**counts, **self._likeness(task, number, written)})
            samples = self._samples(task, written)[: wanted[task]]
            if samples:
                label = self.labels[task]
                part = encode(samples, self.chat, self.max_length, label, self.collate, rehearsed=True)
                if self.targets is not None:
                    path = self._path(task, number).with_suffix(TARGETS)
                    with strategy.accelerator.autocast():
                        self.targets.take(strategy.facade, part, path, ask=task in fresh)
                parts.append(part)
                quotas.append(each[task])
                if self.loss_on is not None and task in fresh:
                    self._losses[task] = self.loss_on(strategy.lm, samples)
        self._shapes[new] = self.shape_of_new(new, max(strategy.adapted_dataset.row_length))
        real = len(strategy.adapted_dataset)
        rows = None if self.share is None else max(1, round(real * self.share / (1 - self.share)))
        sizes = [len(part) for part in parts]
        turns = rehearsed_sets(sizes, quotas, self.sets, rows, derive(self.seed, number, "sets"))
        if self.spaced is not None:
            self.spaced.begin([concat_datasets(parts).subset(turn.tolist()) for turn in turns])
        elif parts:
            used = np.unique(np.concatenate(turns))  # a row in no turn would be learnt in every epoch
            added = concat_datasets(parts).subset(used.tolist())
            strategy.adapted_dataset = concat_datasets([strategy.adapted_dataset, added])
            strategy.turns = [real + np.searchsorted(used, turn) for turn in turns]

    def _most(self, task: str, samples: int) -> int:
        return samples if self.stored is None else min(samples, self.stored[task])

    def _samples(self, task: str, written: Sequence[text.Written]) -> list[Sample]:
        return text.kept(task, written, self.choices[task], self.delimiters[task])

    def _learnt(self, number: int) -> list[str]:
        """The tasks that the model knows when it begins the one of this number."""
        return [task for n, task in enumerate(self.order[:number]) if n not in self._skipped]

    def _to_write(self, number: int) -> Sequence[str]:
        """The tasks that are written before the task of this number."""
        if self.once:
            return [task for task in self._learnt(number) if task == self.order[number - 1]]
        return self._old(number)

    def _old(self, number: int) -> Sequence[str]:
        """What is rehearsed in the task of this number."""
        return self._learnt(number) if self.pool is None else [self.pool][:number]

    def _last(self, number: int) -> int:
        """The number of the task that was learnt last before the one of this number."""
        return max((n for n in range(number) if n not in self._skipped), default=0)

    def _path(self, task: str, number: int) -> Path:
        """Where the text of an earlier task lies that is rehearsed in the task of this number."""
        return self.folder / f"{(self.order.index(task) + 1 if self.once else number) + 1}-{task}.jsonl"

    def _written(self, model: Any, number: int, wanted: Mapping[str, int]) -> dict[str, list[text.Written]]:
        paths = {task: self._path(task, number) for task in wanted}
        fresh = {task: wanted[task] for task in self._to_write(number) if task in wanted}
        if not all(paths[task].exists() for task in fresh):
            # Text of some tasks may be there after a stop. All is written again: what comes out of one decoding call
            # is the same only if it is the same call.
            before = {task: self._path(task, self._last(number)) for task in fresh}
            earlier = {task: text.load(path) for task, path in before.items() if path.exists()}
            seed = derive(self.seed, number, "rehearse")
            if self.stored is None:
                self.say(f"    [dim]writes {sum(fresh.values())} samples of {', '.join(fresh)} …[/dim]")
            for task, samples in self.writer.write(model, fresh, seed, earlier, self._shapes).items():
                text.save(paths[task], samples)
        return {task: text.load(path) for task, path in paths.items()}

    def _likeness(self, task: str, number: int, written: Sequence[text.Written]) -> dict[str, Any]:
        """How like real rows the kept samples of a file are; of one that is used again, it is known."""
        path = self._path(task, number)
        if path not in self._alike:
            conversations = [s.messages for s in written if s.reason is None and s.messages is not None]
            self._alike[path] = self.likeness(task, conversations)
        return self._alike[path]

    def _surprise(self, model: Any, number: int) -> dict[str, float]:
        """How far the loss on what was written of each task has risen since then, in nats."""
        if self.loss_on is None:
            return {}
        before = {task: self._path(task, self._last(number)) for task in self._losses}
        pools = {task: self._samples(task, text.load(path)) for task, path in before.items() if path.exists()}
        return {t: self.loss_on(model, pool) - self._losses[t] for t, pool in pools.items() if pool}

    def _tell(self, told: dict[str, Any]) -> None:
        self._told.append(told)
        self.say(told_in_words(told))

    def skip(self, number: int) -> None:
        self._skipped.add(number)

    def state_dict(self) -> dict[str, Any]:
        """The text lies on disk; only what its writers thought of it is carried on, and how long it may be."""
        return {"losses": self._losses, "shapes": stored(self._shapes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._losses, self._shapes = dict(state.get("losses", {})), restored(state.get("shapes", {}))
