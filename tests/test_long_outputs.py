"""Tasks with long answers: shapes, the checks on them, and a task of its own budget beside a short one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from conftest import ANIMALS, teach, write_task
from test_rehearsal import Scripted

from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import benchmark
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.model import CausalLM
from continual.rehearse.check import Draft, Page, rejection
from continual.rehearse.shape import Shape, repeated, restored, shape_of, stored
from continual.rehearse.writer import ModelWriter
from continual.rehearsing import shapes_of
from continual.sample import Message, Sample
from continual.sampling import Sampling


def said(answer: str, question: str = "q") -> tuple[Message, ...]:
    return (Message("user", question), Message("assistant", answer))


def draft(answer: str) -> Draft:
    return Draft("", said(answer), True, 9)


def counted(number: int) -> str:
    return " ".join(f"w{n}" for n in range(number))


def test_repetition_by_hand() -> None:
    # a b a b a b a b: five 4-grams, of which two differ
    assert repeated(said("a b a b a b a b")) == pytest.approx(1 - 2 / 5)
    assert repeated(said("one two three")) == 0.0
    assert repeated(said("short", "a b a b a b a b")) == pytest.approx(1 - 2 / 5)  # in a question, too


def test_a_shape_is_a_few_numbers_of_the_rows() -> None:
    rows = [Sample("t", said(counted(length))) for length in range(20, 121)]
    shape = shape_of(rows, row_tokens=80)
    assert (shape.shortest, shape.longest, shape.repeats) == (21, 119, 0)
    assert shape.most_tokens == 100
    assert restored(json.loads(json.dumps(stored({"t": shape})))) == {"t": shape}


def test_an_answer_is_about_as_long_as_the_real_ones() -> None:
    page, checks = Page("t", shape=Shape(20, 100, 0.0, 200)), ("length",)
    verdicts = {n: rejection(draft(counted(n)), checks, page) for n in (12, 13, 60, 150, 151)}
    assert verdicts == {12: "length", 13: None, 60: None, 150: None, 151: "length"}
    assert rejection(draft(counted(500)), checks, Page("t")) is None  # of a task whose rows nobody has seen
    assert rejection(draft("yes, yes yes"), checks, Page("t", shape=Shape(1, 1, 0.0, 9))) == "length"


def test_what_goes_round_is_rejected_where_real_rows_do_not() -> None:
    round_and_round = draft("the cat sat down and " * 12)
    assert rejection(round_and_round, ("repeats",), Page("t", shape=Shape(1, 99, 0.0, 99))) == "repeats"
    assert rejection(round_and_round, ("repeats",), Page("t", shape=Shape(1, 99, 0.9, 99))) is None
    assert rejection(draft(counted(60)), ("repeats",), Page("t", shape=Shape(1, 99, 0.0, 99))) is None


@pytest.mark.parametrize("by_shape", [True, False])
def test_each_task_has_its_own_budget(monkeypatch: pytest.MonkeyPatch, by_shape: bool) -> None:
    limits: list[list[int]] = []

    class Listening(Scripted):
        def generate(self, prompts, limit, *rest):  # type: ignore[no-untyped-def]
            limits.append(limit)
            return super().generate(prompts, limit, *rest)

    chat = Chat(tiny.tokenizer())
    monkeypatch.setattr("continual.rehearse.writer.Decoder", Listening(chat, ["User: q\nAI: a"] * 4))
    tasks = ("short", "long", "new", "huge")
    writer = ModelWriter(
        chat,
        {t: (t,) for t in tasks},
        dict.fromkeys(tasks, ()),
        ("parses",),
        Sampling(1.0),
        False,
        1,
        max_new_tokens=200,
        batch_tokens=99,
        by_shape=by_shape,
    )
    shapes = {"short": Shape(1, 1, 0, 10), "long": Shape(9, 99, 0, 100), "huge": Shape(9, 99, 0, 999)}
    writer.write(None, dict.fromkeys(tasks, 1), seed=0, shapes=shapes)
    assert limits == [[13, 125, 200, 200] if by_shape else [200] * 4]


def test_a_taught_model_writes_long_answers_that_pass() -> None:
    chat = Chat(tiny.tokenizer(True))
    collate = Collate(chat.bos_ids, {0: chat.cue_ids("t")}, chat.end_id)
    taught = Sample("t", said("the big dog sees a small red cat and the cat likes what it sees", "say it"))
    lessons = benchmark(["t"], {"t": dict.fromkeys(("train", "dev", "test"), [taught] * 8)}, chat, collate, 100)
    model = tiny.model()
    fast = Hyperparameters(learning_rate=2e-2, num_train_epochs=150, tokens_per_batch=800)
    strategy = CausalLMTemplate(
        model=CausalLM(model), hyperparameters=fast, seed=0, collate=collate, lm_lambda=1.0, cue_dropout=0.0
    )
    strategy.train(lessons.train_stream[0], eval_streams=[])
    checks = ("eos", "parses", "length", "repeats")
    writer = ModelWriter(chat, {"t": ("t",)}, {"t": ()}, checks, Sampling(1.0, 20), False, 1, 99, batch_tokens=999)
    shape = shape_of([taught] * 8, len(chat.encode(taught, 100).input_ids))
    reasons = [s.reason for s in writer.write(model, {"t": 8}, 0, shapes={"t": shape})["t"]]
    assert reasons.count(None) >= 6
    for other, reason in ((replace(shape, tokens=10), "eos"), (replace(shape, longest=1), "length")):
        reasons = [s.reason for s in writer.write(model, {"t": 8}, 0, shapes={"t": other})["t"]]
        assert reasons.count(reason) >= 6


def test_a_task_of_long_answers_beside_a_short_one(world: Path) -> None:
    story = "the dog sees a cat and the cat sees the dog so both say what they like"
    write_task(
        world / "tasks", "story", {a: f"{story} {story} of the {a} {a[::-1]}" for a in ANIMALS},
        metric_list=[{"metric": "edit_similarity"}],
    )  # fmt: skip
    checks = ["eos", "parses", "length", "repeats"]
    run = teach(
        world,
        curriculum=["story", "legs", "first"],
        arms={"a": {"rehearsal": {"checks": checks, "max_tries": 1, "when": "before_task"}}},
        training={"learning_rate": 1e-2, "num_train_epochs": 2, "tokens_per_batch": 256, "max_length": 128},
    )
    folder = run / "arms/a/seed0"
    shapes = shapes_of(folder / "after/3")
    assert list(shapes) == ["story", "legs", "first"] and shapes_of(folder) == {}
    assert (shapes["story"].longest, shapes["legs"].longest) == (38, 1)
    assert 80 < shapes["story"].tokens < 128 and shapes["legs"].tokens < 40
    for name, task in (("2-story", "story"), ("3-story", "story"), ("3-legs", "legs")):
        lines = [json.loads(line) for line in (folder / f"rehearsed/{name}.jsonl").read_text().splitlines()]
        assert max(line["tokens"] for line in lines) <= shapes[task].most_tokens
