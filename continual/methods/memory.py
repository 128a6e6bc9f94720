"""Real rows of earlier tasks that a method keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from continual.curriculum import dataset_of
from continual.methods.lesson import Lesson


def rows_of_task(lesson: Lesson, number: int) -> Any:
    """The rows of a task, as its experience has them, with their place among them as the attribute `row_number`.

    Args:
        number: of the task in the order taught, from 0.
    """
    task = lesson.order[number]
    rows = dataset_of(lesson.samples[task], lesson.labels[task], lesson.chat, lesson.collate, lesson.max_length)
    return rows.update_data_attribute("row_number", list(range(len(rows))))


def kept(lesson: Lesson, picked: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """What is kept, for the costs; see `MethodPlugin.kept`.

    Args:
        picked: row numbers of each task.
    """
    samples = {task: [lesson.samples[task][i] for i in numbers] for task, numbers in picked.items()}
    sizes = {task: sum(len(json.dumps([vars(m) for m in s.messages])) for s in own) for task, own in samples.items()}
    return [{"task": task, "rows": len(own), "bytes": sizes[task]} for task, own in samples.items()]
