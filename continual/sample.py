"""A sample is a conversation: what a task gives, what a model is taught, what it rehearses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool", "document"]
"""A document is text by itself, with every mark in it, and the only message of its sample."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """The functions that an assistant calls, as chat templates take them:
    ``{"type": "function", "function": {"name": ..., "arguments": {...}}}``."""
    name: str | None = None
    """The function that a tool's turn is the result of."""

    def to_dict(self) -> dict[str, Any]:
        """Return the turn as a chat template takes it; keys without a value are left out."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.name is not None:
            turn["name"] = self.name
        return turn

    @classmethod
    def from_dict(cls, turn: Mapping[str, Any]) -> "Message":
        """Read what `to_dict` wrote."""
        return cls(turn["role"], turn["content"], tuple(turn.get("tool_calls", ())), turn.get("name"))

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that the turn says, for fixed hashes of rows."""
        calls = tuple(json.dumps(call, sort_keys=True) for call in self.tool_calls)
        return (self.role, self.content, *calls, *([self.name] if self.name is not None else []))


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
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """The functions that may be called, as JSON schemas, which the chat template writes into the prompt."""
    # Not in the fingerprint of the rows: it changes none of their words.
    dialogue: str = field(default="", repr=False)
    """Names the dialogue of which this is a turn, where the data says so."""

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
