"""Samples whose instruction is put in, not written.

What all prompts of a task have in common is known (`Frame`), so that a model need not hit it word for word: it goes on
from the beginning of its task's prompts, what it wrote is cut to its room, the end of the prompts follows, and the
model answers. Of a weak model, or of a task with long prompts, this makes samples where bare cues make next to none.
"""

from __future__ import annotations

from collections.abc import Sequence

from continual.chat import Chat
from continual.rehearse.check import Draft
from continual.rehearse.frame import Frame
from continual.sample import Message

ANSWER_SHARE = 4
"""An answer without labels gets one part in so many of a sample's tokens."""


def opening(chat: Chat, frame: Frame) -> list[int]:
    """The ids that a draft of a task begins with; none where its prompts begin differently."""
    return chat.opening_ids(frame.before) if frame.before else []


def is_whole(draft: Draft, frame: Frame) -> bool:
    """Whether the model wrote the frame by itself, and an answer."""
    return draft.finished and draft.messages is not None and frame.holds(draft.messages)


def question_of(chat: Chat, draft: Draft, frame: Frame, labels: Sequence[str], most: int) -> Message:
    """What a draft asks, in its task's frame.

    Args:
        most: tokens of the sample, with its answer.
    """
    inside = frame.inside(chat.question(draft.text))
    empty = len(chat.prompt_ids([Message("user", _joined(frame, ""))], most))
    answer = max((len(chat.answer_ids(label)) for label in labels), default=most // ANSWER_SHARE)
    room = max(1, most - empty - answer - 1)
    return Message("user", _joined(frame, chat.first_tokens(inside, room)))


def _joined(frame: Frame, inside: str) -> str:
    """What stands in a frame, with a blank before it and a new line behind it, as in most tasks."""
    begun = f"{frame.before} {inside}".strip()
    return f"{begun}\n{frame.after}".strip()
