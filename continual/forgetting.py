"""What was learned and what was forgotten: pure functions of R, each with its formula and source.

R is a list of rows. Row 0 holds the scores of the untaught base, row i those of the model after the i-th
task; columns stand in the order taught (see `in_order`). Scores are fractions in [0, 1]. ``None`` is an
unknown cell, and a figure that needs an unknown cell is ``None``, as is one that is not defined (BWT of one
task). BWT and FWT are signed; forgetting, intransigence and the gaps are positive when something was lost.

In the formulae T is the number of tasks, and i, j, k, l count from 1; R[0] is the base.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Cell = float | None
Matrix = Sequence[Sequence[Cell]]
C = TypeVar("C")


@dataclass(frozen=True)
class Formula:
    """How one figure is defined, printed beside its number."""

    title: str
    formula: str
    source: str
    higher_is_better: bool
    meaning: str
    """One plain sentence for somebody who has never seen the figure."""


FORMULAE: dict[str, Formula] = {
    "acc": Formula(
        "ACC",
        "1/T · Σ_j R[T][j]",
        "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory",
        True,
        "The mean score over all tasks at the very end.",
    ),
    "average_incremental_acc": Formula(
        "average incremental ACC",
        "1/T · Σ_k 1/k · Σ_{j≤k} R[k][j]",
        "Rebuffi et al. 2017, iCaRL",
        True,
        "The mean over the tasks seen so far, averaged over all steps: how good the model was on the way.",
    ),
    "learning_acc": Formula(
        "learning ACC",
        "1/T · Σ_j R[j][j]",
        "Riemer et al. 2019, Meta-Experience Replay",
        True,
        "The mean score of each task right after it was taught, before anything could be forgotten.",
    ),
    "bwt": Formula(
        "BWT",
        "1/(T−1) · Σ_{j<T} (R[T][j] − R[j][j])",
        "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory",
        True,
        "How earlier tasks changed since they were taught; negative means that they got worse.",
    ),
    "fwt": Formula(
        "FWT",
        "1/(T−1) · Σ_{j≥2} (R[j−1][j] − R[0][j])",
        "Lopez-Paz & Ranzato 2017, Gradient Episodic Memory; the base stands for their random weights",
        True,
        "How much earlier tasks helped a task before it was taught at all.",
    ),
    "forgetting": Formula(
        "forgetting",
        "1/(T−1) · Σ_{j<T} (max_{l∈1..T−1} R[l][j] − R[T][j])",
        "Chaudhry et al. 2018, Riemannian Walk; the maximum leaves out the last row, so it can be negative",
        False,
        "How far earlier tasks fell from their best; positive is bad, negative means they still rose.",
    ),
    "intransigence": Formula(
        "intransigence",
        "1/T · Σ_k (M[k] − R[k][k])",
        "Chaudhry et al. 2018, Riemannian Walk; their reference for step k is trained jointly on tasks 1..k, "
        "here it is the multitask arm M, trained jointly on all T",
        False,
        "How much less a new task is learned than by joint training; negative means that it is learned more.",
    ),
    "gap_to_multitask": Formula(
        "gap to multitask",
        "1/T · Σ_j (M[j] − R[T][j])",
        "the multitask bound minus ACC, as LAMOL (Sun et al. 2020) reports it",
        False,
        "How far the end result is below teaching everything at once (M is the multitask arm).",
    ),
    "gap_to_specialists": Formula(
        "gap to specialists",
        "1/T · Σ_j (S[j] − R[j][j])",
        "the specialists minus learning ACC: the plasticity gap, near what SAPT (Zhao et al. 2024) calls FWT",
        False,
        "How far a task, right after it was taught, is below a model that learned it alone (S).",
    ),
}


def in_order(R: Sequence[Sequence[C]], tasks: Sequence[str], order: Sequence[str]) -> list[list[C]]:
    """R with its columns, stored in the order of `tasks`, put into the order taught.

    Args:
        R: Rows of ``len(tasks)`` cells.
        tasks: The tasks in the order of the stored columns.
        order: The tasks in the order of the run; each must be among `tasks`.
    """
    columns = [list(tasks).index(task) for task in order]
    return [[row[column] for column in columns] for row in R]


def _mean(cells: Sequence[Cell]) -> Cell:
    """The mean, or None where a cell is unknown or there is none."""
    known = [cell for cell in cells if cell is not None]
    return sum(known) / len(known) if cells and len(known) == len(cells) else None


def _minus(a: Cell, b: Cell) -> Cell:
    return None if a is None or b is None else a - b


def _max(cells: Sequence[Cell]) -> Cell:
    known = [cell for cell in cells if cell is not None]
    return max(known) if len(known) == len(cells) else None


def _steps(R: Matrix) -> int:
    """T of a square R (T + 1 rows of T cells); ValueError for any other shape."""
    steps = len(R) - 1
    if steps < 1 or any(len(row) != steps for row in R):
        raise ValueError(f"R needs T + 1 rows of T cells, got {len(R)} rows of {[len(row) for row in R]}")
    return steps


def _taught(R: Matrix) -> list[Cell]:
    """R[j][j] for j = 1..T: each task right after it was taught."""
    return [R[j + 1][j] for j in range(_steps(R))]


def acc(R: Matrix) -> Cell:
    """1/T · Σ_j R[T][j]: the mean of the last row (Lopez-Paz & Ranzato 2017), however many rows there are."""
    return _mean(R[-1])


def average_incremental_acc(R: Matrix) -> Cell:
    """1/T · Σ_k 1/k · Σ_{j≤k} R[k][j] (Rebuffi et al. 2017, iCaRL)."""
    return _mean(seen_so_far(R))


def seen_so_far(R: Matrix) -> list[Cell]:
    """For each step k = 1..T the mean over the tasks taught so far, 1/k · Σ_{j≤k} R[k][j]."""
    return [_mean(R[k][:k]) for k in range(1, _steps(R) + 1)]


def learning_acc(R: Matrix) -> Cell:
    """1/T · Σ_j R[j][j] (Riemer et al. 2019)."""
    return _mean(_taught(R))


def changes(R: Matrix) -> list[Cell]:
    """R[T][j] − R[j][j] for each task: its change since it was taught; 0 for the last one."""
    return [_minus(last, taught) for last, taught in zip(R[-1], _taught(R), strict=True)]


def bwt(R: Matrix) -> Cell:
    """1/(T−1) · Σ_{j<T} (R[T][j] − R[j][j]), negative = worse (Lopez-Paz & Ranzato 2017); None for T = 1.

    ACC = learning ACC + (T−1)/T · BWT.
    """
    return _mean(changes(R)[:-1])


def fwt(R: Matrix) -> Cell:
    """1/(T−1) · Σ_{j≥2} (R[j−1][j] − R[0][j]) (Lopez-Paz & Ranzato 2017); None for T = 1.

    Their b_j, the score of random weights, is here that of the untaught base model.
    """
    return _mean([_minus(R[j][j], R[0][j]) for j in range(1, _steps(R))])


def forgetting(R: Matrix) -> Cell:
    """1/(T−1) · Σ_{j<T} (max_{l∈1..T−1} R[l][j] − R[T][j]) (Chaudhry et al. 2018); None for T = 1.

    The maximum leaves out the base and the last row, so a task that still rises at the end counts below zero
    (other libraries put the last row into the maximum, and can never be negative).
    """
    return _mean(forgotten(R))


def forgotten(R: Matrix) -> list[Cell]:
    """max_{l∈1..T−1} R[l][j] − R[T][j] for each task j < T: what `forgetting` is the mean of."""
    T = _steps(R)
    return [_minus(_max([R[k][j] for k in range(1, T)]), R[T][j]) for j in range(T - 1)]


def intransigence(R: Matrix, reference: Sequence[Cell]) -> Cell:
    """1/T · Σ_k (a*_k − R[k][k]) (Chaudhry et al. 2018).

    Args:
        R: Square, columns in the order taught.
        reference: a*_k in the order of R's columns. Chaudhry's is trained jointly on tasks 1..k; the
            multitask arm, trained jointly on all T tasks, stands for it here: the same only at k = T.
    """
    return _mean([_minus(best, taught) for best, taught in zip(reference, _taught(R), strict=True)])


def gap_to_multitask(R: Matrix, multitask: Sequence[Cell]) -> Cell:
    """1/T · Σ_j (M[j] − R[T][j]): the multitask bound minus ACC. R may have any number of rows."""
    return _mean([_minus(bound, last) for bound, last in zip(multitask, R[-1], strict=True)])


def gap_to_specialists(R: Matrix, specialists: Sequence[Cell]) -> Cell:
    """1/T · Σ_j (S[j] − R[j][j]): the specialists minus learning ACC, the plasticity gap."""
    return _mean([_minus(alone, taught) for alone, taught in zip(specialists, _taught(R), strict=True)])


def figures(
    R: Matrix,
    order: Sequence[str],
    tasks: Sequence[str],
    multitask: Sequence[Cell] | None = None,
    specialists: Sequence[Cell] | None = None,
    *,
    sequential: bool = True,
) -> dict[str, Cell]:
    """Every figure of `FORMULAE` for one run.

    Args:
        R: As stored, columns in the order of `tasks`.
        order: The tasks in the order taught.
        tasks: The tasks in the order of the stored columns.
        multitask: Final scores of the multitask arm, in the order of `tasks`; None where there is none.
        specialists: Scores of the specialists, in the order of `tasks`; None where there are none.
        sequential: False for arms that have no sequence (rows base and final): only ACC and the gap to
            multitask are defined for them.

    Returns:
        A value for each name in `FORMULAE`, None where it is undefined or unknown.
    """
    result: dict[str, Cell] = dict.fromkeys(FORMULAE)
    R = in_order(R, tasks, order)
    result["acc"] = acc(R)
    bound = in_order([multitask], tasks, order)[0] if multitask is not None else None
    alone = in_order([specialists], tasks, order)[0] if specialists is not None else None
    if bound is not None:
        result["gap_to_multitask"] = gap_to_multitask(R, bound)
    if sequential:
        result["average_incremental_acc"] = average_incremental_acc(R)
        result["learning_acc"] = learning_acc(R)
        result["bwt"] = bwt(R)
        result["fwt"] = fwt(R)
        result["forgetting"] = forgetting(R)
        if bound is not None:
            result["intransigence"] = intransigence(R, bound)
        if alone is not None:
            result["gap_to_specialists"] = gap_to_specialists(R, alone)
    return result


def bootstrap_ci(
    row_scores: Sequence[float],
    seed: int = 0,
    n: int = 1000,
    level: float = 0.95,
    statistic: Callable[[Sequence[int]], float] | None = None,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `row_scores` (Efron & Tibshirani 1993).

    Args:
        row_scores: One score per test row, at least one.
        seed: The same seed and scores give the same interval.
        n: How many resamples.
        level: The share of resampled means inside the interval.
        statistic: Instead of the mean: takes the numbers of the rows in a resample.

    Returns:
        The lower and the upper end.
    """
    import numpy as np

    scores = np.asarray(row_scores, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("no row scores to resample")
    random = np.random.default_rng(seed)
    # Resample by resample: all of them at once would need n × rows indices in memory.
    picks = (random.integers(0, scores.size, scores.size) for _ in range(n))
    means = [float(scores[pick].mean()) if statistic is None else statistic(pick.tolist()) for pick in picks]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
