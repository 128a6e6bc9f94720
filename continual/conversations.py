"""Conversations of rows, in the forms that chat data come in: OpenAI, ShareGPT, Alpaca and TRL."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from continual.sample import Message, Role
from continual.wording import Row, Wording, WordingError, is_null

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_FOLLOWS: dict[str, tuple[str, ...]] = {
    "": ("user",),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
_TURN_KEYS = frozenset(("role", "content", "from", "value", "tool_calls", "tool_call_id", "name", "function_call"))


@dataclass(frozen=True)
class Conversation:
    """What a row says."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    """The functions on offer, as JSON schemas."""
    unread: frozenset[str]
    """Columns, and keys of turns, that have values which are not read."""


def conversation(row: Row, column: str | None) -> Conversation:
    """Read the conversation of a row.

    Args:
        column: the column that holds it; None: the usual columns of chat data, which are ``messages``,
            ``conversations`` (ShareGPT), ``prompt`` and ``completion`` (TRL), or ``instruction``,
            ``input``, ``output`` (Alpaca), each with ``system`` and ``tools``.

    Raises:
        WordingError: the row has none of these, or a turn that cannot be taught.
    """
    read, turns = _turns(row, column)
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise _error("a conversation should be a list of turns with role and content")
    messages = _messages(turns)
    read |= {"system", "tools"}
    messages = _with_system(messages, row.get("system"))
    _check_order(messages)
    keys = {key for turn in turns for key, value in turn.items() if not is_null(value)}
    unread = {f"{key} of a turn" for key in keys - _TURN_KEYS}
    if column is None:
        # Who names a column has looked at the others.
        unread |= {name for name, value in row.items() if name not in read and not is_null(value)}
    return Conversation(messages, _tools(row.get("tools")), frozenset(unread))


def _error(message: str) -> WordingError:
    return WordingError(message, "messages")


def _turns(row: Row, column: str | None) -> tuple[set[str], Sequence[Mapping[str, Any]]]:
    """The columns that are read, and the turns in them."""
    if column is not None:
        return {column}, _listed(Wording(column, "messages").value(row))
    for usual in ("messages", "conversations"):
        if usual in row:
            return {usual}, _listed(row[usual])
    if "chosen" in row or "rejected" in row:
        raise WordingError(
            "the rows are preferences (chosen, rejected), which are not read; to teach what was chosen, give "
            "doc_to_text and doc_to_target, or messages: chosen"
        )
    if "prompt" in row and "completion" in row:
        turns = [*_part(row, "prompt", "user"), *_part(row, "completion", "assistant")]
        return {"prompt", "completion"}, turns
    if "instruction" in row and "output" in row:
        return {"instruction", "input", "output", "history"}, _alpaca(row)
    raise WordingError(
        "give doc_to_text and doc_to_target, or messages: the rows have no messages, conversations, prompt and "
        f"completion, or instruction and output; the columns are: {', '.join(row)}"
    )


def _listed(value: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        # CSV holds a conversation as JSON.
        value = _json(value, "a conversation")
    if not isinstance(value, list | tuple):
        raise _error("a conversation should be a list of turns with role and content")
    return value


def _part(row: Row, column: str, role: str) -> Sequence[Mapping[str, Any]]:
    value = row[column]
    if is_null(value):
        raise WordingError(f"the column '{column}' is empty")
    return [{"role": role, "content": value}] if isinstance(value, str) else _listed(value)


def _alpaca(row: Row) -> list[Mapping[str, Any]]:
    for column in ("instruction", "output"):
        if is_null(row[column]):
            raise WordingError(f"the column '{column}' is empty")
    turns: list[Mapping[str, Any]] = []
    history: Any = row.get("history")
    for pair in [] if is_null(history) else history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise WordingError("history should be a list of pairs of a question and its answer")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    given = row.get("input")
    parts = (str(row["instruction"]), "" if is_null(given) else str(given))
    turns.append({"role": "user", "content": "\n\n".join(filter(None, parts))})
    return [*turns, {"role": "assistant", "content": str(row["output"])}]


def _with_system(messages: tuple[Message, ...], system: Any) -> tuple[Message, ...]:
    if is_null(system) or system == "":
        return messages
    if not isinstance(system, str):
        raise _error(f"the column 'system' should be text, is {system!r}")
    if messages[0].role != "system":
        return (Message("system", system), *messages)
    if messages[0].content != system:
        raise _error("the row has a system column and another system message in its conversation")
    return messages


def _messages(turns: Iterable[Mapping[str, Any]]) -> tuple[Message, ...]:
    names: dict[str, str] = {}
    messages = []
    for turn in turns:
        message = _message(turn, names)
        for call in turn.get("tool_calls") or ():
            if isinstance(call, Mapping) and "id" in call:
                names[call["id"]] = _call(call)["function"]["name"]
        messages.append(message)
    return tuple(messages)


def _message(turn: Mapping[str, Any], names: Mapping[str, str]) -> Message:
    """One turn; `names` are the functions that were called, by the ids of their calls."""
    share = "from" in turn
    role, content = (turn.get("from"), turn.get("value")) if share else (turn.get("role"), turn.get("content"))
    if role not in _ROLES:
        raise _error(f"the role {role!r} is none of {', '.join(_ROLES)}")
    if turn.get("weight") == 0:
        raise _error("a turn has weight 0; every assistant turn is taught")
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else ())
    if role == "function_call":
        called = _json(content, "a function_call") if isinstance(content, str) else content
        calls, content = (called if isinstance(called, list) else [called]), ""
    if content is None and calls:
        content = ""
    text = _text(content)
    if calls and _ROLES[role] != "assistant":
        raise _error(f"a turn of {role} calls tools; only the assistant does")
    name = turn.get("name") or names.get(turn.get("tool_call_id") or "")
    return Message(
        _ROLES[role],
        text,
        tuple(map(_call, calls)),
        name if _ROLES[role] == "tool" and isinstance(name, str) else None,
    )


def _text(content: Any) -> str:
    """The content of a turn; parts of type text are joined."""
    if isinstance(content, list | tuple):
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise _error(f"the content of a turn has a part of type {kind}; only text is read")
            texts.append(part["text"])
        return "".join(texts)
    if not isinstance(content, str):
        raise _error(f"the content of a turn should be text, is {content!r}")
    return content


def _call(call: Any) -> dict[str, Any]:
    """A function call as chat templates take it, whatever form it was stored in."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _error(f"a tool call should name a function, is {call!r:.80}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments, "the arguments of a tool call")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    if is_null(value) or value == "":
        return ()
    tools = _json(value, "tools") if isinstance(value, str) else value
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise _error("tools should be a list of functions")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _error(f"{what} should be JSON: {error.msg} in {text!r:.60}") from None


def _check_order(messages: Sequence[Message]) -> None:
    roles = [message.role for message in messages]
    before = ["", *roles]
    after = [*roles, "end"]
    fits = all(
        role in _FOLLOWS[last] or (role == "system" and last == "") for last, role in zip(before, roles, strict=False)
    )
    if not fits or roles[-1:] != ["assistant"]:
        raise _error(
            "a conversation should be user and assistant in turns (tool turns follow the assistant's), after at most "
            f"one system message, and end with the assistant's answer; here it is {', '.join(roles)}"
        )
    for message, following in zip(messages, after[1:], strict=True):
        if message.tool_calls and following != "tool":
            raise _error(
                "a tool call should be followed by the tool's result, and the conversation end with the "
                "assistant's words: an answer that is a call cannot be scored"
            )
