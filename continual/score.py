"""Task metrics: pure functions of a prediction and a sample.

Each row gets a score in [0, 1]. A score over rows is their mean, except for the two metrics of GLUE that are
only defined over a whole set (Matthews' and Pearson's correlation), which lie in [-1, 1].
"""

import math
import statistics
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

from continual.correlation import matthews, pearson
from continual.errors import ContinualError
from continual.overlap import bleu, code_literals, edit_similarity, rouge_l, sari, token_f1
from continual.problems import did_you_mean
from continual.sample import Sample
from continual.statematch import joint_goal, logical_form, turn_state
from continual.words import canonical, normalised, words

RowScore = Callable[[str, Sample], float]
RowScores = Callable[[Sequence[str], Sequence[Sample]], list[float]]
SetScore = Callable[[Sequence[str], Sequence[Sample]], float]


class Metric(NamedTuple):
    """How a task is scored."""

    rows: RowScores
    """The score of each row, which may hang on the rows before it."""
    whole: SetScore | None
    """The score of all rows together, where it is not the mean of the rows."""
    source: str
    """The paper or program that it follows."""
    by_dialogue: bool = False
    """Whether rows that name their dialogue are scored together."""


METRICS: dict[str, Metric] = {}


def register_metric(name: str, row: RowScore, whole: SetScore | None = None, source: str = "") -> None:
    """Make a metric known to task files.

    Raises:
        ValueError: the name is taken.
    """
    if name in METRICS:
        raise ValueError(f"the metric '{name}' is already registered")
    METRICS[name] = Metric(_each(row), whole, source)


def row_scores(metric: str, predictions: Sequence[str], samples: Sequence[Sample]) -> list[float]:
    """The score of each row, in [0, 1].

    Raises:
        ContinualError: there is no such metric.
        ValueError: not as many predictions as samples.
    """
    if len(predictions) != len(samples):
        raise ValueError(f"{len(predictions)} predictions for {len(samples)} samples")
    return _metric(metric).rows(predictions, samples)


def score(metric: str, predictions: Sequence[str], samples: Sequence[Sample]) -> float:
    """The score of all rows together.

    Raises:
        ContinualError: there is no such metric.
        ValueError: not as many predictions as samples, or none.
    """
    whole = _metric(metric).whole
    if whole is None or not samples:
        return statistics.fmean(row_scores(metric, predictions, samples))
    if len(predictions) != len(samples):
        raise ValueError(f"{len(predictions)} predictions for {len(samples)} samples")
    return whole(predictions, samples)


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise ContinualError(f"unknown metric '{name}'{did_you_mean(name, METRICS)}")
    return METRICS[name]


def _each(row: RowScore) -> RowScores:
    """Score each row by itself."""
    return lambda predictions, samples: [
        row(prediction, sample) for prediction, sample in zip(predictions, samples, strict=True)
    ]


def _any(same: Callable[[str], str]) -> RowScore:
    """1 where the prediction equals a reference, both brought to the same form."""
    return lambda prediction, sample: float(same(prediction) in {same(one) for one in sample.references})


def _stripped(text: str) -> str:
    return canonical(text.strip())


def _letter(text: str) -> str:
    """The letter that stands alone at the beginning: of "B" and "(b) because", but not of "Because"."""
    first = next((word for word in words(text) if word[0].isalnum()), "")
    return first if first in string.ascii_lowercase else ""


def _best(compare: Callable[[str, str], float]) -> RowScore:
    """The best comparison with a reference."""
    return lambda prediction, sample: max(compare(prediction, one) for one in sample.references)


def _sari(prediction: str, sample: Sample) -> float:
    # TRACE gives the whole prompt as the source, as its released evaluation does.
    return sari(sample.prompt[-1].content, prediction, sample.references)


def _joint_goal(predictions: Sequence[str], samples: Sequence[Sample]) -> list[float]:
    return joint_goal(predictions, [s.answer for s in samples], [s.dialogue for s in samples])


def _answers(samples: Sequence[Sample]) -> list[str]:
    return [_stripped(sample.answer) for sample in samples]


def _numbers(texts: Sequence[str]) -> list[float]:
    numbers = []
    for text in texts:
        try:
            number = float(text)
            numbers.append(number if math.isfinite(number) else 0.0)
        except ValueError:
            # An answer that is no number says nothing about likeness; zero is the lowest grade of STS-B.
            numbers.append(0.0)
    return numbers


_SQUAD = "Rajpurkar et al. 2016 (SQuAD); LAMOL's nEM and nF1"
register_metric("acc", _any(_stripped), source="equal but for white space at the ends")
register_metric("acc_letter", _any(_letter), source="TRACE: the letter that begins an answer of ScienceQA")
register_metric("exact_match", _any(normalised), source=_SQUAD)
register_metric("f1", _best(token_f1), source=_SQUAD)
register_metric("rouge_l", _best(rouge_l), source="Lin 2004")
register_metric("bleu", lambda text, sample: bleu(text, sample.references), source="Papineni et al. 2002")
register_metric("sari", _sari, source="Xu et al. 2016")
register_metric("edit_similarity", _best(edit_similarity), source="TRACE: fuzz.ratio")
register_metric(
    "code_edit_similarity",
    _best(lambda text, reference: edit_similarity(code_literals(text), code_literals(reference))),
    source="TRACE: fuzz.ratio of Py150 lines with their literals filled in",
)
register_metric("lf_em", _best(logical_form), source="WikiSQL logical form, as in LAMOL")
METRICS["dsem"] = Metric(
    _joint_goal,
    None,
    "decaNLP's joint_goal_em, LAMOL's dsEM: WOZ goals up to a turn",
    by_dialogue=True,
)
register_metric("turn_state_em", _best(turn_state), source="WOZ: informed and requested slots of a turn")
register_metric(
    "mcc",
    _any(_stripped),
    lambda texts, samples: matthews([_stripped(text) for text in texts], _answers(samples)),
    source="Gorodkin 2004; CoLA in GLUE",
)
register_metric(
    "pearson",
    _any(_stripped),
    lambda texts, samples: pearson(_numbers(texts), _numbers(_answers(samples))),
    source="STS-B in GLUE",
)
