"""Any chat template natively: prompts, answers, cues and what is saved come out as the template renders them."""

from __future__ import annotations

import copy
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from continual.batch import Collate
from continual.chat import Chat
from continual.data import Rows
from continual.errors import ContinualError
from continual.guard import guard
from continual.sample import Message, Sample
from continual.stoptext import StopTexts

guard()

SPEC = importlib.util.find_spec("trl")
SHIPPED = sorted((Path(str(SPEC.origin)).parent / "chat_templates").glob("*.jinja")) if SPEC else []

MARK = re.compile(r"<[|｜/a-zA-Z_▁][^<>{}\s'\"]*>|\[/?[A-Z]+\]|\[gMASK\]")
NO_SYSTEM = {"gemma", "gemma_training"}
"""Refuse a system line, as transformers does."""
NO_END = {"glm4moe"}
"""Ends an answer only when the conversation goes on; the taught form ends the last one with the same mark."""

SYSTEM = Message("system", "be good")
ONE = (Message("user", "what colour is it?"), Message("assistant", "A red dog."))
TWO = (*ONE, Message("user", "and\n\nthe cat 早"), Message("assistant", "blue\nand red"))
CONVERSATIONS = {"one": ONE, "two": TWO, "one-system": (SYSTEM, *ONE), "two-system": (SYSTEM, *TWO)}


@cache
def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Two line breaks are one token, as in most vocabularies: many a template's prompt ends inside it.
    raw.train_from_iterator(["\n\n what colour is a red dog"] * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|eos|>", bos_token="<|bos|>"
    )


def tokenizer(template: str, **added: bool) -> Any:
    """A tokenizer with a template, all of whose marks are tokens of their own.

    Args:
        added: instead of all marks, these tokens, and whether each is special.
    """
    from tokenizers import AddedToken

    made = copy.deepcopy(byte_level())
    marks = added or dict.fromkeys(sorted(set(MARK.findall(template))), True)
    made.add_tokens(
        [AddedToken(mark, special=special, normalized=False) for mark, special in marks.items()]
    )
    made.chat_template = template
    return made


@cache
def shipped(path: Path) -> Chat:
    return Chat(tokenizer(path.read_text()))


