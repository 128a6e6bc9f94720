"""What every prompt of a task begins and ends with: its instruction, which tells its samples from other tasks'."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from continual.sample import Message, Sample

_BROKEN_START, _BROKEN_END = re.compile(r"^\S+"), re.compile(r"\S+$")
TELLING = 3
"""Words that a frame needs before it tells anything."""


@dataclass(frozen=True)
class Frame:
    """The words that stand before and after what changes from row to row."""

    before: str
    after: str

    @property
    def telling(self) -> bool:
        return max(len(self.before.split()), len(self.after.split())) >= TELLING

    def holds(self, messages: Sequence[Message]) -> bool:
        """Whether a conversation's last question has this frame; a long one may have lost its middle."""
        question = _question(messages)
        if len(self.after.split()) >= TELLING:
            return question.endswith(self.after)
        return question.startswith(self.before)

    def inside(self, question: str) -> str:
        """A question without this frame."""
        return question.strip().removeprefix(self.before).removesuffix(self.after).strip()


def frame_of(samples: Sequence[Sample]) -> Frame:
    """Find what all wordings of a task begin and end with, cut at whole words.

    Only the templates count (`Sample.instruction`), never what rows have in common: a frame outlives
    the rows, and three questions about one document share the document. What a file's rows say
    themselves, each the same instruction or not, is theirs.
    """
    before = os.path.commonprefix([sample.instruction[0] for sample in samples])
    behind = [sample.instruction[1][::-1] for sample in samples]
    after = os.path.commonprefix(behind)[::-1]
    return Frame(_BROKEN_END.sub("", before).strip(), _BROKEN_START.sub("", after).strip())


def wrong_task(task: str, messages: Sequence[Message], frames: Mapping[str, Frame]) -> bool:
    """Whether a conversation is not one of its task: it has not its frame, or (where it has none) another task's."""
    own = frames[task]
    if own.telling:
        return not own.holds(messages)
    return any(frame.telling and frame.holds(messages) for name, frame in frames.items() if name != task)


def _question(messages: Sequence[Message]) -> str:
    return next(message.content for message in reversed(messages) if message.role == "user").strip()
