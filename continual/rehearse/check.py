"""Checks on rehearsed samples: each gives a reason to reject, or None.

LAMOL's own rule is `parses` alone. A sample that never ended, says nothing, answers with a label that the
task does not have, or repeats another one teaches the next model a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from continual.sample import Message


@dataclass(frozen=True)
class Draft:
    """A text that a model wrote after a cue."""

    text: str
    messages: tuple[Message, ...] | None
    """None where the marks of a conversation are not in their places."""
    finished: bool
    """Whether it ended by itself (EOS), not at the length limit."""
    tokens: int


Check = Callable[[Draft, Sequence[str], set[tuple[Message, ...]]], bool]
"""(draft, label set, drafts kept so far) -> whether the draft passes."""


def ends_in_eos(draft: Draft, labels: Sequence[str], kept: set[tuple[Message, ...]]) -> bool:
    return draft.finished


def parses(draft: Draft, labels: Sequence[str], kept: set[tuple[Message, ...]]) -> bool:
    return draft.messages is not None


def non_empty(draft: Draft, labels: Sequence[str], kept: set[tuple[Message, ...]]) -> bool:
    return draft.messages is not None and all(message.content for message in draft.messages)


def label_known(draft: Draft, labels: Sequence[str], kept: set[tuple[Message, ...]]) -> bool:
    if not labels or draft.messages is None:
        return True
    return draft.messages[-1].content in labels


def not_a_duplicate(draft: Draft, labels: Sequence[str], kept: set[tuple[Message, ...]]) -> bool:
    return draft.messages not in kept


# In the order in which they are asked; the first that fails is the reason.
CHECKS: dict[str, Check] = {
    "eos": ends_in_eos,
    "parses": parses,
    "non_empty": non_empty,
    "label": label_known,
    "duplicate": not_a_duplicate,
}


def rejection(
    draft: Draft, checks: Sequence[str], labels: Sequence[str], kept: set[tuple[Message, ...]]
) -> str | None:
    """The name of the first check that a draft fails, or None.

    What does not parse has no question and no answer, and cannot be taught whatever the checks are: LAMOL,
    too, drops it (utils.py, etl_single_extra_data).
    """
    for name, check in CHECKS.items():
        if (name in checks or name == "parses") and not check(draft, labels, kept):
            return name
    return None
