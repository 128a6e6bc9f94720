"""Who writes what is rehearsed: the model itself, or, as a baseline, a memory of real rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from continual.chat import Chat
from continual.decode import Decoder, Sampling
from continual.rehearse.check import Draft, rejection
from continual.rehearse.text import SURPLUS, Written
from continual.sample import Message, Sample
from continual.seeds import derive


class Writer(Protocol):
    """Gives `wanted` samples of an earlier task."""

    def write(self, model: Any, task: str, wanted: int, seed: int) -> list[Written]: ...


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

    def write(self, model: Any, task: str, wanted: int, seed: int) -> list[Written]:
        decoder = Decoder(model, self.chat.stop_ids, self.chat.end_id, self.batch_tokens)
        cue = self.chat.bos_ids + self.chat.cue_ids(self.cues[task])
        samples: list[Written] = []
        kept: set[tuple[Message, ...]] = set()
        good = 0
        most = wanted * self.max_tries if self.top_up else wanted
        while good < wanted and len(samples) < most:
            # As many as are missing, and some more where earlier ones were rejected.
            rate = max(good / len(samples), 0.1) if samples else 1.0
            draw = min(most - len(samples), max(1, int(np.ceil((wanted - good) / rate))))
            seeds = [derive(seed, task, len(samples) + i) for i in range(draw)]
            for output in decoder.generate(
                [cue] * draw, self.max_new_tokens, self.sampling, seeds, self.chat.stops_before_answer
            ):
                draft = self._draft(output.ids, output.finished)
                reason = rejection(draft, self.checks, self.labels[task], kept)
                if reason is None and good == wanted:
                    reason = SURPLUS
                if reason is None:
                    assert draft.messages is not None
                    kept.add(draft.messages)
                    good += 1
                samples.append(Written(draft.messages, draft.text, reason, draft.tokens))
        return samples

    def _draft(self, ids: Sequence[int], finished: bool) -> Draft:
        text = self.chat.text(ids[:-1] if finished else ids)
        return Draft(text, self.chat.parse(text), finished, len(ids))


@dataclass(frozen=True)
class RealWriter:
    """The baseline: the same number of stored real rows of each old task (LAMOL_REAL).

    The rows are drawn once: a smaller quota takes the first of them, so that no more rows are stored than the
    largest quota asks for.
    """

    memory: dict[str, Sequence[Sample]]
    seed: int

    def write(self, model: Any, task: str, wanted: int, seed: int) -> list[Written]:
        rows = self.memory[task]
        picked = np.random.default_rng(derive(self.seed, task, "memory")).permutation(len(rows))[:wanted]
        return [Written(rows[i].messages, "", None, 0) for i in picked]
