"""A curriculum of tasks as an Avalanche benchmark: train, dev and test streams, one experience per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from continual.batch import Collate
from continual.chat import Chat
from continual.data import encode
from continual.guard import guard
from continual.sample import Sample

Splits = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Task name -> split ("train", "dev", "test") -> samples."""


def benchmark(order: Sequence[str], samples: Splits, chat: Chat, collate: Collate, max_length: int) -> Any:
    """The tasks in order, one experience each.

    Args:
        order: names of the tasks as they are taught; a task's label is its place in `samples`.
        samples: real samples of every task and split.
        max_length: the most tokens of a row.

    Returns:
        An Avalanche `CLScenario` with `train_stream`, `dev_stream` and `test_stream`.
    """
    guard()
    from avalanche.benchmarks import benchmark_from_datasets

    labels = labels_of(samples)
    streams = {
        split: [encode(samples[task][split], chat, max_length, labels[task], collate) for task in order]
        for split in ("train", "dev", "test")
    }
    return benchmark_from_datasets(**streams)


def joint(
    order: Sequence[str],
    samples: Splits,
    chat: Chat,
    collate: Collate,
    max_length: int,
    times: Mapping[str, int],
) -> Any:
    """All tasks as one experience: the upper bound's curriculum.

    Args:
        times: how often the training rows of a task come in one epoch, where tasks are taught unequally long.
    """
    guard()
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import concat_datasets

    labels = labels_of(samples)
    streams = {}
    for split in ("train", "dev", "test"):
        parts = []
        for task in order:
            part = encode(samples[task][split], chat, max_length, labels[task], collate)
            parts += [part] * (times[task] if split == "train" else 1)
        streams[split] = [concat_datasets(parts)]
    return benchmark_from_datasets(**streams)


def labels_of(samples: Splits) -> dict[str, int]:
    """A number for each task, the same in every order."""
    return {task: label for label, task in enumerate(samples)}
