"""What a method is told about the curriculum when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual.batch import Collate
from continual.chat import Chat
from continual.sample import Sample


@dataclass(frozen=True)
class Lesson:
    """The curriculum of one arm at one seed.

    Args:
        order: names of the tasks in the order taught; the n-th experience teaches the n-th.
        labels: the number of each task, see `curriculum.labels_of`.
        samples: training rows of each task. A method that reads those of an earlier task says so in `told`.
        max_length: the most tokens of a row.
        adapter: arguments of `peft.LoraConfig`; None for full fine-tuning.
        folder: of the arm's run.
        seed: every random draw of the method derives from it.
        say: tells the user one line.
    """

    order: Sequence[str]
    labels: Mapping[str, int]
    samples: Mapping[str, Sequence[Sample]]
    chat: Chat
    collate: Collate
    max_length: int
    adapter: Mapping[str, Any] | None
    folder: Path
    seed: int
    say: Callable[[str], None]
