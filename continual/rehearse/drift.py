"""How far what is rehearsed of a task has moved from its real rows. Pure functions of texts and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from continual.words import words


def total_variation(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Half the sum of |p - q| over all labels, in [0, 1]: the share of labels that would have to be others.

    Raises:
        ZeroDivisionError: one of the two has no label.
    """
    p, q = Counter(ours), Counter(theirs)
    return sum(abs(p[label] / len(ours) - q[label] / len(theirs)) for label in p | q) / 2


def mean_words(texts: Sequence[str]) -> float:
    """The mean number of words of a text."""
    return sum(len(words(text)) for text in texts) / len(texts)


def bigrams(texts: Iterable[str]) -> set[tuple[str, str]]:
    """All different pairs of neighbouring words."""
    return {pair for text in texts for pair in pairwise(words(text))}


def share_known(texts: Iterable[str], known: set[tuple[str, str]]) -> float:
    """The share of the different 2-grams of some texts that are among the known ones; 0 where they have none."""
    own = bigrams(texts)
    return len(own & known) / len(own) if own else 0.0
