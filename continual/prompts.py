"""Prompts as callers give them: texts, and conversations as message dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, cast, get_args

from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.sample import Message

PromptRole = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(PromptRole)


class MessageDict(TypedDict):
    """One message of a conversation, as OpenAI's API and chat templates take it."""

    role: PromptRole
    content: str


Prompt: TypeAlias = str | Sequence[Message | MessageDict]
"""A text, or a conversation that ends with the user."""


def as_prompts(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """List the prompts of a call; a single text or conversation is one prompt.

    Raises:
        TypeError: it is neither a prompt nor an iterable of prompts.
    """
    expected = "a text, a conversation (a list of messages), or a list of these is expected"
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Mapping | bytes) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts: {expected}, not {_kind(prompts)}")
    listed: list[Any] = list(prompts)
    return [listed] if listed and isinstance(listed[0], Message | Mapping) else listed


def as_conversation(prompt: Prompt, place: str = "prompt") -> tuple[Message, ...]:
    """Turn a prompt into messages; a text is a user's only one.

    Args:
        place: what error messages call the prompt, such as ``prompts[3]``.

    Raises:
        TypeError: it is no text, and no list of messages with texts in them.
        ContinualError: its roles are unknown, or not in the order of a conversation.
    """
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if isinstance(prompt, Mapping | bytes) or not isinstance(prompt, Sequence):
        expected = "a text or a list of messages is expected"
        raise TypeError(f"{place}: {expected}, not {_kind(prompt)}")
    messages = tuple(_message(message, f"{place}[{n}]") for n, message in enumerate(prompt))
    problem = order_problem([message.role for message in messages])
    if problem is not None:
        raise ContinualError(f"{place}: {problem}")
    return messages


def order_problem(roles: Sequence[str]) -> str | None:
    """What keeps some roles from being a conversation that waits for an answer, if anything."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    in_turn = all(role == ("user", "assistant")[n % 2] for n, role in enumerate(turns))
    if len(turns) % 2 == 1 and in_turn:
        return None
    rule = "a system message or none, then user and assistant in turn, a user last"
    shown = [*roles[:6], "…"] if len(roles) > 6 else roles
    return f"{rule}; here it is {', '.join(shown) or 'no message at all'}"


def _message(message: object, place: str) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        expected = "a message is a dictionary with role and content"
        raise TypeError(f"{place}: {expected}, not {_kind(message)}")
    for key in ("role", "content"):
        if key not in message:
            raise ContinualError(f"{place}: the message has no '{key}'{did_you_mean(key, message)}")
        if not isinstance(message[key], str):
            raise TypeError(f"{place}.{key}: a text is expected, not {_kind(message[key])}")
    role = message["role"]
    extra = [repr(key) for key in message if key not in ("role", "content")]
    if extra:
        raise ContinualError(f"{place}: {', '.join(extra)} of a message cannot be used here")
    if role not in ROLES:
        near = did_you_mean(role, ROLES)
        raise ContinualError(f"{place}.role: '{role}' is none of {', '.join(ROLES)}{near}")
    return Message(cast(PromptRole, role), message["content"])


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
