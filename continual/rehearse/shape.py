"""How long the rows of a task are and how much they repeat themselves: a few numbers, from the task's own training.

They bound what is written of it later. No row and no word of one is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from continual.sample import Message, Sample
from continual.words import tokens

WIDER = 1.5
"""An answer may be shorter or longer than the usual ones by this factor."""
MORE_REPEATS = 0.1
"""A sample may repeat so much more of its 4-grams than the most repetitive rows."""
LONGER = 1.25
"""A sample gets so many more tokens than the longest row."""
NGRAM = 4


@dataclass(frozen=True)
class Shape:
    """What is known of a task's rows once they are gone."""

    shortest: float
    longest: float
    """The 1st and 99th percentile of an answer's length, in words and punctuation marks."""
    repeats: float
    """The 99th percentile of `repeated` over whole rows."""
    tokens: int
    """Of the longest row, without cue."""

    def length_fits(self, messages: Sequence[Message]) -> bool:
        """Whether a sample's answer is about as long as those of the rows."""
        length = len(tokens(messages[-1].content))
        return math.floor(self.shortest / WIDER) <= length <= math.ceil(self.longest * WIDER)

    def repeats_fit(self, messages: Sequence[Message]) -> bool:
        """Whether a sample says things again and again no more than the rows do."""
        return repeated(messages) <= self.repeats + MORE_REPEATS

    @property
    def most_tokens(self) -> int:
        """The most tokens that are written for a sample."""
        return math.ceil(self.tokens * LONGER)


def shape_of(samples: Sequence[Sample], row_tokens: int) -> Shape:
    """The shape of a task's training rows.

    Args:
        row_tokens: of the longest row as it is learned.
    """
    answers = [len(tokens(m.content)) for sample in samples for m in sample.messages if m.role == "assistant"]
    shortest, longest = np.percentile(answers, [1, 99])
    repeats = np.percentile([repeated(sample.messages) for sample in samples], 99)
    return Shape(float(shortest), float(longest), float(repeats), row_tokens)


def repeated(messages: Sequence[Message]) -> float:
    """The share of the 4-grams of a conversation that stood there before, the largest over its turns.

    This is seq-rep-4 of Welleck et al. (2020, "Neural Text Generation with Unlikelihood Training").
    """
    return max((_repeated(message.content) for message in messages), default=0.0)


def _repeated(text: str) -> float:
    said = tokens(text)
    grams = [tuple(said[start : start + NGRAM]) for start in range(len(said) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def stored(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Shapes as plain values."""
    return {task: asdict(shape) for task, shape in shapes.items()}


def restored(values: Mapping[str, Any]) -> dict[str, Shape]:
    """What `stored` made plain."""
    return {task: Shape(**value) for task, value in values.items()}
