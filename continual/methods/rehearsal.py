"""Rehearsal (LAMOL: Sun, Ho and Lee, 2020, "LAMOL: LAnguage MOdeling for Lifelong Language Learning").

Before each new task, samples of every earlier task are written, and mixed into what is learnt next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from continual.batch import Collate
from continual.chat import Chat
from continual.data import encode
from continual.guard import guard
from continual.plugin import LossPlugin
from continual.rehearse import text
from continual.rehearse.text import SURPLUS
from continual.rehearse.writer import Writer
from continual.seeds import derive

guard()

from avalanche.benchmarks.utils import concat_datasets  # noqa: E402


def summary(before: str, task: str, wanted: int, samples: Sequence[text.Written], real: bool) -> dict[str, Any]:
    """What was rehearsed of one task before another, for the report: counts, and the reasons of rejection."""
    reasons = [s.reason for s in samples if s.reason is not None and s.reason != SURPLUS]
    kept = sum(s.reason is None for s in samples)
    return {
        "before": before,
        "task": task,
        "wanted": wanted,
        "kept": kept,
        "drawn": len(samples),
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "real_rows": kept if real else 0,
        "real_bytes": sum(len(json.dumps([vars(m) for m in s.messages or ()])) for s in samples) if real else 0,
    }


@dataclass(eq=False)
class RehearsalPlugin(LossPlugin):
    """Adds rehearsed samples of all earlier tasks to the data of the current one.

    The hook is `after_train_dataset_adaptation`: in `before_training_exp` the data loader already exists.

    Args:
        order: names of the tasks in the order taught; the n-th experience teaches the n-th.
        writer: writes the samples.
        quotas: (new task, earlier tasks) -> samples wanted of each earlier task.
        folder: where the written text is kept, ``<i>-<task>.jsonl``; text that is there already is not
            written again.
        labels: the number of each task, see `curriculum.labels_of`.
        choices: label set of each task.
        delimiters: `Sample.delimiter` of each task.
    """

    order: Sequence[str]
    writer: Writer
    quotas: Callable[[str, Sequence[str]], dict[str, int]]
    folder: Path
    chat: Chat
    collate: Collate
    max_length: int
    labels: Mapping[str, int]
    choices: Mapping[str, tuple[str, ...]]
    delimiters: Mapping[str, str]
    seed: int
    real: bool = False
    """Whether the writer hands out real rows."""
    say: Callable[[str], None] = field(default=lambda line: None)
    generated_tokens: int = 0
    """Tokens generated before the current task."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """Summaries of what was rehearsed before the current task."""

    def __post_init__(self) -> None:
        super().__init__()

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        number = strategy.experience.current_experience
        new, old = self.order[number], self.order[:number]
        self.generated_tokens, self.told = 0, []
        parts = [strategy.adapted_dataset]
        wanted = self.quotas(new, old) if old else {}
        for task, written in self._written(strategy.lm, number, wanted).items():
            self.generated_tokens += sum(s.tokens for s in written)
            self._tell(summary(new, task, wanted[task], written, self.real))
            samples = text.kept(task, written, self.choices[task], self.delimiters[task])
            if samples:
                parts.append(encode(samples, self.chat, self.max_length, self.labels[task], self.collate))
        if len(parts) > 1:
            strategy.adapted_dataset = concat_datasets(parts)

    def _written(self, model: Any, number: int, wanted: Mapping[str, int]) -> dict[str, list[text.Written]]:
        paths = {task: self.folder / f"{number + 1}-{task}.jsonl" for task in wanted}
        if not all(path.exists() for path in paths.values()):
            # Text of some tasks may be there after a stop. All is written again: what comes out of one decoding call
            # is the same only if it is the same call.
            for task, samples in self.writer.write(model, wanted, derive(self.seed, number, "rehearse")).items():
                text.save(paths[task], samples)
        return {task: text.load(path) for task, path in paths.items()}

    def _tell(self, told: dict[str, Any]) -> None:
        self.told.append(told)
        rejected = ", ".join(f"{count} {reason}" for reason, count in told["rejected"].items())
        self.say(
            f"    [dim]rehearses {told['task']}: {told['kept']} of {told['wanted']}"
            f"{f' (rejected: {rejected})' if rejected else ''}[/dim]"
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the text lies on disk, the rest is given."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
