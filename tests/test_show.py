"""`continual show TASK`: what of a sample bears loss."""

import io
import re
from pathlib import Path

import pytest
import tiny
from conftest import write_task
from rich.console import Console

from continual.show import show_task
from continual.task import find_task

ANSWERS = {a: "two" for a in ["dog", "cat", "cow", "hen", "fox", "bee", "ant", "owl"]}


def shown(folder: Path, template: bool, terminal: bool = False, n: int = 2) -> str:
    write_task(folder / "tasks", "legs", ANSWERS, metadata={"version": 1.0, "summary": "How many legs?"})
    tiny.saved(folder / "model", template=template)
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    show_task(find_task("legs", [folder / "tasks"]), str(folder / "model"), n, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_answers_are_marked_in_the_chat_template(tmp_path: Path) -> None:
    lines = shown(tmp_path, template=True).splitlines()
    answering = [lines[i + 1] for i, line in enumerate(lines) if "answering" in line]
    assert len(answering) == 2
    for line in answering:
        assert re.fullmatch(r"<\|user\|>\w+ \w+<\|end\|><\|assistant\|>«two<\|end\|>»", line)


def test_answers_are_marked_in_the_plain_form(tmp_path: Path) -> None:
    text = shown(tmp_path, template=False)
    assert len(re.findall(r"^User: \w+ \w+\nAI:« two<\|end\|>»$", text, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("template", "cued"),
    [
        (True, r"<\|system\|>legs<\|end\|>‹<\|user\|>\w+ \w+<\|end\|><\|assistant\|>two<\|end\|>›"),
        (False, r"System: legs\n‹User: \w+ \w+\nAI: two<\|end\|>›"),
    ],
)
def test_with_its_cue_all_that_follows_the_cue_is_marked(tmp_path: Path, template: bool, cued: str) -> None:
    text = shown(tmp_path, template)
    _, _, after = text.partition("with its cue\n")
    assert re.fullmatch(cued, after.rstrip("\n"))


def test_the_head_names_the_task_and_explains_the_marks(tmp_path: Path) -> None:
    head = shown(tmp_path, template=True).splitlines()[:2]
    assert head[0] == "legs  How many legs?  generate_until, exact_match"
    assert "«answer»" in head[1] and "‹everything after the cue›" in head[1]


def test_in_a_terminal_colours_mark_instead_of_signs(tmp_path: Path) -> None:
    text = shown(tmp_path, template=True, terminal=True)
    assert "\x1b[1;32mtwo<|end|>\x1b[0m" in text
    assert not set("«»‹›") & set(text)


def test_the_length_told_is_that_of_the_sample(tmp_path: Path) -> None:
    text = shown(tmp_path, template=True, n=1)
    told = re.search(r"1: answering \((\d+) tokens\)\n(.*)\n", text)
    assert told is not None
    ids = tiny.tokenizer(True)(re.sub("[«»]", "", told[2]), add_special_tokens=False).input_ids
    assert int(told[1]) == len(ids)
