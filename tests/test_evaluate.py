"""Exams: what is asked, how answers are read, what is written down."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach

from continual import evaluate
from continual.chat import Chat
from continual.decode import Decoder
from continual.evaluate import cut, prepare, take, write_predictions
from continual.material import gather
from continual.request import Output
from continual.sample import Message, Sample
from continual.task import find_task


def sample(question: str, answer: str, choices: tuple[str, ...] = (), references: tuple[str, ...] = ()) -> Sample:
    messages = (Message("user", question), Message("assistant", answer))
    return Sample("t", messages, choices, references or (answer,))


def exam(chat: Chat, samples: list[Sample], **more: Any) -> evaluate.Exam:
    settings: dict[str, Any] = {"multiple_choice": False, "max_new_tokens": 6, "until": (), "max_length": 64}
    return prepare("t", "exact_match", samples, chat, **{**settings, **more})


def shaken() -> Any:
    """A model in which a prompt decides what follows."""
    model = tiny.model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator))
    return model


class Says:
    """Stands in for the decoder: says one text to everyone, and counts nothing else."""

    text = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def generate(self, prompts: list[list[int]], most: int, until: tuple[str, ...]) -> list[Output]:
        ids = tuple(tiny.tokenizer().encode(self.text))
        return [Output((*ids, 1), True)] * len(prompts)


def test_choices_are_picked_by_their_likelihood_not_by_what_is_written() -> None:
    chat, model = Chat(tiny.tokenizer()), shaken()
    choices = ("red dog", "red", "big cat", "big", "good", "a bad cat", "blue")
    questions = ("dog", "cat", "what is it", "small bad", "likes", "what colour", "say it")
    samples = [sample(question, "red", choices) for question in questions]
    result = take(exam(chat, samples, multiple_choice=True), model, chat, 512)
    for one, predicted in zip(samples, result.predictions, strict=True):
        prompt, told = chat.prompt_ids(one.prompt, 64), []
        for choice in choices:
            ids = torch.tensor([[*prompt, *chat.answer_ids(choice), chat.end_id]])
            with torch.no_grad():
                log = model(input_ids=ids).logits[0].log_softmax(-1)
            told.append(sum(float(log[i - 1, ids[0, i]]) for i in range(len(prompt), ids.shape[1])))
        assert predicted == choices[told.index(max(told))]
    assert len(set(result.predictions)) > 1
    assert result.generated_tokens == 0


def test_written_answers_are_cut_and_compared_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "Decoder", Says)
    monkeypatch.setattr(Says, "text", " red\nUser: more")
    chat = Chat(tiny.tokenizer())
    samples = [sample("dog", "red"), sample("cat", "blue"), sample("cow", "x", references=("x", "red"))]
    result = take(exam(chat, samples, until=("\n",)), None, chat, 512)
    assert result.predictions == ["red"] * 3 and result.row_scores == [1.0, 0.0, 1.0]
    assert result.score == pytest.approx(2 / 3)
    assert result.interval[0] <= result.score <= result.interval[1]
    assert result.generated_tokens == 3 * len([*tiny.tokenizer().encode(Says.text), 1])
    uncut = take(exam(chat, samples), None, chat, 512)
    assert uncut.predictions == ["red\nUser: more"] * 3 and uncut.score == 0


def test_what_comes_after_a_stop_text_is_not_written() -> None:
    chat, model = Chat(tiny.tokenizer()), shaken()
    samples = [sample(question, "red") for question in ("dog", "cat", "what is it", "small bad", "likes")]
    free = take(exam(chat, samples), model, chat, 512)
    until = next(text for text in free.predictions if len(text) > 5)[3:5]
    cut_short = take(exam(chat, samples, until=(until,)), model, chat, 512)
    assert cut_short.predictions == [cut(text, [until]) for text in free.predictions]
    assert cut_short.generated_tokens < free.generated_tokens


@pytest.mark.parametrize(
    ("until", "left"),
    [((), "a b; c\nd"), (("\n",), "a b; c"), (("\n", ";"), "a b"), ((";", "\n"), "a b"), (("zzz",), "a b; c\nd")],
)
def test_an_answer_ends_at_the_first_of_its_stop_texts(until: tuple[str, ...], left: str) -> None:
    assert cut(" a b; c\nd ", until) == left


def test_a_choice_loses_to_a_likelier_one_that_begins_with_it() -> None:
    """A model that says "red" in nine of ten answers, and then goes on to "red dog" in two thirds of them."""
    chat = Chat(tiny.tokenizer())
    choices = ("red", "red dog", "blue")
    chances = {"red": 0.3, "red dog": 0.6, "blue": 0.1}

    class Counts(Says):
        def choice_logprobs(self, prompts: Any, answers: list[list[list[int]]]) -> list[list[float]]:
            # A beginning is as likely as all that begin with it; only with its end is it an answer by itself.
            said = {chat.text([*chat.answer_ids(one), chat.end_id]): chance for one, chance in chances.items()}
            texts = [[chat.text(ids) for ids in row] for row in answers]

            def chance(text: str) -> float:
                return sum(p for answer, p in said.items() if answer.startswith(text))

            return [[math.log(chance(text)) for text in row] for row in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "Decoder", Counts)
        picked = take(exam(chat, [sample("what", "red dog", choices)], multiple_choice=True), None, chat, 512)
    assert picked.predictions == ["red dog"]


def test_too_long_a_prompt_loses_its_middle_and_leaves_room_for_the_answer() -> None:
    chat = Chat(tiny.tokenizer())
    long, short = sample("dog " * 80 + "cat", "red"), sample("cow", "red")
    prompts = exam(chat, [long, short], max_length=30, max_new_tokens=6).prompts
    assert len(prompts[0]) == 24 and len(prompts[1]) < 24
    assert chat.text(prompts[0]).startswith("User: ") and chat.text(prompts[0]).endswith("dog cat\nAI:")
    fixed = "red blue " * 4
    told = replace(sample(fixed + "dog " * 80, "red"), instruction=(fixed, ""))
    (kept,) = exam(chat, [told], max_length=28, max_new_tokens=6).prompts
    assert len(kept) == 22 and chat.text(kept).startswith(f"User: {fixed}do")
    choices = ("red", "blue dog likes small cat")
    longest = max(len(chat.answer_ids(choice)) for choice in choices)
    picked = exam(chat, [replace(long, choices=choices)], max_length=30, multiple_choice=True).prompts
    assert len(picked[0]) == 30 - longest - len([chat.end_id])


def test_predictions_are_written_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "Decoder", Says)
    monkeypatch.setattr(Says, "text", "早安")
    chat = Chat(tiny.tokenizer())
    talk = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "dog"), Message("assistant", "早安"))
    test = exam(chat, [sample("cat", "blue", references=("blue", "red")), Sample("t", talk, (), ("早安",))])
    write_predictions(tmp_path / "p" / "1-t.jsonl", test, take(test, None, chat, 512))
    turns = [{"role": turn.role, "content": turn.content} for turn in talk[:-1]]
    text = (tmp_path / "p" / "1-t.jsonl").read_text(encoding="utf-8")
    assert "早安" in text  # for people to read
    assert [json.loads(line) for line in text.splitlines()] == [
        {"prompt": "cat", "prediction": "早安", "references": ["blue", "red"], "score": 0.0},
        {"prompt": turns, "prediction": "早安", "references": ["早安"], "score": 1.0},
    ]


def test_a_limit_takes_the_same_test_rows_for_every_seed(world: Path) -> None:
    tasks = {name: find_task(name, [world / "tasks"]) for name in ("sound", "legs")}

    def rows(limit: int | None, seed: int) -> list[str]:
        material = gather(recipe(world, evaluate={"limit": limit}), tasks, seed, None)
        return [s.messages[0].content for s in material.exams["sound"].samples]

    everything, some = rows(None, 0), rows(5, 0)
    assert rows(5, 7) == some and len(some) == 5 < len(everything)
    assert some == [row for row in everything if row in some]  # in the order of the file
    assert rows(4, 3) == [row for row in some if row in rows(4, 3)]  # a smaller exam is a part of a larger one


def test_no_prompt_carries_a_cue_in_any_arm(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[list[list[int]]]] = {"exam": [], "rehearsal": []}
    generate = Decoder.generate

    def noted(self: Any, prompts: Any, most: Any, *sampling: Any, **until: Any) -> list[Output]:
        asked["rehearsal" if sampling else "exam"].append([list(p) for p in prompts])
        return generate(self, prompts, most, *sampling, **until)

    monkeypatch.setattr(Decoder, "generate", noted)
    arms = {
        "finetune": {},
        "rehearsal": {"rehearsal": {"ratio": 0.1, "max_tries": 1}},
        "lamol": {"rehearsal": {"preset": "lamol", "ratio": 0.1}},
        "multitask": {"teach": "multitask"},
    }
    training = {"learning_rate": 1e-2, "num_train_epochs": 1, "tokens_per_batch": 512, "max_length": 48}
    teach(world, arms=arms, training=training, evaluate={"limit": 3})
    chat = Chat(tiny.tokenizer(True))
    cue = chat.cue_ids("sound")
    assert asked["rehearsal"] and all(prompt[: len(cue)] == cue for each in asked["rehearsal"] for prompt in each)
    # base, then two tasks after each of 2 + 2 + 2 + 1 rounds of teaching; each exam has only two forms
    assert len(asked["exam"]) == 2 * (1 + 7) and len({str(prompts) for prompts in asked["exam"]}) == 2
    for prompt in (prompt for prompts in asked["exam"] for prompt in prompts):
        text = chat.text(prompt)
        assert text.startswith("<|user|>") and text.endswith("<|assistant|>") and "<|system|>" not in text
