"""How much of a text stands word for word in some real rows: the longest run of words in common.

A run of 13 words is where Brown et al. (2020, "Language Models are Few-Shot Learners", appendix C) begin to call text
contaminated; as there, case and punctuation do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from continual.words import words

COPIED = 13
"""A run of so many words counts as copied."""


@dataclass(frozen=True)
class Memorised:
    """What some texts have in common with real rows."""

    median: float
    """Of the longest common run, in words."""
    p95: float
    """Its 95th percentile, in words."""
    share: float
    """Median of the longest common run as a share of the text's words."""
    copied: float
    """Share of texts with a run of `COPIED` words, or whose whole question is that of a row."""


class Rows:
    """The words of some real rows.

    Args:
        questions: of each row.
        texts: each row whole.
    """

    def __init__(self, questions: Sequence[str], texts: Sequence[str]) -> None:
        self.questions = {" ".join(words(question)) for question in questions}
        self._numbers: dict[str, int] = {}
        self._codes = self._coded(texts, grow=True)

    def memorised(self, questions: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
        """What other texts have in common with these rows, as a plain `Memorised`; empty where there is no text."""
        if not texts:
            return {}
        runs = self.longest_runs(texts)
        lengths = np.maximum(1, [len(words(text)) for text in texts])
        whole = [" ".join(words(question)) in self.questions for question in questions]
        copied = (runs >= COPIED) | np.array(whole)
        median, p95 = np.percentile(runs, [50, 95])
        return asdict(Memorised(float(median), float(p95), float(np.median(runs / lengths)), float(copied.mean())))

    def longest_runs(self, texts: Sequence[str]) -> np.ndarray:
        """The most words in a row that each text has in common with some row, (texts,) int64.

        Runs of 1, 2, 4, … words are numbered, equal ones alike and in their order (Karp, Miller and Rosenberg, 1972),
        until no text shares one with a row. Positions sorted by that number are a suffix array as far as it matters:
        the row most like a text stands next to it. N words take O(N log N) for each doubling.
        """
        mine = self._coded(texts)
        codes = np.concatenate([self._codes, mine])
        # Every end of a text and every unknown word is unlike all else, so that no run goes across it.
        strange = codes < 0
        codes[strange] = len(self._numbers) + np.arange(strange.sum())
        first, size = len(self._codes), len(codes)
        ranks = [_ranked(codes)]
        while _shared(ranks[-1], first):
            length = 2 ** (len(ranks) - 1)
            following = np.zeros(size, dtype=np.int64)
            following[: size - length] = ranks[-1][length:]
            ranks.append(_ranked(ranks[-1].astype(np.int64) * size + following))
        positions = np.arange(first, size)
        longest = np.zeros(len(positions), dtype=np.int64)
        for near in _neighbours(ranks[-1], first):
            found = near >= 0
            common = np.zeros(len(positions), dtype=np.int64)
            for level in reversed(range(len(ranks) - 1)):
                here, there = positions[found] + common[found], near[found] + common[found]
                common[found] += (ranks[level][here] == ranks[level][there]) * 2**level
            longest = np.maximum(longest, common)
        of_text = np.zeros(len(texts), dtype=np.int64)
        text = np.cumsum(mine == END) - (mine == END)
        np.maximum.at(of_text, text, longest)
        return of_text

    def _coded(self, texts: Sequence[str], grow: bool = False) -> np.ndarray:
        """The numbers of the words of some texts, each with `END` behind it."""
        numbers, coded = self._numbers, []
        for text in texts:
            for word in words(text):
                coded.append(numbers.setdefault(word, len(numbers)) if grow else numbers.get(word, UNKNOWN))
            coded.append(END)
        return np.array(coded, dtype=np.int64)


END, UNKNOWN = -1, -2


def _ranked(keys: np.ndarray) -> np.ndarray:
    """The place of each key among the different ones, (n,) int32."""
    return np.unique(keys, return_inverse=True)[1].astype(np.int32)


def _shared(ranks: np.ndarray, first: int) -> bool:
    """Whether a text (from `first` on) has a run in common with a row."""
    of_rows = np.zeros(int(ranks.max(initial=0)) + 1, dtype=bool)
    of_rows[ranks[:first]] = True
    return bool(of_rows[ranks[first:]].any())


def _neighbours(ranks: np.ndarray, first: int) -> list[np.ndarray]:
    """For each position of the texts, those of the rows next before and next after it by rank; -1 where none is."""
    order = np.argsort(ranks, kind="stable")
    places = np.arange(len(order))
    from_row = order < first
    before = np.maximum.accumulate(np.where(from_row, places, -1))
    after = np.minimum.accumulate(np.where(from_row, places, len(order))[::-1])[::-1]
    found = []
    for near in (before, after):
        inside = (near >= 0) & (near < len(order))
        of_position = np.empty(len(order), dtype=np.int64)
        of_position[order] = np.where(inside, order[np.clip(near, 0, len(order) - 1)], -1)
        found.append(of_position[first:])
    return found
