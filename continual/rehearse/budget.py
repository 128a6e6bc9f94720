"""How many samples of each earlier task are rehearsed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from continual.rehearsal_settings import Rehearsal
from continual.settings import CurriculumEntry

Budget = Literal["old_task", "new_task", "surprise"]


def quotas(
    budget: Budget,
    ratio: float,
    samples: int | None,
    sizes: Mapping[str, int],
    new: str,
    old: Sequence[str],
    surprise: Mapping[str, float] | None = None,
    own: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """The number of samples to rehearse, per earlier task.

    Args:
        budget: ``old_task`` gives each earlier task `ratio` of its own size, so that what is remembered of a
            task does not hang on which task comes next. ``new_task`` is LAMOL's rule: ceil(`ratio` × the new
            task's size), shared equally, the remainder left out (utils.py, create_extra_data). ``surprise``
            spends the sum of ``old_task`` where it is needed: half of it stays as it is, half goes by how much the
            loss on a task's samples has risen since they were first written.
        samples: a fixed number for each earlier task; wins over `ratio`.
        sizes: training rows of each task.
        surprise: the rise of the loss in nats, by task; what has none of its own yet counts as the mean.
        own: fixed numbers of single tasks; win over everything else.
    """
    fixed = {task: number for task, number in (own or {}).items() if task in old}
    if samples is not None:
        return {task: samples for task in old} | fixed
    equal = {task: math.ceil(ratio * sizes[task]) for task in old}
    if budget == "old_task":
        return equal | fixed
    if budget == "surprise":
        return _by_surprise(equal, surprise or {}) | fixed
    return {task: math.ceil(ratio * sizes[new]) // len(old) for task in old} | fixed


def _by_surprise(equal: Mapping[str, int], surprise: Mapping[str, float]) -> dict[str, int]:
    risen = {task: max(0.0, surprise[task]) for task in equal if task in surprise}
    middle = sum(risen.values()) / len(risen) if risen else 0.0
    shares = {task: risen.get(task, middle) for task in equal}
    total = sum(shares.values())
    if not total:
        return dict(equal)
    free = sum(equal.values()) / 2
    return {task: math.ceil(number / 2 + free * shares[task] / total) for task, number in equal.items()}


def sets(rehearsal: Rehearsal, epochs: int) -> int:
    """Count how many times what an epoch rehearses is written, or stored of real rows.

    Args:
        epochs: of each task.
    """
    return epochs if rehearsal.fresh else 1


def own_quotas(curriculum: Sequence[CurriculumEntry]) -> dict[str, int]:
    """The fixed numbers of single tasks, where the curriculum gives some."""
    return {entry.task: entry.rehearsal_samples for entry in curriculum if entry.rehearsal_samples}


def base_quota(rehearsal: Rehearsal, first: int) -> int:
    """The number of samples to rehearse of the untaught model.

    Args:
        first: training rows of the first task. Later ones have no part in it: they may not be known yet.
    """
    return rehearsal.base_samples or rehearsal.samples or math.ceil(rehearsal.ratio * first)
