"""What every prompt of a task begins and ends with: its instruction, by which a sample of another task is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from continual.sample import Message, Sample

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
    """The common beginning and end of the prompts of a task, cut at whole words."""
    questions = [_question(sample.messages) for sample in samples]
    before = os.path.commonprefix(questions)
    if before != questions[0]:
        before = before[: max(before.rfind(" "), before.rfind("\n")) + 1]
    after = os.path.commonprefix([question[::-1] for question in questions])[::-1]
    if after != questions[0]:
        cut = min((at for at in (after.find(" "), after.find("\n")) if at >= 0), default=len(after))
        after = after[cut:].lstrip()
    return Frame(before.strip(), after.strip())


def wrong_task(task: str, messages: Sequence[Message], frames: Mapping[str, Frame]) -> bool:
    """Whether a conversation is not one of its task: it has not its frame, or (where it has none) another task's."""
    own = frames[task]
    if own.telling:
        return not own.holds(messages)
    return any(frame.telling and frame.holds(messages) for name, frame in frames.items() if name != task)


def _question(messages: Sequence[Message]) -> str:
    return next(message.content for message in reversed(messages) if message.role == "user").strip()
