"""What may be given as a prompt: a text, a conversation, or several of either; never letters by accident."""

from typing import Any

import pytest

from continual.errors import ContinualError
from continual.prompts import as_conversation, as_prompts, order_problem
from continual.sample import Message

HI = {"role": "user", "content": "hi"}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}],
}


@pytest.mark.parametrize(
    "prompts", ["Correct: he go", [HI], (HI,), [Message("user", "hi")], [{"role": "system", "content": "s"}, HI]]
)
def test_a_single_prompt_is_a_list_of_one(prompts: Any) -> None:
    listed = as_prompts(prompts)
    assert len(listed) == 1
    assert as_conversation(listed[0]) == as_conversation(prompts)


@pytest.mark.parametrize("several", [["a", "b"], ("a", "b"), [[HI], "b"], {"a": 1, "b": 2}.keys(), iter("ab")])
def test_any_iterable_of_prompts_is_several(several: Any) -> None:
    assert len(as_prompts(several)) == 2


def test_no_prompts_are_none() -> None:
    assert as_prompts([]) == []


def test_message_dictionaries_become_messages_in_order() -> None:
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = as_conversation([{"role": role, "content": content} for role, content in turns])  # type: ignore[misc]
    assert [(message.role, message.content) for message in messages] == turns


@pytest.mark.parametrize(
    ("prompts", "error"),
    [
        (None, "prompts: .* not None"),
        (3, "prompts: .* not int"),
        (b"hi", "prompts: .* not bytes"),
        (HI, "prompts: .* not dict"),
        ([3], r"prompts\[0\]: a text or a list of messages is expected, not int"),
        (["a", None], r"prompts\[1\]: .* not None"),
        (["a", HI], r"prompts\[1\]: .* not dict"),
        ([["hi"]], r"prompts\[0\]\[0\]: a message is a dictionary with role and content, not str"),
        ([[{"role": "user", "content": None}]], r"prompts\[0\]\[0\].content: a text is expected, not None"),
        ([[{"role": "user", "content": [{"type": "text", "text": "a"}]}]], r"\.content: a text is expected, not list"),
        ([[{"role": 1, "content": "a"}]], r"\.role: a text is expected, not int"),
    ],
)
def test_wrong_types_are_refused_in_one_line_that_names_the_place(prompts: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error) as raised:
        [as_conversation(prompt, f"prompts[{n}]") for n, prompt in enumerate(as_prompts(prompts))]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("conversation", "error"),
    [
        ([], "here it is no message at all"),
        ([{"role": "assistant", "content": "a"}], "a user last .*; here it is assistant"),
        ([HI, HI], "user and assistant in turn"),
        ([HI, {"role": "system", "content": "s"}, HI], "a system message or none, then"),
        ([{"role": "usr", "content": "a"}], r"prompt\[0\].role: 'usr' is none of .*; did you mean 'user'"),
        ([{"rol": "user", "content": "a"}], r"prompt\[0\]: the message has no 'role'; did you mean 'rol'"),
        ([{**HI, "images": []}], "a message has no 'images'"),
        ([HI, {"role": "tool", "content": "4"}], "tools answer an assistant's calls"),
        ([HI, CALLS], "here it is user, assistant"),
        ([HI, CALLS, HI], "tools answer an assistant's calls"),
    ],
)
def test_what_is_no_conversation_is_refused_with_the_rule(conversation: Any, error: str) -> None:
    with pytest.raises(ContinualError, match=error) as raised:
        as_conversation(conversation)
    assert "\n" not in str(raised.value)


def test_a_long_list_of_wrong_roles_is_not_repeated_whole() -> None:
    assert len(str(order_problem([Message("user", "a")] * 100_000))) < 200


def test_the_result_of_a_tool_waits_for_an_answer_and_keeps_what_was_called() -> None:
    result = {"role": "tool", "content": "4", "name": "add", "tool_call_id": "1"}
    messages = as_conversation([HI, CALLS, result, result])  # type: ignore[list-item]
    assert messages[1] == Message("assistant", "", tuple(CALLS["tool_calls"]))  # type: ignore[arg-type]
    assert messages[2] == Message("tool", "4", name="add")
