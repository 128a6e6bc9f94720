"""`continual new` on files of every kind: what it guesses, writes, and leaves alone."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_sources import parquet

from continual import cli, yamlfile
from continual.errors import ContinualError
from continual.new_task import guess_task
from continual.plan import describe
from continual.recipe import load_recipe
from continual.task import read_task

N = 40


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def each(make: Any) -> list[dict[str, Any]]:
    return [make(number) for number in range(N)]


TURNS = [("human", "How much is it?"), ("gpt", "It is four francs, as I told you.")]
FILES: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "reviews": (
        "reviews.csv",
        table(each(lambda n: {"id": n, "review": f"Film {n}, it was fine.", "sentiment": ["good", "bad"][n % 2]})),
        {"doc_to_choice": ["bad", "good"], "doc_to_target": "sentiment", "metric": "acc"},
    ),
    "stars": (
        "stars.csv",
        b"\xef\xbb\xbf" + table(each(lambda n: {"Review Text": f"Das Essen {n} war gut", "Rating": n % 5 + 1}), ";"),
        {"doc_to_choice": None, "labels": ["1", "2", "3", "4", "5"], "metric": "acc"},
    ),
    "mail": (
        "mail.tsv",
        table(
            each(lambda n: {"Subject Line": f"Offer {n}", "Body": f"Dear Ann, buy {n} now", "Topic": "abc"[n % 3]}),
            "\t",
        ),
        {"doc_to_choice": ["a", "b", "c"], "metric": "acc"},
    ),
    "entail": (
        "entail.parquet",
        parquet(each(lambda n: {"premise": f"A dog runs {n}", "hypothesis": f"It moves {n}", "label": n % 2})),
        {"doc_to_choice": ["0", "1"], "doc_to_target": "label", "metric": "acc"},
    ),
    "facts": (
        "facts.jsonl",
        lines(each(lambda n: {"question": f"What is {n} and {n}?", "answer": f"it is {2 * n}"})),
        {"doc_to_text": ["{{ question | trim }}"], "doc_to_target": "answer", "metric": "exact_match"},
    ),
    "summaries": (
        "summaries.json",
        json.dumps(
            each(lambda n: {"document": f"A story {n} " * 9, "summary": f"story {n} is told in words of one syllable"})
        ).encode(),
        {"doc_to_target": "summary", "metric": "rouge_l"},
    ),
    "quiz": (
        "quiz.jsonl",
        lines(each(lambda n: {"question": f"Is {n} even?", "choices": ["yes", f"no {n}"], "answer": n % 2})),
        {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer", "metric": "acc"},
    ),
    "alpaca": (
        "alpaca.json",
        json.dumps(
            each(lambda n: {"instruction": f"Count to {n}", "input": "", "output": f"one and so on to {n}"})
        ).encode(),
        {"metric": "rouge_l"},
    ),
    "sharegpt": (
        "sharegpt.jsonl",
        lines(each(lambda n: {"id": n, "conversations": [{"from": r, "value": f"{v} {n}"} for r, v in TURNS]})),
        {"metric": "rouge_l"},
    ),
    "chat": (
        "chat.jsonl",
        lines(
            each(
                lambda n: {
                    "dialog": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": f"Hello {n}"}]
                }
            )
        ),
        {"messages": "dialog", "metric": "exact_match"},
    ),
    "trl": (
        "trl.jsonl",
        lines(each(lambda n: {"prompt": f"Say {n}", "completion": f"{n}"})),
        {"metric": "exact_match"},
    ),
    "similar": (
        "similar.csv",
        table(each(lambda n: {"sentence1": f"A dog {n}", "sentence2": f"A cat {n}", "score": n / 10})),
        {"doc_to_target": "score", "metric": "pearson"},
    ),
    "squad": (
        "squad.jsonl",
        lines(each(lambda n: {"context": f"Ann is {n}.", "question": "Old?", "answers": {"text": [f"{n}", "old"]}})),
        {"doc_to_target": "{{ answers.text[0] }}", "metric": "f1"},
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (tmp_path / "data").mkdir()
    for name, data, _ in FILES.values():
        (tmp_path / "data" / name).write_bytes(data)
    return tmp_path


def run(*words: str) -> int:
    try:
        cli.main(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_each_kind_becomes_a_task_that_validates_and_shows(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, _, expected = FILES[name]
    assert run("new", name, f"data/{file}", "--yes") == 0
    out = capsys.readouterr().out
    assert "32 rows" not in out and "29 rows to learn from, 3 for choices, 8 for the test" in out
    assert out.count("user: ") >= 3 and out.count("assistant: ") >= 3
    path = here / "tasks" / f"{name}.yaml"
    assert run("validate", str(path)) == 0
    task, data = read_task(path), yamlfile.load(path).data
    given = {key: list(value) if isinstance(value := getattr(task, key), tuple) else value for key in expected}
    assert given == expected
    assert task.metric_list and data["metadata"]["summary"]
    answers = {sample.answer for split in ("train", "dev", "test") for sample in task.samples(split)}
    assert len(answers) >= 2


def test_ten_files_become_tasks_of_one_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    names = list(FILES)[:10]
    for name in names:
        assert run("new", name, f"data/{FILES[name][0]}", "--yes") == 0
    (here / "mine.yaml").write_text(
        f"model_name_or_path: builtin:tinyworld\ncurriculum: [{', '.join(names)}]\n"
        "adapter: {type: lora, r: 2}\ntraining: {learning_rate: 1e-3, tokens_per_batch: 512}\n"
    )
    capsys.readouterr()
    folders = [Path("tasks")]
    describe(load_recipe("mine.yaml", folders=folders), None, folders, Console(width=120))
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    assert out.count("mind: reviews: the data have no test part: 8 of 40 rows") == 1
    assert run("show", "tasks/mail.yaml", "-n", "1") == 0
    assert "Subject Line: Offer" in capsys.readouterr().out


def test_labels_that_are_digits_keep_their_meaning(here: Path) -> None:
    run("new", "stars", "data/stars.csv", "--yes")
    task = read_task(here / "tasks" / "stars.yaml")
    assert {(s.prompt[0].content.split()[2], s.answer) for s in task.samples("test")} <= {
        (str(n), str(n % 5 + 1)) for n in range(N)
    }


def test_the_task_file_says_what_was_not_read_and_how_many_there_are(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("new", "reviews", "data/reviews.csv", "--yes")
    text = (here / "tasks" / "reviews.yaml").read_text(encoding="utf-8")
    assert "# Rows of each: bad 20, good 20" in text and "held out by a fixed hash" in text
    assert "not read" in capsys.readouterr().out


def test_a_test_file_beside_the_training_file_is_taken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        rows = each(lambda n, split=split: {"text": f"{split} film {n}", "label": "ab"[n % 2]})
        (here / "data" / f"film_{split}.csv").write_bytes(table(rows))
    assert run("new", "film", "data/film_train.csv", "--yes") == 0
    task = read_task(here / "tasks" / "film.yaml")
    assert task.count("test") == N and task.notices() == []


def test_rows_without_an_answer_are_left_out_and_counted(here: Path) -> None:
    rows = each(lambda n: {"text": f"film {n}", "label": ["a", "b", "", "b"][n % 4]})
    (here / "data" / "some.csv").write_bytes(table(rows))
    assert run("new", "some", "data/some.csv", "--yes") == 0
    text = (here / "tasks" / "some.yaml").read_text(encoding="utf-8")
    assert "# 10 rows have no answer" in text
    assert sum(read_task(here / "tasks" / "some.yaml").count(split) for split in ("train", "dev", "test")) == 30


def test_columns_may_be_named(here: Path) -> None:
    assert run("new", "turned", "data/facts.jsonl", "--yes", "--prompt", "answer", "--answer", "question") == 0
    assert read_task(here / "tasks" / "turned.yaml").doc_to_target == "question"


def test_nothing_is_written_without_a_yes_or_over_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", "facts", "data/facts.jsonl") == 2
    assert "nothing was written" in capsys.readouterr().err and not (here / "tasks").exists()
    assert run("new", "facts", "data/facts.jsonl", "--yes") == 0
    before = (here / "tasks" / "facts.yaml").read_bytes()
    capsys.readouterr()
    assert run("new", "facts", "data/reviews.csv", "--yes") == 2
    assert "tasks/facts.yaml exists already" in capsys.readouterr().err
    assert (here / "tasks" / "facts.yaml").read_bytes() == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_the_guesses_are_asked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("answer\nquestion\nn\n"))
    assert run("new", "facts", "data/facts.jsonl") == 2
    assert not (here / "tasks").exists()
    monkeypatch.setattr(sys, "stdin", Terminal("answer\nquestion\n\n"))
    assert run("new", "facts", "data/facts.jsonl") == 0
    task = read_task(here / "tasks" / "facts.yaml")
    assert (task.doc_to_text, task.doc_to_target) == (("{{ answer | trim }}\nQuestion:",), "question")
    monkeypatch.setattr(sys, "stdin", Terminal("\n\n\n"))
    assert run("new", "facts", "data/facts.jsonl") == 2  # over a file only after a yes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "data/none.csv"), "data/none.csv: no such file"),
        (("a b", "data/facts.jsonl"), "'a b' is no name of a task"),
        (("x", "data/facts.jsonl", "--answer", "anser"), "there is no column 'anser'; the columns are: question, ans"),
        (("x", "data/one.csv"), "which column is the answer?"),
        (("x", "data/empty.csv"), "has no rows"),
    ],
)
def test_what_cannot_be_guessed_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    (here / "data" / "one.csv").write_text("text\na\nb\n")
    (here / "data" / "empty.csv").write_text("text,label\n")
    assert run("new", *words, "--yes") == 2
    assert message in capsys.readouterr().err and not (here / "tasks").exists()


def test_preferences_are_not_taken_for_a_task(here: Path) -> None:
    rows = each(lambda n: {"prompt": f"Say {n}", "chosen": f"yes {n}", "rejected": f"no {n}"})
    (here / "data" / "dpo.jsonl").write_bytes(lines(rows))
    with pytest.raises(ContinualError, match="preferences"):
        guess_task(rows)
    assert run("new", "dpo", "data/dpo.jsonl", "--yes", "--prompt", "prompt", "--answer", "chosen") == 0
