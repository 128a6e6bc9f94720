"""Checks on rehearsed samples: each gives a reason to reject, or None.

LAMOL's own rule is `parses` alone. A sample that never ended, says nothing, answers with a label that the
task does not have, asks another task's question or repeats another sample teaches the next model a mistake.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from continual.rehearse.frame import Frame, wrong_task
from continual.rehearse.minhash import resemblance, signature
from continual.rehearse.shape import Shape
from continual.sample import Message

NEAR = 0.7
"""Two samples with more of their shingles in common than this are near-duplicates."""
BAND = 3.0
"""Samples whose likelihood is further from the median than so many median deviations are rejected."""


@dataclass(frozen=True)
class Draft:
    """A text that a model wrote after a cue."""

    text: str
    messages: tuple[Message, ...] | None
    """None where the marks of a conversation are not in their places."""
    finished: bool
    """Whether it ended by itself (EOS), not at the length limit."""
    tokens: int
    greedy: str | None = None
    """The model's own answer to the question, where it was asked."""
    drawn: str | None = None
    """The answer as it was drawn, where another has taken its place."""
    logprob: float | None = None
    """Mean log-likelihood of its tokens after the cue, in nats, where it was measured."""


@dataclass
class Page:
    """What is known about the samples of one task while they are written."""

    task: str
    labels: Sequence[str] = ()
    frames: Mapping[str, Frame] = field(default_factory=dict)
    shape: Shape | None = None
    """Of the task's rows, where it is known."""
    band: tuple[float, float] | None = None
    """Between which mean log-likelihoods a sample must lie."""
    kept: set[tuple[Message, ...]] = field(default_factory=set)
    signatures: list[np.ndarray] = field(default_factory=list)

    def set_band(self, logprobs: Sequence[float]) -> None:
        """The band around the median of some samples; it stays as it is once set."""
        if self.band is None and len(logprobs) > 2:
            middle = statistics.median(logprobs)
            spread = statistics.median(abs(value - middle) for value in logprobs)
            self.band = (middle - BAND * spread, middle + BAND * spread)

    def keep(self, messages: tuple[Message, ...], checks: Sequence[str]) -> None:
        self.kept.add(messages)
        if "near_duplicate" in checks:
            self.signatures.append(signature(_words(messages)))


Check = Callable[[Draft, Page], bool]
"""(draft, page) -> whether the draft passes. A draft has messages, except for the first two."""


def _words(messages: Sequence[Message]) -> str:
    return " ".join(message.content for message in messages)


def ends_in_eos(draft: Draft, page: Page) -> bool:
    return draft.finished


def parses(draft: Draft, page: Page) -> bool:
    return draft.messages is not None


def non_empty(draft: Draft, page: Page) -> bool:
    return all(message.content for message in draft.messages or ())


def task_is_right(draft: Draft, page: Page) -> bool:
    return page.task not in page.frames or not wrong_task(page.task, draft.messages or (), page.frames)


def label_known(draft: Draft, page: Page) -> bool:
    return not page.labels or (draft.messages or ())[-1].content in page.labels


def as_long_as_real_ones(draft: Draft, page: Page) -> bool:
    return page.shape is None or page.shape.length_fits(draft.messages or ())


def not_going_round(draft: Draft, page: Page) -> bool:
    return page.shape is None or page.shape.repeats_fit(draft.messages or ())


def agrees_with_itself(draft: Draft, page: Page) -> bool:
    drawn = draft.drawn if draft.drawn is not None else (draft.messages or ())[-1].content
    return draft.greedy is None or " ".join(draft.greedy.split()) == " ".join(drawn.split())


def likely_enough(draft: Draft, page: Page) -> bool:
    return draft.logprob is None or page.band is None or page.band[0] <= draft.logprob <= page.band[1]


def not_a_duplicate(draft: Draft, page: Page) -> bool:
    return draft.messages not in page.kept


def not_nearly_one(draft: Draft, page: Page) -> bool:
    if not page.signatures:
        return True
    return bool(resemblance(signature(_words(draft.messages or ())), np.array(page.signatures)).max() < NEAR)


# In the order in which they are asked; the first that fails is the reason.
CHECKS: dict[str, Check] = {
    "eos": ends_in_eos,
    "parses": parses,
    "non_empty": non_empty,
    "wrong_task": task_is_right,
    "label": label_known,
    "length": as_long_as_real_ones,
    "repeats": not_going_round,
    "consistent": agrees_with_itself,
    "likelihood": likely_enough,
    "duplicate": not_a_duplicate,
    "near_duplicate": not_nearly_one,
}

BEFORE_ASKING = ("eos", "parses", "non_empty", "wrong_task")
"""What is checked before a teacher is asked about a sample."""


def rejection(draft: Draft, checks: Sequence[str], page: Page) -> str | None:
    """The name of the first check that a draft fails, or None.

    What does not parse has no question and no answer, and cannot be taught whatever the checks are: LAMOL,
    too, drops it (utils.py, etl_single_extra_data).
    """
    if draft.messages is None:
        return "eos" if "eos" in checks and not draft.finished else "parses"
    return next((name for name, check in CHECKS.items() if name in checks and not check(draft, page)), None)
