"""Two arms compared on the same test rows: the mean difference of their ACC, with an interval.

What both arms share cancels out: a hard test row is hard for both, an unlucky seed or order hits both. So the
interval of the difference is narrower than the two intervals of the arms would suggest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from continual.seeds import derive

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 100
"""Resamples whose draws are in memory at once."""

Place = tuple[int, tuple[str, ...] | None]
"""The seed of a run and the order in which it was taught; None for what has no order."""


@dataclass(frozen=True)
class Difference:
    """Mean ACC of one arm minus that of another."""

    value: float
    low: float
    high: float
    runs: int
    """Pairs of runs that it is a mean of."""


def accs(runs: Sequence[Mapping[str, Sequence[float]]], seed: int = 0, n: int = RESAMPLES) -> list[Any]:
    """The ACC of each run, over all its test rows and over `n` resamples of them.

    In each resample the rows of a task are drawn with replacement once, for all runs alike.

    Args:
        runs: by task, the score of each test row; the same tasks and rows in every run.
        seed: the same seed and numbers of rows give the same draws.

    Returns:
        For each run an array of n + 1 numbers; the first is the ACC itself.

    Raises:
        ValueError: the runs have not the same tasks, or not as many rows of one.
    """
    total = np.zeros((len(runs), n + 1))
    if not runs:
        return []
    tasks = sorted(runs[0])
    if any(sorted(run) != tasks for run in runs):
        raise ValueError("runs of different tasks cannot be paired")
    for task in tasks:
        scores = np.array([run[task] for run in runs], dtype=np.float64)
        rows = scores.shape[1]
        random = np.random.default_rng(derive(seed, "rows", task))
        total[:, 0] += scores.mean(1)
        for first in range(0, n, CHUNK):
            size = min(CHUNK, n - first)
            picks = random.integers(0, rows, (size, rows)) + rows * np.arange(size)[:, None]
            times = np.bincount(picks.ravel(), minlength=size * rows).reshape(size, rows)
            total[:, 1 + first : 1 + first + size] += scores @ times.T / rows
    return list(total / len(tasks))


def difference(
    ours: Mapping[Place, Any], theirs: Mapping[Place, Any], seed: int = 0, level: float = LEVEL
) -> Difference | None:
    """The mean difference over all pairs of runs, with a percentile interval over rows, seeds and orders.

    A pair has the same seed and the same order; a run without order is paired with each order of its seed. Rows,
    seeds and orders are three crossed samples: every row is asked of every run, and every seed meets every order. So
    in each resample each of the three is drawn with replacement by itself, and what belongs to a seed that is
    drawn twice counts twice: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)). It leans to the
    wide side. From very few seeds or orders it is too narrow all the same, and where there is one of them it says
    nothing of others.

    Args:
        ours: what `accs` gave for each run of one arm.
        theirs: the same of the other arm, from the same call of `accs`.

    Returns:
        ours − theirs, and the ends of the interval; None where no run can be paired.
    """
    pairs = [
        ((mine[0], mine[1] or other[1]), ours[mine] - theirs[other])
        for mine in ours
        for other in theirs
        if mine[0] == other[0] and (mine[1] == other[1] or mine[1] is None or other[1] is None)
    ]
    if not pairs:
        return None
    each = np.array([values for _, values in pairs])
    seeds = sorted({place[0] for place, _ in pairs})
    orders = sorted({place[1] or () for place, _ in pairs})
    at = [seeds.index(place[0]) for place, _ in pairs], [orders.index(place[1] or ()) for place, _ in pairs]
    random = np.random.default_rng(derive(seed, "runs"))
    value, resampled = float(each[:, 0].mean()), each[:, 1:]
    weights = np.zeros((resampled.shape[1], len(pairs)))
    while (empty := weights.sum(1) == 0).any():  # where a pair is missing, a draw can miss all that are there
        count = int(empty.sum())
        drawn = [random.multinomial(len(of), [1 / len(of)] * len(of), count) for of in (seeds, orders)]
        weights[empty] = drawn[0][:, at[0]] * drawn[1][:, at[1]]
    means = (weights.T * resampled).sum(0) / weights.sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(value, float(low), float(high), len(pairs))