def turns(chat: Chat, messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as they are handed to transformers: some templates want lists of parts."""
    rows = [message.to_dict() for message in messages]
    if chat.format._template.in_parts:  # type: ignore[attr-defined]
        for row in rows:
            row["content"] = [{"type": "text", "text": row["content"]}]
    return rows


def rendered(chat: Chat, messages: tuple[Message, ...], **how: Any) -> list[int]:
    ids = chat.tokenizer.apply_chat_template(
        turns(chat, messages), tokenize=True, return_dict=False, **how
    )
    return list(ids)


def supervised(chat: Chat, sample: Sample) -> str:
    row = chat.encode(sample, 9999)
    return chat.text([i for i, mine in zip(row.input_ids, row.answer, strict=True) if mine])


def marked(chat: Chat, *messages: Message) -> str:
    """The text of a conversation with the tokens that bear answer loss in brackets."""
    row = chat.encode(Sample("t", messages), 9999)
    out, inside = "", False
    for token, mine in zip(row.input_ids, row.answer, strict=True):
        if bool(mine) != inside:
            out, inside = out + ("[" if mine else "]"), bool(mine)
        out += chat.text([token])
    return out + ("]" if inside else "")


@pytest.mark.skipif(not SHIPPED, reason="needs TRL's chat templates")
def test_all_shipped_templates_are_there() -> None:
    assert len(SHIPPED) >= 72


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_template_is_taught_and_asked_as_transformers_renders_it(path: Path) -> None:
    chat = shipped(path)
    for messages in CONVERSATIONS.values():
        if path.stem in NO_SYSTEM and messages[0].role == "system":
            with pytest.raises(ContinualError, match="'be good': the chat template refuses"):
                chat.encode(Sample("t", messages), 9999)
            continue
        rows = chat.rows(Sample("t", messages))
        assert rows[-1].messages == messages
        for row in rows:
            encoded = chat.encode(row, 9999)
            ids = chat.bos_ids + encoded.input_ids
            assert ids == rendered(chat, row.messages) + (
                chat.end_ids if path.stem in NO_END else []
            )
            assert ids == rendered(chat, row.messages, chat_template=chat.format.template)
            # What is asked is the beginning of what was taught, and what the saved template asks.
            prompt = chat.prompt_ids(row.prompt, 9999)
            assert ids[: len(prompt)] == prompt
            asked = rendered(
                chat, row.prompt, add_generation_prompt=True, chat_template=chat.format.template
            )
            assert chat.text(prompt) == chat.text(asked)
            answers = [m.content for m in row.messages if m.role == "assistant"]
            taught = answers if len(rows) == 1 else answers[-1:]
            end = chat.marks.end
            assert supervised(chat, row) == "".join(
                chat.marks.opening + answer + end for answer in taught
            )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_written_after_a_cue_is_read_and_encoded_again(path: Path) -> None:
    chat = shipped(path)
    for messages in (ONE, TWO):
        sample = Sample("t", messages)
        row = chat.encode(sample, 9999)
        text = chat.text(row.input_ids[row.lead :])
        read = chat.parse(text[: text.rfind(chat.marks.end)])
        assert read == messages
        again = chat.encode(Sample("t", read), 9999)
        assert (again.input_ids, again.answer, again.lead) == (row.input_ids, row.answer, row.lead)
        # The cued row ends like the bare one, and its cue stands where a system line would.
        collate = Collate(chat.bos_ids, {0: chat.cue_ids("sst")}, 0)
        cued = {
            **Rows([row])[0],
            "targets_task_labels": 0,
            "rehearsed": 0,
            "cue_key": 0,
            "cue": True,
        }
        x, _, _ = collate([cued])
        said = chat.text(x.input_ids[0].tolist())
        assert said.endswith(text) and "sst" in said[: -len(text)]
        assert said.count("sst") == 1 and said.count(messages[0].content) == 1


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n{% elif m['role'] == 'user' %}"
    "### Instruction:\n{{ m['content'] }}\n\n{% else %}### Response:\n{{ m['content'] }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
LLAMA = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ALL = {"<|im_start|>": True, "<|im_end|>": True}
TURNS = (
    Message("user", "a"),
    Message("assistant", "red"),
    Message("user", "what"),
    Message("assistant", "dog"),
)
CHATML_TURNS = (
    "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[red<|im_end|>]\n"
    "<|im_start|>user\nwhat<|im_end|>\n<|im_start|>assistant\n[dog<|im_end|>]\n"
)


@pytest.mark.parametrize("special", [True, False])
def test_a_turn_ends_with_its_own_token_where_the_eos_is_another(special: bool) -> None:
    chat = Chat(tokenizer(CHATML, **{"<|im_start|>": special, "<|im_end|>": special}))
    assert marked(chat, *TURNS) == CHATML_TURNS
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.stop_ids == (end, chat.tokenizer.eos_token_id) and chat.stop_texts == ()
    text = CHATML_TURNS.replace("[", "").replace("]", "").removesuffix("<|im_end|>\n")
    assert chat.parse(text) == TURNS


def test_a_turn_end_of_plain_text_is_taught_and_stops_decoding() -> None:
    chat = Chat(tokenizer(CHATML, **{"<|x|>": True}))
    assert marked(chat, *TURNS) == CHATML_TURNS
    assert chat.stop_texts == ("<|im_end|>",) and chat.stop_ids == (chat.tokenizer.eos_token_id,)
    assert chat.stops_before_answer == 1
    ids = chat.format.answer_ids("red<|im_end|>", "")
    assert chat.answer_text([*ids, *ids]) == "red"
    assert chat.text_before_end(ids, finished=True) == "red"


def test_other_marks_with_another_eos_end_with_the_template_s_own() -> None:
    chat = Chat(tokenizer(LLAMA))
    head = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
    texts = [
        head.format("user", "a"),
        head.format("assistant", "[red").replace("<|eot_id|>", "<|eot_id|>]"),
    ]
    assert marked(chat, *TURNS[:2]) == "".join(texts)


def test_an_alpaca_answer_without_an_end_is_given_the_eos_in_each_turn_as_it_is_asked() -> None:
    chat = Chat(tokenizer(ALPACA, **{"<|x|>": True}))
    rows = chat.rows(Sample("t", TURNS))
    assert [len(row.messages) for row in rows] == [2, 4]
    assert (
        marked(chat, *rows[0].messages) == "### Instruction:\na\n\n### Response:\n[red\n\n<|eos|>]"
    )
    assert marked(chat, *TURNS).endswith(
        "red\n\n### Instruction:\nwhat\n\n### Response:\n[dog\n\n<|eos|>]"
    )
    # A model that has not learned the end goes on with the next question.
    assert chat.stop_texts == ("### Instruction:",)
    assert chat.answer_text(chat.format.answer_ids("red\n\n### Instruction:\nwhat", "")) == "red"


def test_decoding_stops_at_a_text_only_where_the_answer_ends() -> None:
    chat = Chat(tokenizer(CHATML, **{"<|x|>": True}))
    ids = chat.encode(Sample("t", TURNS[:2]), 9999).input_ids
    stops = StopTexts(chat.text)
    written = [
        stops.end(chat.stop_texts, ids[:n], chat.stops_before_answer)
        for n in range(1, len(ids) + 1)
    ]
    first = written.index(True)
    assert chat.text_before_end(ids[: first + 1], finished=True).endswith("assistant\nred")


def test_a_default_system_line_is_kept_and_gives_its_place_to_a_cue() -> None:
    template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
        + CHATML
    )
    chat = Chat(tokenizer(template, **ALL))
    row = chat.encode(Sample("t", TURNS[:2]), 9999)
    assert chat.text(row.input_ids).startswith(
        "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\na"
    )
    cued = chat.text(chat.cue_ids("sst") + row.input_ids[row.lead :])
    assert cued.startswith("<|im_start|>system\nsst<|im_end|>\n<|im_start|>user\na<|im_end|>")
    # A row's own system line is its own words, and stays behind the cue.
    own = chat.encode(Sample("t", (SYSTEM, *TURNS[:2])), 9999)
    assert own.lead == 0
    assert chat.parse(chat.text(own.input_ids).removesuffix("<|im_end|>\n")) == (SYSTEM, *TURNS[:2])


def test_without_a_system_role_the_cue_stands_first_in_the_user_s_turn() -> None:
    template = "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + CHATML
    chat = Chat(tokenizer(template, **ALL))
    row = chat.encode(Sample("t", TURNS[:2]), 9999)
    cued = chat.text(chat.cue_ids("sst") + row.input_ids[row.lead :])
    assert cued.startswith("<|im_start|>user\nsst\n\na<|im_end|>")
    with pytest.raises(ContinualError, match="no system"):
        chat.prompt_ids((SYSTEM, TURNS[0]), 99)


def test_a_template_that_rewrites_earlier_answers_is_taught_one_answer_a_row() -> None:
    thinking = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
    )
    chat = Chat(tokenizer(thinking, **ALL, **{"<think>": False, "</think>": False}))
    rows = chat.rows(Sample("t", TURNS, references=("dog", "hound")))
    assert [row.answer for row in rows] == ["red", "dog"]
    assert marked(chat, *rows[0].messages).endswith(
        "assistant\n[<think>\n\n</think>\n\nred<|im_end|>]\n"
    )
    whole = marked(chat, *rows[1].messages)
    assert "assistant\nred<|im_end|>" in whole and whole.count("[") == 1
    assert rows[1].references == ("dog", "hound")
    # What stands before an answer's own words is no part of the answer, nor of its length; a task
    # whose answers end with a line does not end in it.
    written = chat.tokenizer("<think>\n\n</think>\n\nred\n").input_ids
    stops = StopTexts(chat.words_so_far)
    assert [stops.end(["\n"], written[:n]) for n in range(1, len(written) + 1)].index(True) == len(written) - 1
    assert chat.opening_tokens == len(chat.tokenizer("<think>\n\n</think>\n\n0").input_ids) - 1
    assert chat.answer_text(chat.answer_ids("red")) == "red"
    prompt = chat.prompt_ids(TURNS[:1], 99)
    taught = chat.bos_ids + chat.encode(rows[0], 99).input_ids
    assert taught[: len(prompt)] + chat.answer_ids("red") == taught[:-2]


def test_a_written_answer_that_the_template_would_not_write_so_is_not_read() -> None:
    thinking = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' %}{% if '</think>' not in m['content'] %}<think></think>{% endif %}"
        "{% endif %}{{ m['content'] }}",
    ).replace("assistant\n{% endif %}", "assistant\n<think></think>{% endif %}")
    chat = Chat(tokenizer(thinking, **ALL, **{"<think>": False, "</think>": False}))
    head = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert chat.parse(head + "<think></think>red") == TURNS[:2]
    assert chat.parse(head + "a thought </think>red") is None
    with pytest.raises(ContinualError, match="writes an answer otherwise than its prompt begins it"):
        chat.encode(Sample("t", (TURNS[0], Message("assistant", "a thought </think>red"))), 99)


def test_a_thought_before_an_answer_is_kept_where_the_base_s_own_words_are_learned() -> None:
    thinking = CHATML.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' and '</think>' not in m['content'] %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}",
    )
    chat = Chat(tokenizer(thinking, **ALL, **{"<think>": False, "</think>": False}))
    ids = chat.tokenizer("<think>\na dog\n</think>\n\nred<|im_end|>").input_ids
    assert chat.answer_text(ids) == "red"
    assert chat.answer_text(ids, thoughts=True) == "<think>\na dog\n</think>\n\nred"
    empty = chat.tokenizer("<think>\n\n</think>\n\nred<|im_end|>").input_ids
    assert chat.answer_text(empty, thoughts=True) == "red"


def test_a_prompt_that_no_answer_goes_on_from_is_mended_and_saved_so(tmp_path: Path) -> None:
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    chat = Chat(tokenizer(template, **ALL, **{"<think>": False}))
    assert chat.text(chat.prompt_ids(TURNS[:1], 99)).endswith("<|im_start|>assistant\n")
    chat.save_tokenizer(tmp_path)
    assert chat.tokenizer.chat_template == template
    again = Chat(_loaded(tmp_path))
    assert again.prompt_ids(TURNS[:1], 99) == chat.prompt_ids(TURNS[:1], 99)
    assert again.format.template == chat.format.template


def _loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("roles", ["auto", "plain", "none"])
@pytest.mark.parametrize("template", [None, CHATML, LLAMA, ALPACA])
def test_the_saved_folder_s_template_renders_what_was_taught(
    roles: Any, template: str | None, tmp_path: Path
) -> None:
    own = tokenizer(template or "")
    own.chat_template = template
    chat = Chat(own, roles)
    chat.save_tokenizer(tmp_path)
    saved = _loaded(tmp_path)
    for messages in CONVERSATIONS.values():
        for row in chat.rows(Sample("t", messages)):
            dicts = [message.to_dict() for message in row.messages]
            ids = saved.apply_chat_template(dicts, tokenize=True, return_dict=False)
            assert saved.decode(ids) == chat.text(chat.bos_ids + chat.encode(row, 9999).input_ids)
            asked = saved.apply_chat_template(
                dicts[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
            )
            assert saved.decode(asked) == chat.text(chat.prompt_ids(row.prompt, 9999))


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}},
}
WITH_TOOLS = (
    Message("user", "1 + 1"),
    Message("assistant", "", (CALL,)),
    Message("tool", "it is 2", name="add"),
    Message("assistant", "two"),
)


TOOLLESS = {
    *"cohere cohere2 deepseek_r1_distill deepseekv3 gemma gemma3 idefics3 lfm2 llama3".split(),
    *"llava_next phi3 phi3_5 qwen2_5_vl smolvlm".split(),
}
"""Have no place for tools, or for calls whose arguments are given as a mapping."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_template_writes_tools_or_refuses_their_rows(path: Path) -> None:
    chat, sample = shipped(path), Sample("sums", WITH_TOOLS, tools=(TOOL,))
    name = path.stem.removesuffix("_training")
    if name in TOOLLESS and path.stem != "deepseekv3_training":
        with pytest.raises(ContinualError, match="sums: the row that begins '1 . 1': the chat template"):
            chat.encode(sample, 9999)
        return
    taught = ""
    for row in chat.rows(sample):
        how = {"tools": [TOOL], "chat_template": chat.format.template}
        assert chat.bos_ids + chat.encode(row, 9999).input_ids == rendered(chat, row.messages, **how)
        taught += supervised(chat, row)
    assert "add" in taught and taught.endswith(f"two{chat.marks.end}") and "it is 2" not in taught


def test_tool_turns_are_written_as_the_template_does_and_only_calls_bear_loss() -> None:
    template = (
        "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        + CHATML.replace(
            "{{ m['content'] }}",
            "{{ m['content'] }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}",
        )
    )
    chat = Chat(tokenizer(template, **ALL))
    sample = Sample("t", WITH_TOOLS, tools=(TOOL,))
    row = chat.encode(sample, 9999)
    assert row.input_ids == chat.tokenizer.apply_chat_template(
        [m.to_dict() for m in WITH_TOOLS], tools=[TOOL], tokenize=True, return_dict=False
    )
    text = marked(chat, *WITH_TOOLS)
    assert (
        '[[{"type": "function"' in text
        and "tool\nit is 2<|im_end|>" in text
        and text.count("[") == 3
    )
    prompt = chat.prompt_ids(sample.prompt, 9999, tools=sample.tools)
    assert row.input_ids[: len(prompt)] == prompt


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML, "leaves out the function 'add'"),
        (CHATML.replace("m in messages", "m in messages if m['role'] != 'tool'"), "words of a tool turn"),
        (None, "plain form has no place for tool"),
    ],
)
def test_a_form_without_tools_refuses_their_rows_by_name(template: str | None, reason: str) -> None:
    own = tokenizer(CHATML)
    own.chat_template = template
    with pytest.raises(ContinualError, match=f"sums: the row that begins '1 . 1': .*{reason}"):
        Chat(own).encode(Sample("sums", WITH_TOOLS), 9999)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('pictures only') }}", "pictures only"),
        (CHATML.replace("m['content']", "m['content'] | upper | lower"), "changes the words"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "puts no mark between"),
        ({"rag": CHATML}, "none of its templates is called default; there is rag"),
    ],
)
def test_a_template_that_cannot_be_taught_is_refused_with_its_reason(
    template: Any, reason: str
) -> None:
    own = tokenizer(CHATML)
    own.chat_template = template
    with pytest.raises(ContinualError, match=f"roles: .* cannot be used: .*{reason}.*roles: plain"):
        Chat(own)
    assert Chat(own, "plain").marks.user_head == "User: "


