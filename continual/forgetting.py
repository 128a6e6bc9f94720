"""What was learned and what was forgotten: pure functions of R, each with its formula and source.

R is a list of rows. Row 0 holds the scores of the untaught base, row i those of the model after the i-th
task; columns stand in the order taught (see `in_order`). Scores are fractions in [0, 1]. ``None`` is an
unknown cell, and a figure that needs an unknown cell is ``None`` (the maximum in forgetting is over what is
known), as is one that is not defined (BWT of one task). BWT and FWT are signed; forgetting, intransigence and
the gaps are positive when something was lost.

Where tasks are not announced, rows are chunks, and a task begins and ends with the first and the last chunk that
hold rows of it (its span). R[j][j] is then the row where task j ended, R[j−1][j] the one before it began, R[T] the
last row, and j < T are the tasks that ended before it.

In the formulae T is the number of tasks, and i, j, k, l count from 1; R[0] is the base.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Cell = float | None
Matrix = Sequence[Sequence[Cell]]
C = TypeVar("C")
Spans = Sequence[Sequence[int]]
"""The first and the last row, from 1, before which rows of each task were learned, in the order of R's columns."""


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


def _best_known(cells: Sequence[Cell]) -> Cell:
    return max((cell for cell in cells if cell is not None), default=None)


def _steps(R: Matrix) -> int:
    """T of a square R (T + 1 rows of T cells); ValueError for any other shape."""
    steps = len(R) - 1
    if steps < 1 or any(len(row) != steps for row in R):
        raise ValueError(f"R needs T + 1 rows of T cells, got {len(R)} rows of {[len(row) for row in R]}")
    return steps


def spans_of(R: Matrix, spans: Spans | None) -> Spans:
    """The spans given; without any, those of tasks taught one by one: the j-th begins and ends in row j."""
    if spans is None:
        return [(j, j) for j in range(1, _steps(R) + 1)]
    if any(len(row) != len(spans) for row in R) or not all(1 <= first <= last < len(R) for first, last in spans):
        raise ValueError(f"R has {len(R)} rows, and columns that do not fit {len(spans)} spans")
    return spans


def _taught(R: Matrix, spans: Spans | None) -> list[Cell]:
    """R[j][j] for j = 1..T: each task right after it was taught."""
    return [R[last][j] for j, (_, last) in enumerate(spans_of(R, spans))]


def _earlier(R: Matrix, spans: Spans | None) -> list[int]:
    """The columns of tasks that had ended before the last step: j < T where tasks are taught one by one."""
    return [j for j, (_, last) in enumerate(spans_of(R, spans)) if last < len(R) - 1]


def acc(R: Matrix) -> Cell:
    """1/T · Σ_j R[T][j]: the mean of the last row (Lopez-Paz & Ranzato 2017), however many rows there are."""
    return _mean(R[-1])


def average_incremental_acc(R: Matrix, spans: Spans | None = None) -> Cell:
    """1/T · Σ_k 1/k · Σ_{j≤k} R[k][j] (Rebuffi et al. 2017, iCaRL)."""
    return _mean(seen_so_far(R, spans))


def seen_so_far(R: Matrix, spans: Spans | None = None) -> list[Cell]:
    """For each step k the mean over the tasks begun so far, 1/k · Σ_{j≤k} R[k][j] where they are taught one by one."""
    firsts = [first for first, _ in spans_of(R, spans)]
    return [_mean([row[j] for j, first in enumerate(firsts) if first <= k]) for k, row in enumerate(R[1:], 1)]


def learning_acc(R: Matrix, spans: Spans | None = None) -> Cell:
    """1/T · Σ_j R[j][j] (Riemer et al. 2019)."""
    return _mean(_taught(R, spans))


def changes(R: Matrix, spans: Spans | None = None) -> list[Cell]:
    """R[T][j] − R[j][j] for each task: its change since it was taught; 0 for the last one."""
    return [_minus(last, taught) for last, taught in zip(R[-1], _taught(R, spans), strict=True)]


