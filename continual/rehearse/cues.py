"""Which words call for samples of a task: its own name, one cue for all, or one for each of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from continual.chat import Chat
from continual.sample import Sample

Kind = Literal["task", "shared", "label"]

SHARED = "rehearse"


class Cues:
    """The cues of some tasks.

    Args:
        kind: ``task`` is LAMOL_TASK, ``shared`` LAMOL_GEN. ``label`` is one for each label of a task that has a
            label set, so that as many samples of each can be called for; other tasks then have their own.
        numbers: the number of each task, see `curriculum.labels_of`.
        labels: label set of each task.
    """

    def __init__(self, kind: Kind, numbers: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        self.texts: dict[str, tuple[str, ...]] = {}
        """Cue texts per task."""
        self._keys: dict[tuple[str, str], int] = {}
        self._numbers = numbers
        for task in numbers:
            own = labels.get(task, ()) if kind == "label" else ()
            self.texts[task] = tuple(f"{task}: {label}" for label in own) or (SHARED if kind == "shared" else task,)
            for label in own:
                self._keys[task, label] = len(numbers) + len(self._keys)

    def key(self, sample: Sample) -> int:
        """The number of a sample's cue. One whose answer is no label of its task has the task's first."""
        plain = self._numbers[sample.task]
        labelled = [key for (task, _), key in self._keys.items() if task == sample.task]
        return self._keys.get((sample.task, sample.answer), labelled[0] if labelled else plain)

    def ids(self, chat: Chat) -> dict[int, list[int]]:
        """The tokens of every cue, by its key."""
        ids = {self._numbers[task]: chat.cue_ids(texts[0]) for task, texts in self.texts.items()}
        for (task, label), key in self._keys.items():
            ids[key] = chat.cue_ids(f"{task}: {label}")
        return ids
