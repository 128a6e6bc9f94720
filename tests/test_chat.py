from dataclasses import replace
from typing import Any

import pytest
import tiny

from continual.chat import Chat
from continual.errors import ContinualError
from continual.sample import Message, Sample


def sample(*contents: str) -> Sample:
    roles = ["user", "assistant"] * len(contents)
    return Sample("t", tuple(Message(r, c) for r, c in zip(roles, contents, strict=False)))


def marked(chat: Chat, s: Sample) -> str:
    """The text of a sample with the tokens that bear answer loss in brackets."""
    e = chat.encode(s, 1000)
    out, inside = "", False
    for token, mine in zip(e.input_ids, e.answer, strict=True):
        if bool(mine) != inside:
            out, inside = out + ("[" if mine else "]"), bool(mine)
        out += chat.text([token])
    return out + ("]" if inside else "")


def test_template_marks_the_answer_and_its_end() -> None:
    chat = Chat(tiny.tokenizer(True))
    assert marked(chat, sample("a dog", "red")) == "<|user|>a dog<|end|><|assistant|>[red<|end|>]"


def test_plain_form_marks_the_answer_with_its_delimiter() -> None:
    chat = Chat(tiny.tokenizer())
    assert marked(chat, sample("a dog", "red")) == "User: a dog\nAI:[ red<|end|>]"


def test_every_assistant_turn_bears_loss() -> None:
    chat = Chat(tiny.tokenizer())
    text = marked(chat, sample("a", "b", "c", "d"))
    assert text == "User: a\nAI:[ b<|end|>]\nUser: c\nAI:[ d<|end|>]"


@pytest.mark.parametrize("template", [True, False])
def test_prompt_in_use_is_the_prompt_that_was_taught(template: bool) -> None:
    chat = Chat(tiny.tokenizer(template))
    s = sample("what colour is it", "red")
    taught = chat.encode(s, 1000)
    prompt = chat.prompt_ids(s.prompt, 1000)
    assert taught.input_ids[: len(prompt)] == prompt
    assert not any(taught.answer[: len(prompt)]) and all(taught.answer[len(prompt) :])


@pytest.mark.parametrize("template", [True, False])
def test_what_is_encoded_after_a_cue_parses_back(template: bool) -> None:
    chat = Chat(tiny.tokenizer(template))
    for s in (sample("what colour is it", "red"), sample("a", "b", "c d", "e"), sample("早安\ntwo lines", "good")):
        ids = chat.encode(s, 1000).input_ids
        assert ids[-1] == chat.end_id
        assert chat.parse(chat.text(ids[:-1])) == s.messages


@pytest.mark.parametrize(
    "text",
    ["", "User: a", "a\nAI: b", "User: a\nAI: b\nAI: c", "User: a User: b\nAI: c"],
)
def test_text_with_marks_out_of_place_does_not_parse(text: str) -> None:
    assert Chat(tiny.tokenizer()).parse(text) is None


def test_without_roles_nothing_can_be_parsed() -> None:
    chat = Chat(tiny.tokenizer(), "none")
    assert marked(chat, sample("a dog", "red")) == "a dog[ red<|end|>]"
    assert chat.parse("a dog red") is None


def test_too_long_a_sample_loses_the_middle_of_its_prompt_but_no_mark_and_no_answer() -> None:
    chat = Chat(tiny.tokenizer())
    e = chat.encode(sample("red " + "dog " * 50 + "cat", "red"), 24)
    text = chat.text(e.input_ids)
    assert e.truncated and len(e.input_ids) == 24
    assert text.startswith("User: red dog") and text.endswith("dog cat\nAI: red<|end|>")
    prompt = chat.prompt_ids(sample("red " + "dog " * 50 + "cat", "red").prompt, 22)
    assert prompt == chat.bos_ids + e.input_ids[: len(prompt) - len(chat.bos_ids)]


def test_a_prompt_that_is_cut_keeps_its_instruction_on_either_side() -> None:
    chat = Chat(tiny.tokenizer())
    question = "red blue red blue red " + "dog " * 50 + "cat red"
    s = replace(sample(question, "red"), instruction=("red blue red blue red ", " red"))
    text = chat.text(chat.encode(s, 28).input_ids)
    assert text.startswith("User: red blue red blue red dog") and text.endswith("dog cat red\nAI: red<|end|>")
    assert chat.text(chat.prompt_ids(s.prompt, 26, s.instruction)) == text.partition(" red<|end|>")[0]
    # Where the instruction alone is too long, it is cut too.
    short = chat.encode(s, 14)
    assert len(short.input_ids) == 14 and chat.text(short.input_ids).endswith("\nAI: red<|end|>")


def test_a_prompt_without_room_for_any_word_keeps_its_marks() -> None:
    chat = Chat(tiny.tokenizer())
    text = chat.text(chat.prompt_ids(sample("dog " * 50, "red").prompt, 1))
    assert text.startswith("User:") and text.endswith("\nAI:") and "dog" not in text


def test_a_tokenizer_without_end_is_refused() -> None:
    import copy

    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.eos_token = None
    with pytest.raises(ContinualError, match="no eos_token"):
        Chat(tokenizer)


def test_answer_text_ends_at_the_stop_token() -> None:
    chat = Chat(tiny.tokenizer())
    ids = chat.answer_ids("red") + [chat.end_id] + chat.answer_ids("blue")
    assert chat.answer_text(ids) == "red"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def special(template: str, *tokens: str) -> Any:
    import copy

    tokenizer = copy.deepcopy(tiny.tokenizer(True))
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = template
    return tokenizer


def test_chatml_ends_an_answer_with_its_mark_and_not_with_the_newline_after_it() -> None:
    chat = Chat(special(CHATML, "<|im_start|>", "<|im_end|>"))
    text = marked(chat, sample("a dog", "red"))
    assert text == "<|im_start|>user\na dog<|im_end|>\n<|im_start|>assistant\n[red<|im_end|>]\n"
    assert chat.stops_before_answer == 1
    assert chat.text(chat.cue_ids("t")) == "<|im_start|>system\nt<|im_end|>\n"


def test_blanks_that_a_tokenizer_puts_around_special_tokens_do_not_hinder_parsing() -> None:
    chat = Chat(special(CHATML, "<|im_start|>", "<|im_end|>"))
    text = "<|im_start|> user\na dog <|im_end|> \n<|im_start|>assistant\n red"
    assert chat.parse(text) == sample("a dog", "red").messages


def test_a_system_message_is_kept_apart_and_comes_back() -> None:
    chat = Chat(tiny.tokenizer())
    s = Sample("t", (Message("system", "be good"), *sample("a dog", "red").messages))
    assert marked(chat, s) == "System: be good\nUser: a dog\nAI:[ red<|end|>]"
    assert chat.parse("System: be good\nUser: a dog\nAI: red") == s.messages


def test_too_long_a_conversation_loses_its_oldest_turns_but_not_its_system_message() -> None:
    chat = Chat(tiny.tokenizer(True))
    s = Sample("t", (Message("system", "say"), *sample("dog " * 30, "red", "cat", "blue").messages))
    e = chat.encode(s, 30)
    assert e.truncated
    assert chat.text(e.input_ids) == "<|system|>say<|end|><|user|>cat<|end|><|assistant|>blue<|end|>"
