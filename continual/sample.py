"""A sample is a conversation: what a task gives, what a model is taught, what it rehearses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "document"]
"""A document is text by itself, with every mark in it, and the only message of its sample."""


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True)
class Sample:
    """One conversation of a task; its last message is the assistant's answer."""

    task: str
    messages: tuple[Message, ...]
    choices: tuple[str, ...] = ()
    """The label set, where the task has one."""
    references: tuple[str, ...] = ()
    """Every answer that counts as right, for scoring; at least the answer itself."""
    delimiter: str = " "
    """Stands before the answer in the plain form (lm-eval's ``target_delimiter``)."""
    instruction: tuple[str, str] = ("", "")
    """What its template says before and behind the row's own words: a prompt that is too long keeps it."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content


def label_set(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The choices that all samples share; empty where each has its own."""
    first = samples[0].choices
    return first if all(sample.choices == first for sample in samples) else ()
