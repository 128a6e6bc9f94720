"""Rehearsal of the base: what the untaught model could do is a skill too, and rehearsed from the first task on.

It writes once, before the first task, and its text is kept: no later model has a part in it, so that nothing drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from continual.batch import Collate
from continual.data import Rows, dataset
from continual.guard import guard
from continual.methods.rehearsal import summary, told_in_words
from continual.plugin import LossPlugin, MethodPlugin
from continual.rehearse import text
from continual.rehearse.base import BASE, CUE, BaseWriter
from continual.rehearse.expected import TARGETS, TargetStore

guard()

from avalanche.benchmarks.utils import concat_datasets  # noqa: E402


@dataclass(eq=False)
class BasePlugin(LossPlugin, MethodPlugin):
    """Adds what the untaught model wrote to the data of every task.

    Args:
        order: names of the tasks in the order taught.
        wanted: how many samples.
        path: where they are kept; text that is there already is not written again.
        label: the number that stands in the place of a task's.
    """

    order: Sequence[str]
    writer: BaseWriter
    wanted: int
    path: Path
    label: int
    collate: Collate
    seed: int
    targets: TargetStore | None = None
    """Keeps what the untaught model expects of its samples, where that is learned."""
    say: Callable[[str], None] = field(default=lambda line: None)
    generated_tokens: int = 0
    """Tokens generated before the current task."""
    _told: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def told(self) -> list[dict[str, Any]]:
        return self._told

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        number = strategy.experience.current_experience
        if number == 0 and not self.path.exists():
            self.say(f"    [dim]writes {self.wanted} samples of what it could do before …[/dim]")
            text.save(self.path, self.writer.write(strategy.lm, self.wanted, self.seed))
        written = text.load(self.path)
        self.generated_tokens = sum(s.tokens for s in written) if number == 0 else 0
        self._told = [summary(self.order[number], BASE, number + 1, self.wanted, written, real=False)]
        self.say(told_in_words(self._told[0]))
        samples = text.kept(BASE, written, (), " ")
        if samples:
            rows = Rows(self.writer.chat.encode(sample, self.writer.room) for sample in samples)
            rehearsed = dataset(rows, self.label, self.collate, [CUE] * len(rows), rehearsed=True)
            if self.targets is not None:
                with strategy.accelerator.autocast():
                    self.targets.take(strategy.facade, rehearsed, self.path.with_suffix(TARGETS), ask=number == 0)
            strategy.adapted_dataset = concat_datasets([strategy.adapted_dataset, rehearsed])