def bwt(R: Matrix, spans: Spans | None = None) -> Cell:
    """1/(T−1) · Σ_{j<T} (R[T][j] − R[j][j]), negative = worse (Lopez-Paz & Ranzato 2017); None for T = 1.

    ACC = learning ACC + (T−1)/T · BWT.
    """
    changed = changes(R, spans)
    return _mean([changed[j] for j in _earlier(R, spans)])


def fwt(R: Matrix, spans: Spans | None = None) -> Cell:
    """1/(T−1) · Σ_{j≥2} (R[j−1][j] − R[0][j]) (Lopez-Paz & Ranzato 2017); None for T = 1.

    Their b_j, the score of random weights, is here that of the untaught base model.
    """
    firsts = [first for first, _ in spans_of(R, spans)]
    return _mean([_minus(R[first - 1][j], R[0][j]) for j, first in enumerate(firsts) if first > 1])


def forgetting(R: Matrix, spans: Spans | None = None) -> Cell:
    """1/(T−1) · Σ_{j<T} (max_{l∈1..T−1} R[l][j] − R[T][j]) (Chaudhry et al. 2018); None for T = 1.

    The maximum leaves out the base and the last row, so a task that still rises at the end counts below zero
    (other libraries put the last row into the maximum, and can never be negative). It is taken over the rows
    that are known; where a task was examined only when it was taught and at the end, that is -BWT.
    """
    return _mean(list(forgotten(R, spans).values()))


def forgotten(R: Matrix, spans: Spans | None = None) -> dict[int, Cell]:
    """max_{l∈1..T−1} R[l][j] − R[T][j] by column, for the tasks j < T: what `forgetting` is the mean of."""
    return {j: _minus(_best_known([row[j] for row in R[1:-1]]), R[-1][j]) for j in _earlier(R, spans)}


def intransigence(R: Matrix, reference: Sequence[Cell], spans: Spans | None = None) -> Cell:
    """1/T · Σ_k (a*_k − R[k][k]) (Chaudhry et al. 2018).

    Args:
        R: Square, columns in the order taught.
        reference: a*_k in the order of R's columns. Chaudhry's is trained jointly on tasks 1..k; the
            multitask arm, trained jointly on all T tasks, stands for it here: the same only at k = T.
    """
    return _mean([_minus(best, taught) for best, taught in zip(reference, _taught(R, spans), strict=True)])


def gap_to_multitask(R: Matrix, multitask: Sequence[Cell]) -> Cell:
    """1/T · Σ_j (M[j] − R[T][j]): the multitask bound minus ACC. R may have any number of rows."""
    return _mean([_minus(bound, last) for bound, last in zip(multitask, R[-1], strict=True)])


def gap_to_specialists(R: Matrix, specialists: Sequence[Cell], spans: Spans | None = None) -> Cell:
    """1/T · Σ_j (S[j] − R[j][j]): the specialists minus learning ACC, the plasticity gap."""
    return _mean([_minus(alone, taught) for alone, taught in zip(specialists, _taught(R, spans), strict=True)])


def figures(
    R: Matrix,
    order: Sequence[str],
    tasks: Sequence[str],
    multitask: Sequence[Cell] | None = None,
    specialists: Sequence[Cell] | None = None,
    *,
    sequential: bool = True,
    spans: Spans | None = None,
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
        spans: Where tasks are not announced and rows of R are chunks: of each task of `order`.

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
        result["average_incremental_acc"] = average_incremental_acc(R, spans)
        result["learning_acc"] = learning_acc(R, spans)
        result["bwt"] = bwt(R, spans)
        result["fwt"] = fwt(R, spans)
        result["forgetting"] = forgetting(R, spans)
        if bound is not None:
            result["intransigence"] = intransigence(R, bound, spans)
        if alone is not None:
            result["gap_to_specialists"] = gap_to_specialists(R, alone, spans)
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
