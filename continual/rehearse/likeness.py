"""How like its real rows is what was rehearsed of a task: figures for the report.

Real rows of earlier tasks are read here, and nowhere else. Nothing of it comes back but these figures, and no writer,
check, budget or batch ever sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from continual.rehearse import drift
from continual.rehearse.frame import Frame
from continual.rehearse.memorised import Rows
from continual.sample import Message, Sample
from continual.seeds import derive


class Likeness:
    """Compares rehearsed samples with real rows.

    Args:
        samples: task -> split -> real rows.
        frames: of each task; what all its prompts have in common says nothing about a sample and is left out.
        labels: label set of each task, empty where it has none.
    """

    def __init__(
        self,
        samples: Mapping[str, Mapping[str, Sequence[Sample]]],
        frames: Mapping[str, Frame],
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        self.samples, self.frames, self.labels = samples, frames, labels
        self._train = cache(self._train_rows)
        self._tests_known = cache(self._tests_in_train)
        self._bigrams = cache(self._test_bigrams)

    def of(self, task: str, conversations: Sequence[Sequence[Message]]) -> dict[str, Any]:
        """The entries ``drift`` and ``memorised`` of `run.json`; both None where there is no sample, or where tasks
        are not announced, and so nothing tells which rows a sample should be like.
        """
        if not conversations or task not in self.samples:
            return {"drift": None, "memorised": None}
        questions, texts = self._read(task, conversations)
        real = self._as_many(task, len(texts))
        found = {
            "labels": self._label_distance(task, conversations),
            "words": drift.mean_words(texts),
            "real_words": drift.mean_words(real),
            "bigrams": drift.share_known(texts, self._bigrams(task)),
            "real_bigrams": drift.share_known(real, self._bigrams(task)),
        }
        memorised = self._train(task).memorised(questions, texts)
        return {"drift": found, "memorised": {**memorised, "test": self._tests_known(task)}}

    def _label_distance(self, task: str, conversations: Sequence[Sequence[Message]]) -> float | None:
        if not self.labels[task]:
            return None
        real = [sample.answer for sample in self.samples[task]["train"]]
        return drift.total_variation([messages[-1].content for messages in conversations], real)

    def _read(self, task: str, conversations: Sequence[Sequence[Message]]) -> tuple[list[str], list[str]]:
        """Questions, and whole texts, without what all prompts of the task say."""
        questions, texts = [], []
        for messages in conversations:
            turns = [m.content for m in messages]
            asked = next(n for n in reversed(range(len(messages))) if messages[n].role == "user")
            turns[asked] = self.frames[task].inside(turns[asked])
            questions.append(turns[asked])
            texts.append("\n".join(turns))
        return questions, texts

    def _split(self, task: str, split: str) -> tuple[list[str], list[str]]:
        return self._read(task, [sample.messages for sample in self.samples[task][split]])

    def _train_rows(self, task: str) -> Rows:
        return Rows(*self._split(task, "train"))

    def _tests_in_train(self, task: str) -> dict[str, float]:
        """What test rows have in common with train rows: so much is to be expected of rows that nobody learned."""
        return self._train(task).memorised(*self._split(task, "test"))

    def _test_bigrams(self, task: str) -> set[tuple[str, str]]:
        return drift.bigrams(self._split(task, "test")[1])

    def _as_many(self, task: str, number: int) -> list[str]:
        """So many real train rows, or all, where there are fewer: always the same ones."""
        rows = self.samples[task]["train"]
        picked = np.random.default_rng(derive(0, task, "likeness")).permutation(len(rows))[:number]
        return self._read(task, [rows[i].messages for i in picked])[1]
