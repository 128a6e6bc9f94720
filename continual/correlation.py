"""The two GLUE scores that are defined over a whole set."""

import math
from collections import Counter
from collections.abc import Sequence


def matthews(predictions: Sequence[str], answers: Sequence[str]) -> float:
    """Matthews correlation for any number of classes (R_K of Gorodkin 2004), in [-1, 1]; 0 where undefined.

    ``(c·s - Σ p_k t_k) / sqrt((s² - Σ p_k²)(s² - Σ t_k²))`` with s rows, c of them right, p_k
    predicted and t_k true rows of class k.
    """
    rows = len(answers)
    right = sum(one == other for one, other in zip(predictions, answers, strict=True))
    predicted, true = Counter(predictions), Counter(answers)
    covariance = right * rows - sum(predicted[label] * true[label] for label in true)
    spread = (rows**2 - _squares(predicted)) * (rows**2 - _squares(true))
    return covariance / math.sqrt(spread) if spread else 0.0


def pearson(predictions: Sequence[float], answers: Sequence[float]) -> float:
    """Pearson's correlation, in [-1, 1]; 0 where one side never changes."""
    ours, theirs = _centred(predictions), _centred(answers)
    spread = math.sqrt(sum(one**2 for one in ours) * sum(one**2 for one in theirs))
    covariance = sum(one * other for one, other in zip(ours, theirs, strict=True))
    return max(-1.0, min(1.0, covariance / spread)) if spread else 0.0


def _squares(counts: Counter[str]) -> int:
    return sum(count**2 for count in counts.values())


def _centred(values: Sequence[float]) -> list[float]:
    if min(values) == max(values):
        return [0.0] * len(values)  # their mean may differ from them by a rounding error
    # Brought near 1 by a power of two, which rounds nothing: the square of 1e200 is no number.
    exponent = math.frexp(max(values, key=abs))[1]
    scaled = [math.ldexp(value, -exponent) for value in values]
    mean = math.fsum(scaled) / len(scaled)
    return [value - mean for value in scaled]