def test_a_prompt_that_is_too_long_keeps_the_template_s_marks_and_the_instruction() -> None:
    chat = Chat(tokenizer(CHATML, **ALL))
    question = "what colour is: " + "dog " * 60 + "red?"
    sample = Sample(
        "t",
        (Message("user", question), Message("assistant", "red")),
        (),
        (),
        " ",
        ("what colour is: ", " red?"),
    )
    row = chat.encode(sample, 40)
    text = chat.text(row.input_ids)
    assert len(row.input_ids) == 40 and row.truncated
    assert text.startswith("<|im_start|>user\nwhat colour is: dog")
    assert text.endswith("dog red?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n")
    prompt = chat.prompt_ids(sample.prompt, 37, sample.instruction)
    assert prompt == row.input_ids[:37]
    talk = Sample("t", (SYSTEM, Message("user", "dog " * 30), TURNS[1], *TURNS[2:]))
    assert chat.text(chat.encode(talk, 40).input_ids) == (
        "<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\nwhat<|im_end|>\n"
        "<|im_start|>assistant\ndog<|im_end|>\n"
    )


def test_answers_are_asked_to_stop_at_the_end_text_of_their_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from continual import evaluate
    from continual.request import Output

    chat = Chat(tokenizer(CHATML, **{"<|x|>": True}))
    asked: list[Any] = []

    class Recorded:
        def __init__(self, *args: Any, **more: Any) -> None:
            self.text = more["text"]

        def generate(self, prompts: Any, limit: int, until: tuple[str, ...]) -> list[Output]:
            asked.append(until)
            said = chat.format.answer_ids("red<|im_end|>", "")
            return [Output(tuple(said), True) for _ in prompts]

    monkeypatch.setattr(evaluate, "Decoder", Recorded)
    how: dict[str, Any] = {
        "multiple_choice": False,
        "max_new_tokens": 8,
        "until": ["\n"],
        "max_length": 99,
    }
    samples = [Sample("t", TURNS[:2], (), ("red",))]
    exam = evaluate.prepare("t", "exact_match", samples, chat, **how)
    assert evaluate.take(exam, None, chat, 999).predictions == ["red"]
    assert asked == [("\n", "<|im_end|>")]
