"""How like real rows is what was rehearsed: longest common runs, drift, and that nothing but the report sees it."""

import random
from pathlib import Path
from typing import Any

import pytest
from conftest import teach

from continual.rehearse.drift import bigrams, mean_words, share_known, total_variation
from continual.rehearse.frame import Frame
from continual.rehearse.likeness import Likeness
from continual.rehearse.memorised import Rows
from continual.runs import read_json
from continual.sample import Message, Sample


def by_hand(text: str, rows: list[str]) -> int:
    """The longest run of words that a text shares with a row, by trying all."""
    said = text.split()
    runs = {(i, j) for i in range(len(said)) for j in range(i + 1, len(said) + 1)}
    known = [f" {row} " for row in rows]
    return max((j - i for i, j in runs if any(f" {' '.join(said[i:j])} " in row for row in known)), default=0)


@pytest.mark.parametrize("vocabulary", [2, 4, 30])
def test_the_longest_run_is_what_trying_all_finds(vocabulary: int) -> None:
    draw = random.Random(vocabulary)
    for _ in range(60):
        rows, texts = (
            [" ".join(f"w{draw.randrange(vocabulary)}" for _ in range(draw.randrange(14))) for _ in range(5)]
            for _ in range(2)
        )
        texts[0] += " never seen"
        assert Rows(rows, rows).longest_runs(texts).tolist() == [by_hand(text, rows) for text in texts]


def test_a_run_ends_with_its_row_and_neither_case_nor_marks_count() -> None:
    rows = Rows([], ["the cat sat", "on the mat"])
    # "the cat sat on the mat" goes across the end of a row: three words of it stand in one.
    assert rows.longest_runs(["The cat, sat on the mat!", "a dog", "mat the on"]).tolist() == [3, 0, 1]


def test_what_is_copied_is_thirteen_words_or_a_whole_question() -> None:
    long = " ".join(f"w{n}" for n in range(20))
    rows = Rows(["what is it?", long], ["what is it? a dog", f"{long} yes"])
    thirteen, twelve = " ".join(long.split()[2:15]), " ".join(long.split()[2:14])
    texts = [f"x {thirteen} x", f"x {twelve} x", "What is it", "what is that"]
    found = rows.memorised(texts, texts)
    # runs of 13, 12, 3 and 2 words, in texts of 15, 14, 3 and 3
    assert found["copied"] == 0.5
    assert found["median"] == 7.5 and found["p95"] == pytest.approx(12.85)
    assert found["share"] == pytest.approx((12 / 14 + 13 / 15) / 2)
    assert rows.memorised([], []) == {}


def test_drift_by_hand() -> None:
    # real: three quarters and a quarter; rehearsed: all of one.
    assert total_variation(["a", "a"], ["a", "a", "a", "b"]) == 0.25
    assert total_variation(["c"], ["a", "b"]) == 1.0
    assert mean_words(["a b c", "a"]) == 2
    assert share_known(["the cat sat", "the cat"], bigrams(["The cat ran."])) == 0.5
    assert share_known(["cat"], set()) == 0.0


def talk(question: str, answer: str) -> tuple[Message, ...]:
    return (Message("user", f"{question}\nyes or no, what do you say?"), Message("assistant", answer))


def test_the_figures_of_a_task_leave_out_what_all_its_prompts_say() -> None:
    train = [Sample("t", talk(q, a)) for q, a in (("a red dog", "yes"), ("a big cat", "yes"), ("an old hen", "no"))]
    test = [Sample("t", talk("a red cat", "no"))]
    likeness = Likeness({"t": {"train": train, "test": test}}, {"t": Frame("", "yes or no, what do you say?")},
                        {"t": ("yes", "no")})  # fmt: skip
    found = likeness.of("t", [talk("a red dog", "no"), talk("one blue fox", "no")])
    assert found["drift"]["labels"] == pytest.approx(2 / 3)
    assert found["drift"]["words"] == found["drift"]["real_words"] == 4  # the frame's seven are not counted
    # of {a red, red dog, dog no, one blue, blue fox, fox no}, "a red" stands in the test row "a red cat no"
    assert found["drift"]["bigrams"] == pytest.approx(1 / 6)
    assert found["memorised"]["copied"] == 0.5  # "a red dog" is a training row's whole question
    assert found["memorised"]["median"] == 2  # "a red dog", and "no" alone
    assert found["memorised"]["test"]["median"] == 2  # "a red"
    assert likeness.of("t", []) == {"drift": None, "memorised": None}


def test_without_labels_there_is_no_label_distance() -> None:
    samples = {"t": {split: [Sample("t", talk("a dog", "woof"))] for split in ("train", "test")}}
    assert Likeness(samples, {"t": Frame("", "")}, {"t": ()}).of("t", [talk("x", "y")])["drift"]["labels"] is None


def test_a_run_keeps_the_figures_and_learns_nothing_from_them(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"own": {"rehearsal": {"checks": ["parses"]}}, "real": {"rehearsal": {"writer": "real"}}}
    settings: dict[str, Any] = {"arms": arms, "curriculum": ["sound", "legs", "first"]}
    run = teach(world, **settings)
    told = [read_json(run / f"arms/{arm}/seed0/run.json") for arm in arms]
    ages = [(e["before"], e["task"], e["age"]) for e in told[1]["rehearsed"]]
    assert ages == [("legs", "sound", 1), ("first", "sound", 2), ("first", "legs", 1)]
    for entry in told[1]["rehearsed"]:
        assert entry["memorised"]["copied"] == 1.0  # real rows are real rows
        assert (entry["drift"]["labels"] is None) == (entry["task"] != "legs")
    assert told[0]["cost"]["real_rows_kept"] == 0
    # With other figures, or none, the same is learned.
    monkeypatch.setattr(Likeness, "of", lambda self, task, conversations: {"drift": None, "memorised": None})
    blind = teach(world, **settings, output_dir=str(world / "blind"))
    for arm in arms:
        assert (blind / f"arms/{arm}/seed0/R.csv").read_bytes() == (run / f"arms/{arm}/seed0/R.csv").read_bytes()
