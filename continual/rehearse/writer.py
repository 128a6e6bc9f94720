"""Who writes what is rehearsed: the model itself, or, as a baseline, a memory of real rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from continual.chat import Chat
from continual.decode import Decoder
from continual.rehearse.check import Draft, rejection
from continual.rehearse.text import SURPLUS, Written
from continual.sample import Message, Sample
from continual.sampling import Sampling
from continual.seeds import derive


class Writer(Protocol):
    """Gives samples of earlier tasks: of each as many as are `wanted`."""

    def write(self, model: Any, wanted: Mapping[str, int], seed: int) -> dict[str, list[Written]]: ...


@dataclass(frozen=True)
class ModelWriter:
    """LAMOL's writer: the model continues the cue until it has written whole samples.

    Args:
        chat: encodes the cue and parses what follows it.
        cues: cue text per task.
        labels: label set per task, empty where there is none.
        checks: names from `check.CHECKS`.
        top_up: draw on until `wanted` samples are valid, `max_tries` times `wanted` at most; else draw
            `wanted` once.
        max_new_tokens: the longest sample.
    """

    chat: Chat
    cues: dict[str, str]
    labels: dict[str, tuple[str, ...]]
    checks: tuple[str, ...]
    sampling: Sampling
    top_up: bool
    max_tries: int
    max_new_tokens: int
    batch_tokens: int

    def write(self, model: Any, wanted: Mapping[str, int], seed: int) -> dict[str, list[Written]]:
        decoder = Decoder(model, self.chat.stop_ids, self.chat.end_id, self.batch_tokens)
        cues = {task: self.chat.bos_ids + self.chat.cue_ids(self.cues[task]) for task in wanted}
        pages = {task: _Page(number) for task, number in wanted.items()}
        # All tasks in one batch: with many of them, each one's share alone would be too few to decode well.
        while draws := [(t, n) for t, page in pages.items() for n in page.next_draws(self.top_up, self.max_tries)]:
            outputs = decoder.generate(
                [cues[task] for task, _ in draws],
                self.max_new_tokens,
                self.sampling,
                [derive(seed, task, n) for task, n in draws],
                self.chat.stops_before_answer,
            )
            for (task, _), output in zip(draws, outputs, strict=True):
                draft = self._draft(output.ids, output.finished)
                pages[task].put(draft, rejection(draft, self.checks, self.labels[task], pages[task].kept))
        return {task: page.samples for task, page in pages.items()}

    def _draft(self, ids: Sequence[int], finished: bool) -> Draft:
        text = self.chat.text(ids[:-1] if finished else ids)
        return Draft(text, self.chat.parse(text), finished, len(ids))


@dataclass
class _Page:
    """What has been written of one task so far."""

    wanted: int
    samples: list[Written] = field(default_factory=list)
    kept: set[tuple[Message, ...]] = field(default_factory=set)
    good: int = 0

    def next_draws(self, top_up: bool, max_tries: int) -> range:
        """Numbers of the draws to come: as many as are missing, and some more where earlier ones were rejected."""
        drawn, missing = len(self.samples), self.wanted - self.good
        most = self.wanted * (max_tries if top_up else 1)
        if missing <= 0 or drawn >= most:
            return range(0)
        rate = max(self.good / drawn, 0.1) if drawn else 1.0
        return range(drawn, min(most, drawn + max(1, int(np.ceil(missing / rate)))))

    def put(self, draft: Draft, reason: str | None) -> None:
        if reason is None and self.good == self.wanted:
            reason = SURPLUS
        if reason is None:
            assert draft.messages is not None
            self.kept.add(draft.messages)
            self.good += 1
        self.samples.append(Written(draft.messages, draft.text, reason, draft.tokens))


@dataclass(frozen=True)
class RealWriter:
    """The baseline: the same number of stored real rows of each old task (LAMOL_REAL).

    The rows are drawn once: a smaller quota takes the first of them, so that no more rows are stored than the
    largest quota asks for.
    """

    memory: dict[str, Sequence[Sample]]
    seed: int

    def write(self, model: Any, wanted: Mapping[str, int], seed: int) -> dict[str, list[Written]]:
        return {task: self._rows(task, number) for task, number in wanted.items()}

    def _rows(self, task: str, wanted: int) -> list[Written]:
        rows = self.memory[task]
        picked = np.random.default_rng(derive(self.seed, task, "memory")).permutation(len(rows))[:wanted]
        return [Written(rows[i].messages, "", None, 0) for i in picked]
