"""Prompts as callers give them: texts, and conversations as message dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict, cast, get_args

from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.sample import Message

PromptRole = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(PromptRole)


class MessageDict(TypedDict):
    """One message of a conversation, as OpenAI's API and chat templates take it."""

    role: PromptRole
    content: str | None
    """None only where an assistant calls tools and says nothing."""
    tool_calls: NotRequired[Sequence[Mapping[str, Any]]]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]


KEYS = tuple(MessageDict.__annotations__)

Prompt: TypeAlias = str | Sequence[Message | MessageDict]
"""A text, or a conversation that ends with the user or with the result of a tool."""


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
    problem = order_problem(messages)
    if problem is not None:
        raise ContinualError(f"{place}: {problem}")
    return messages


FOLLOWERS: dict[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "calls": ("tool",),
    "tool": ("tool", "assistant"),
}
"""The roles that may come after each; ``calls`` is an assistant that calls tools, the empty text the start."""


def order_problem(messages: Sequence[Message]) -> str | None:
    """What keeps some messages from being a conversation that waits for an answer, if anything."""
    before = ""
    for message in messages:
        if message.role not in FOLLOWERS[before]:
            break
        before = "calls" if message.tool_calls else message.role
    else:
        if before in ("user", "tool"):
            return None
    roles = [message.role for message in messages]
    shown = ", ".join([*roles[:6], "…"] if len(roles) > 6 else roles) or "no message at all"
    rule = "a system message or none, then user and assistant in turn, a user last"
    return f"{rule} (tools answer an assistant's calls); here it is {shown}"


def _message(message: object, place: str) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        expected = "a message is a dictionary with role and content"
        raise TypeError(f"{place}: {expected}, not {_kind(message)}")
    _check_keys(message, place)
    calls = message.get("tool_calls") or ()
    texts = {key: message.get(key) for key in ("role", "content", "name")}
    if texts["content"] is None and calls:
        texts["content"] = ""
    for key, text in texts.items():
        if not isinstance(text, str) and (key != "name" or text is not None):
            raise TypeError(f"{place}.{key}: a text is expected, not {_kind(text)}")
    role = cast(PromptRole, texts["role"])
    if role not in ROLES:
        near = did_you_mean(role, ROLES)
        raise ContinualError(f"{place}.role: '{role}' is none of {', '.join(ROLES)}{near}")
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise TypeError(f"{place}.tool_calls: a list of dictionaries is expected")
    return Message(role, cast(str, texts["content"]), tuple(calls), texts["name"])


def _check_keys(message: Mapping[Any, Any], place: str) -> None:
    for key in ("role", "content"):
        if key not in message:
            raise ContinualError(f"{place}: the message has no '{key}'{did_you_mean(key, message)}")
    extra = [str(key) for key in message if key not in KEYS]
    if extra:
        near = did_you_mean(extra[0], KEYS)
        raise ContinualError(f"{place}: a message has no '{extra[0]}'{near}")


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
