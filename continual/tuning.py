"""How strongly specialists are merged, found by trying: one scale for all, then a weight for each.

No gradient is needed: the loss of the merged model on some samples is enough (LoraHub: Huang et al., 2024, "LoraHub:
Efficient Cross-Task Generalization via Dynamic LoRA Composition", section 3; there by an evolution strategy over the
weights, here one coordinate after another, which needs fewer trials and draws nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)
"""What is tried first. A mean of n adapters may want up to n, a sum of them 1/n. While the last is the best, twice as
much is tried."""
HALVINGS = 3
"""How often the gap between the best scale and its neighbours is halved."""
FACTORS = (0.6, 0.8, 1.25, 1.6)
"""What a single weight is multiplied with."""
SWEEPS = 2
"""How often each weight has its turn at most."""
BEFORE = "the merge"
"""What stands in the place of the new task, where samples are written to tune a merge on. Their text lies in
`trials/`."""


@dataclass
class Tuned:
    """The best that was found."""

    scale: float
    weights: list[float]
    loss: float
    tried: list[tuple[float, float]] = field(default_factory=list)
    """Every scale that was tried with equal weights, and its loss, by scale."""
    trials: int = 0
    """How many merged models were looked at."""


def tune_scale(loss_of: Callable[[float], float], scales: Sequence[float] = SCALES) -> Tuned:
    """The scale with the least loss: of a coarse row first, or past its end, then between it and its neighbours.

    Args:
        loss_of: a scale -> the loss.
        scales: ascending.
    """
    known = {scale: loss_of(scale) for scale in scales}
    while min(known, key=known.__getitem__) == (last := max(known)):
        known[2 * last] = loss_of(2 * last)
    for _ in range(HALVINGS):
        tried = sorted(known)
        place = tried.index(min(known, key=known.__getitem__))
        for near in tried[max(place - 1, 0) : place] + tried[place + 1 : place + 2]:
            between = (tried[place] + near) / 2
            known[between] = loss_of(between)
    best = min(known, key=known.__getitem__)
    return Tuned(best, [], known[best], sorted(known.items()), len(known))


def tune_each(loss_of: Callable[[Sequence[float]], float], start: Tuned) -> Tuned:
    """A weight for each adapter: each in turn is made smaller or larger as long as the loss falls.

    Args:
        loss_of: weights -> the loss, at the scale of `start`.
        start: a scale, equal weights, and their loss.
    """
    weights, best, trials = list(start.weights), start.loss, start.trials
    for _ in range(SWEEPS):
        before = best
        for place in range(len(weights)):
            tried = {}
            for factor in FACTORS:
                one = [*weights[:place], weights[place] * factor, *weights[place + 1 :]]
                tried[tuple(one)] = loss_of(one)
            trials += len(tried)
            least = min(tried, key=tried.__getitem__)
            if tried[least] < best:
                weights, best = list(least), tried[least]
        if best == before:
            break
    return Tuned(start.scale, weights, best, start.tried, trials)
