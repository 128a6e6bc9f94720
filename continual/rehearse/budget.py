"""How many samples of each earlier task are rehearsed, and which words call for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

Budget = Literal["old_task", "new_task"]

SHARED_CUE = "rehearse"


def cue_of(cue: Literal["task", "shared"], task: str) -> str:
    """The words of a task's cue: its own name, or one cue that all tasks share (LAMOL_TASK and LAMOL_GEN)."""
    return task if cue == "task" else SHARED_CUE


def quotas(
    budget: Budget, ratio: float, samples: int | None, sizes: Mapping[str, int], new: str, old: Sequence[str]
) -> dict[str, int]:
    """The number of samples to rehearse, per earlier task.

    Args:
        budget: ``old_task`` gives each earlier task `ratio` of its own size, so that what is remembered of a
            task does not hang on which task comes next. ``new_task`` is LAMOL's rule: ceil(`ratio` × the new
            task's size), shared equally, the remainder left out (utils.py, create_extra_data).
        samples: a fixed number for each earlier task; wins over `ratio`.
        sizes: training rows of each task.
    """
    if samples is not None:
        return {task: samples for task in old}
    if budget == "old_task":
        return {task: math.ceil(ratio * sizes[task]) for task in old}
    return {task: math.ceil(ratio * sizes[new]) // len(old) for task in old}
