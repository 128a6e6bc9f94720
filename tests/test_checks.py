"""Frames, near-duplicates, self-consistency, likelihood, cues by label, surprise, shares."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from pydantic import ValidationError

from continual.chat import Chat
from continual.rehearsal_settings import Rehearsal
from continual.rehearse.budget import quotas
from continual.rehearse.check import Draft, Page, rejection
from continual.rehearse.cues import Cues
from continual.rehearse.frame import Frame, frame_of, wrong_task
from continual.rehearse.minhash import resemblance, shingles, signature
from continual.sample import Message, Sample
from continual.task import read_task
from continual.wording import Wording


def asked(question: str, answer: str = "yes") -> tuple[Message, ...]:
    return (Message("user", question), Message("assistant", answer))


def rows(*questions: str) -> list[Sample]:
    return [Sample("t", asked(question)) for question in questions]


END = "is this review negative or positive?"


def worded(*templates: str) -> list[Sample]:
    """Rows of a task with these wordings."""
    fixed = [Wording(template).fixed for template in templates]
    return [Sample("t", asked("?"), instruction=one) for one in fixed]


def test_a_frame_is_what_all_wordings_begin_and_end_with() -> None:
    assert frame_of(worded(f"{{{{ text }}}}\n{END}")) == Frame("", END)
    assert frame_of(worded("Sort it: {{ text }}", "Sort it: {{ text }}\nNow:")) == Frame("Sort it:", "")
    assert not frame_of(worded("{{ text }} what?", "{{ text }} who sees it?")).telling


def test_words_are_not_cut_by_a_frame() -> None:
    # "bad" and "sad" end alike, "say" and "sad" begin alike: neither letter belongs to a frame.
    assert frame_of(worded("say {{ text }} bad", "sad {{ text }} sad")) == Frame("", "")
    # A column that stands close to a word makes one word with it.
    assert frame_of(worded("Text of{{ a }}pages. Why?")) == Frame("Text", "Why?")


DOCUMENT = "The harbour was built in 1887 by the town. It has two piers and a light. "


@pytest.mark.parametrize(
    ("template", "rows", "frame"),
    [
        # Three questions about one document, before or behind it.
        ("{{ document }}\n{{ question }}", 3, Frame("", "")),
        ("{{ question }}\n{{ document }}", 3, Frame("", "")),
        ("Read this: {{ document }}\n{{ question }}\nIn one word:", 3, Frame("Read this:", "In one word:")),
        # One row alone, the same prompt in all rows, and a column of the same words.
        ("Read this text: {{ document }} {{ question }}", 1, Frame("Read this text:", "")),
        ("{{ document }}", 3, Frame("", "")),
        ("document", 3, Frame("", "")),
        ("{{ instruction }}\n{{ question }}", 3, Frame("", "")),
        # Words that a condition adds to some rows are not in every prompt.
        ("{% if document %}Here is {{ document }}{% endif %} What now?", 2, Frame("", "What now?")),
    ],
)
def test_a_frame_holds_no_words_of_the_rows(tmp_path: Path, template: str, rows: int, frame: Frame) -> None:
    keys = {"doc_to_text": template, "doc_to_target": "answer", "test_split": "test"}
    data = {"train": "other.jsonl", "test": "rows.jsonl"}
    task = {"task": "docs", "dataset_path": "json", "dataset_kwargs": {"data_files": data}, **keys}
    (tmp_path / "docs.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    lines = [
        {"document": DOCUMENT, "question": f"Question {n}?", "answer": f"a{n}", "instruction": "Answer the question."}
        for n in range(rows)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    other = {key: f"another {key}" for key in lines[0]}
    (tmp_path / "other.jsonl").write_text(json.dumps(other) + "\n", encoding="utf-8")
    samples = read_task(tmp_path / "docs.yaml").samples("test")
    found = frame_of(samples)
    assert found == frame
    assert all(found.holds(sample.messages) for sample in samples)


def test_a_frame_holds_no_words_of_a_conversation() -> None:
    assert frame_of(rows(DOCUMENT + "When?", DOCUMENT + "By whom?")) == Frame("", "")


FRAMES = {"sst": Frame("", END), "srl": Frame("", "")}


def test_a_sample_that_asks_another_tasks_question_is_rejected() -> None:
    page = Page("srl", frames=FRAMES)
    assert rejection(Draft("", asked(f"He sold it.\n{END}"), True, 9), ("wrong_task",), page) == "wrong_task"
    assert rejection(Draft("", asked("He sold it.\nwho sold something?"), True, 9), ("wrong_task",), page) is None
    assert wrong_task("sst", asked("He sold it.\nwho sold something?"), FRAMES)
    assert not wrong_task("sst", asked(f"dull.\n{END}"), FRAMES)


def test_minhash_estimates_the_share_of_common_shingles() -> None:
    one, two = " ".join(map(str, range(100))), " ".join(map(str, range(50, 150)))
    a, b = shingles(one), shingles(two)
    true = len(a & b) / len(a | b)  # 48 of 148
    assert resemblance(signature(one), signature(two)[None])[0] == pytest.approx(true, abs=0.18)
    assert resemblance(signature(one), np.array([signature(one)]))[0] == 1.0


def test_near_duplicates_are_rejected() -> None:
    long = " ".join(f"word{n}" for n in range(60))
    page, checks = Page("t"), ("near_duplicate",)
    page.keep(asked(long), checks)
    assert rejection(Draft("", asked(long + " more"), True, 9), checks, page) == "near_duplicate"
    assert rejection(Draft("", asked("something else altogether"), True, 9), checks, page) is None


def test_an_answer_must_be_the_models_own() -> None:
    page = Page("t")
    drawn = Draft("", asked("q", "negative"), True, 9, greedy="positive")
    assert rejection(drawn, ("consistent",), page) == "consistent"
    relabelled = Draft("", asked("q", "positive"), True, 9, greedy="positive", drawn="negative")
    assert rejection(relabelled, ("consistent",), page) == "consistent"
    assert rejection(Draft("", asked("q", "positive"), True, 9, greedy=" positive"), ("consistent",), page) is None


def test_the_band_lies_around_the_median() -> None:
    page = Page("t")
    page.set_band([-1.0, -1.1, -0.9, -1.2, -5.0])  # median -1.1, median deviation 0.1: between -1.4 and -0.8
    assert page.band == pytest.approx((-1.4, -0.8))
    assert rejection(Draft("", asked("q"), True, 9, logprob=-5.0), ("likelihood",), page) == "likelihood"
    assert rejection(Draft("", asked("q"), True, 9, logprob=-0.5), ("likelihood",), page) == "likelihood"
    assert rejection(Draft("", asked("q"), True, 9, logprob=-1.3), ("likelihood",), page) is None


def test_a_cue_for_each_label() -> None:
    cues = Cues("label", {"sst": 0, "srl": 1}, {"sst": ("negative", "positive"), "srl": ()})
    assert cues.texts == {"sst": ("sst: negative", "sst: positive"), "srl": ("srl",)}
    keys = [cues.key(Sample("sst", asked("q", answer))) for answer in ("negative", "positive", "neither")]
    assert keys == [2, 3, 2] and cues.key(Sample("srl", asked("q"))) == 1
    chat = Chat(tiny.tokenizer())
    assert cues.ids(chat)[3] == chat.cue_ids("sst: positive")


def test_surprise_moves_half_of_the_budget() -> None:
    sizes = {"a": 100, "b": 100, "c": 50}
    # a share of 0.2: 20, 20 and 10; the losses rose by 0.3, 0.1 and not at all: 25 go out as 3 : 1 : 0.
    wanted = quotas("surprise", 0.2, None, sizes, "new", ["a", "b", "c"], {"a": 0.3, "b": 0.1, "c": -0.2})
    assert wanted == {"a": 29, "b": 17, "c": 5}
    assert quotas("surprise", 0.2, None, sizes, "new", ["a", "b"], {}) == {"a": 20, "b": 20}


@pytest.mark.parametrize("key", ["budget", "seed_words"])
def test_what_needs_a_task_to_be_written_again_is_refused_where_it_is_written_once(key: str) -> None:
    value = {"budget": "surprise", "seed_words": 3}[key]
    with pytest.raises(ValidationError, match=f"{key}: .*when: before_task"):
        Rehearsal.model_validate({key: value})
    assert Rehearsal.model_validate({key: value, "when": "before_task"})
