"""A curriculum of tasks as an Avalanche benchmark: one experience per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from continual.batch import Collate
from continual.chat import Chat
from continual.data import Rows, dataset, room
from continual.guard import guard
from continual.sample import Sample

Splits = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Task name -> split ("train", "dev", "test") -> samples."""


_ROWS: WeakKeyDictionary[Chat, dict[tuple[int, int], tuple[Sequence[Sample], Rows]]] = WeakKeyDictionary()
"""What was encoded by each chat form: (which samples, most tokens) -> those samples, and their rows."""


def benchmark(
    order: Sequence[str],
    samples: Splits,
    chat: Chat,
    collate: Collate,
    max_length: int,
    splits: Sequence[str] = ("train",),
) -> Any:
    """The tasks in order, one experience each.

    Args:
        order: names of the tasks as they are taught; a task's label is its place in `samples`.
        samples: real samples of every task and split.
        max_length: the most tokens of a row.
        splits: which streams are wanted, for Avalanche's own evaluation say.

    Returns:
        An Avalanche `CLScenario` with `train_stream`, or whichever `splits` name.
    """
    guard()
    from avalanche.benchmarks import benchmark_from_datasets

    labels = labels_of(samples)
    streams = {
        split: [dataset_of(samples[t][split], labels[t], chat, collate, max_length) for t in order] for split in splits
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
    """All tasks as one experience, in `train_stream`: the upper bound's curriculum.

    Args:
        times: how often the rows of a task come in one epoch, where tasks are taught unequally long.
    """
    guard()
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import concat_datasets

    labels = labels_of(samples)
    parts = []
    for task in order:
        parts += [dataset_of(samples[task]["train"], labels[task], chat, collate, max_length)] * times[task]
    return benchmark_from_datasets(train=[concat_datasets(parts)])


def dataset_of(samples: Sequence[Sample], label: int, chat: Chat, collate: Collate, max_length: int) -> Any:
    """The rows of one task as an Avalanche data set, see `data.dataset`."""
    return dataset(rows_of(samples, chat, collate, max_length), label, collate, collate.keys(samples, label))


def rows_of(samples: Sequence[Sample], chat: Chat, collate: Collate, max_length: int) -> Rows:
    """Encoded samples; the same ones in another arm are not encoded again."""
    space = room(max_length, collate)
    known = _ROWS.setdefault(chat, {})
    # Beside its rows, a list of samples stays alive: no other one can get its id.
    key = (id(samples), space)
    if key not in known:
        known[key] = (samples, Rows(chat.encode(sample, space) for sample in samples))
    return known[key][1]


def labels_of(samples: Splits) -> dict[str, int]:
    """A number for each task, the same in every order."""
    return {task: label for label, task in enumerate(samples)}
