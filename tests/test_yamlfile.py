import math
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from continual import yamlfile
from continual.errors import ContinualError
from continual.problems import Problem, problems_error


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rank: int = Field(16, ge=1)
    rate: float = 1.0
    modules: str | list[str] = "all"
    schedule: Literal["linear", "cosine"] = "linear"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    inner: Inner = Inner()
    labels: tuple[str, ...] = ()
    arms: dict[str, Inner] = {}
    parts: list[Inner] = []

    @field_validator("parts")
    @classmethod
    def _odd_ranks(cls, parts: list[Inner]) -> list[Inner]:
        odd = [Problem((i, "rank"), f"{p.rank} is odd") for i, p in enumerate(parts) if p.rank % 2]
        if odd:
            raise problems_error(odd)
        return parts


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "file.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ContinualError) as caught:
        yamlfile.validate(Outer, yamlfile.load(path))
    return list(caught.value.lines)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("2E3", 2000.0), ("-1e+2", -100.0), ("6.25e-5", 6.25e-5), ("3.", 3.0), (".5", 0.5)],
)
def test_numbers_with_an_exponent_are_numbers(write, text, number):
    value = yamlfile.load(write(f"a: {text}")).data["a"]
    assert isinstance(value, float) and value == number


@pytest.mark.parametrize("text", ["e4", "1e", "1e-4x", "v1e4", "1-e4"])
def test_words_that_look_like_numbers_stay_words(write, text):
    assert yamlfile.load(write(f"a: {text}")).data["a"] == text


def test_infinity_is_still_read(write):
    assert math.isinf(yamlfile.load(write("a: .inf")).data["a"])


def test_lines_of_nested_keys(write):
    document = yamlfile.load(write("name: x\ninner:\n  rank: 1\nparts:\n  - rank: 2\n  - {rate: 1,\n     rank: 4}\n"))
    assert document.line("name") == 1
    assert document.line("inner", "rank") == 3
    assert document.line("parts", 0, "rank") == 5
    assert document.line("parts", 1, "rank") == 7


def test_line_of_a_missing_key_is_that_of_its_parent(write):
    document = yamlfile.load(write("name: x\ninner:\n  rank: 1\n"))
    assert document.line("inner", "nothing", "below") == 2
    assert document.line("nothing") == 1


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(write):
    path = write(
        "inner:\n  rank: 0\n  raet: 3\n  schedule: liner\nlabels: [ok, no]\narms:\n  x: {rank: many}\nnaem: e\n"
    )
    assert mistakes(path) == [
        "file.yaml:1: name: this key is required",
        "file.yaml:2: inner.rank: Input should be greater than or equal to 1",
        "file.yaml:3: inner.raet: unknown key; did you mean 'rate'?",
        "file.yaml:4: inner.schedule: Input should be 'linear' or 'cosine'; did you mean 'linear'?",
        "file.yaml:5: labels.1: Input should be a valid string; YAML reads a bare yes, no, on, off, true or"
        " false as a boolean: put it in quotes",
        "file.yaml:7: arms.x.rank: Input should be a valid integer, unable to parse string as an integer",
        "file.yaml:8: naem: unknown key; did you mean 'name'?",
    ]


def test_a_value_of_no_member_of_a_union_is_one_mistake(write):
    assert mistakes(write("name: x\ninner: {modules: 5}\n")) == [
        "file.yaml:2: inner.modules: Input should be a valid string or a valid list"
    ]


def test_a_key_in_the_wrong_group_is_shown_its_place(write):
    assert mistakes(write("name: x\nschedule: linear\n")) == [
        "file.yaml:2: schedule: unknown key; did you mean 'inner.schedule'?"
    ]


def test_a_validator_reports_several_places(write):
    assert mistakes(write("name: x\nparts:\n- rank: 3\n- rank: 4\n- rank: 5\n")) == [
        "file.yaml:3: parts.0.rank: 3 is odd",
        "file.yaml:5: parts.2.rank: 5 is odd",
    ]


def test_an_unknown_key_without_a_neighbour_has_no_suggestion(write):
    assert mistakes(write("name: x\nzzz: 1\n")) == ["file.yaml:2: zzz: unknown key"]


def test_mistakes_below_an_override_name_the_override(write):
    document = yamlfile.load(write("name: x\ninner: {rank: 1}\n"))
    data = {"name": 5, "inner": {"rank": 0}}
    with pytest.raises(ContinualError) as caught:
        yamlfile.validate(Outer, document, data, overridden=["inner"])
    assert caught.value.lines == (
        "file.yaml:1: name: Input should be a valid string",
        "override: inner.rank: Input should be greater than or equal to 1",
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: what is ? this}\n", "file.yaml:2: not valid YAML: "),
        ("a: 1\n b: 2\n", "file.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("a: [1,\nb: 2\n", "file.yaml:3: not valid YAML: "),
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3: a: this key is given twice (first in line 1)"),
        ("a:\n  b: 1\n  b: 2\n", "file.yaml:3: a.b: this key is given twice (first in line 2)"),
        ("a: !python/object:os.system x\n", "file.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: 1\nb: \x07\n", "file.yaml:2: not valid YAML: special characters are not allowed"),
    ],
)
def test_broken_yaml_is_one_line_with_its_place(write, text, line):
    with pytest.raises(ContinualError) as caught:
        yamlfile.load(write(text))
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(line)


def test_a_question_mark_in_braces_gets_its_hint(write):
    with pytest.raises(ContinualError, match="question mark needs quotes"):
        yamlfile.load(write("a: {b: is it ? so}\n"))


@pytest.mark.parametrize(("text", "kind"), [("", "empty"), ("- a\n- b\n", "a list"), ("words", "a str")])
def test_a_file_without_keys_is_refused(write, text, kind):
    assert mistakes(write(text)) == [f"file.yaml:1: the file is {kind}; it should be keys and values"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ContinualError, match="no such file"):
        yamlfile.load(tmp_path / "none.yaml")
    with pytest.raises(ContinualError, match="is a folder"):
        yamlfile.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(ContinualError, match="is not UTF-8 text"):
        yamlfile.load(tmp_path / "latin.yaml")
