import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from continual import sources
from continual.errors import ContinualError
from continual.task import Task, read_task

ROWS = [{"text": "早安\u2028 a", "reply": "one"}, {"text": 'b "quoted", c', "reply": "two"}]
FROM_HUB = sources._from_hub
KEYS = "doc_to_text: text\ndoc_to_target: reply\n"


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def task(folder: Path, source: str, keys: str = KEYS) -> Task:
    (folder / "it.yaml").write_text(f"task: it\n{source}\n{keys}", encoding="utf-8")
    return read_task(folder / "it.yaml")


def said(one: Task, split: Any = "test", **options: Any) -> list[list[str]]:
    return [[message.content for message in sample.messages] for sample in one.samples(split, **options)]


def failure(one: Task, **options: Any) -> str:
    with pytest.raises(ContinualError) as caught:
        one.samples("test", **options)
    (line,) = caught.value.lines
    return line


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> Any:
        raise ContinualError("'some/set' (split test): ConnectionError: no network")

    monkeypatch.setattr(sources, "_from_hub", unreachable)
    monkeypatch.delenv(sources.DATA_ROOT, raising=False)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("test.jsonl", lines(ROWS)),
        ("test.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)),
        ("test.json", json.dumps(ROWS).encode()),
        ("test.csv", table(ROWS)),
        ("test.csv.gz", gzip.compress(table(ROWS), mtime=0)),
        ("test.parquet", parquet(ROWS)),
    ],
)
def test_file_of_any_kind_is_read_beside_the_task_file_and_as_a_folder(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    builder = name.removesuffix(".gz").split(".")[-1].replace("jsonl", "json")
    by_file = task(tmp_path, f"dataset_path: {builder}\ndataset_kwargs: {{data_files: {{test: {name}}}}}")
    wanted = [["早安\u2028 a", "one"], ['b "quoted", c', "two"]]
    assert said(by_file) == wanted
    assert said(task(tmp_path, "dataset_path: .")) == wanted


def test_split_of_several_files_is_their_rows_in_order(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        (tmp_path / f"{number}.jsonl").write_bytes(lines([row]))
    one = task(tmp_path, "dataset_path: json\ndataset_kwargs: {data_files: {test: [1.jsonl, 0.jsonl]}}")
    assert [answer for _, answer in said(one)] == ["two", "one"]


CHAT = [
    (
        "messages",
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ],
    ),
    (
        "conversations",
        [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    ),
]


@pytest.mark.parametrize(("column", "turns"), CHAT, ids=["messages", "sharegpt"])
@pytest.mark.parametrize("named", [False, True])
def test_conversations_are_read_as_they_are(tmp_path: Path, column: str, turns: Any, named: bool) -> None:
    column = "talk" if named else column
    (tmp_path / "test.jsonl").write_bytes(lines([{"id": 1, column: turns}]))
    (sample,) = task(tmp_path, "dataset_path: .", f"messages: {column}\n" if named else "").samples("test")
    assert [(one.role, one.content) for one in sample.messages] == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
    ]
    assert sample.references == ("a",)


def test_alpaca_rows_are_instruction_and_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Hi", "input": "", "output": "Ho"},
    ]
    (tmp_path / "test.jsonl").write_bytes(lines(rows))
    assert said(task(tmp_path, "dataset_path: .", "")) == [["Add\n\n1 2", "3"], ["Hi", "Ho"]]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "user", "content": "q"}], "a conversation should be user and assistant in turns"),
        (
            [{"role": "tool", "content": "q"}, {"role": "assistant", "content": "a"}],
            "the role 'tool' is none of",
        ),
        (
            [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}],
            "should be text, is None",
        ),
        ("q", "a conversation should be a list of turns"),
    ],
)
def test_conversation_that_cannot_be_taught_is_an_error(tmp_path: Path, turns: Any, message: str) -> None:
    (tmp_path / "test.jsonl").write_bytes(lines([{"messages": turns}]))
    line = failure(task(tmp_path, "dataset_path: .", "messages: messages\n"))
    assert ":3: messages: " in line and message in line


def test_rows_that_fit_no_form_say_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(lines(ROWS))
    line = failure(task(tmp_path, "dataset_path: .", ""))
    assert "give doc_to_text and doc_to_target" in line and "the columns are: text, reply" in line


WORLD = """
from dataclasses import dataclass

@dataclass
class Thing:
    name: "str"

def things(split: str, count: int) -> list[dict]:
    return [{"text": f"{split} {Thing(str(n)).name}", "reply": "yes"} for n in range(count)]

def broken(split: str) -> str:
    return "rows"
"""


def python(folder: Path, kwargs: str) -> Task:
    (folder / "world.py").write_text(WORLD, encoding="utf-8")
    return task(folder, f"dataset_path: python\ndataset_kwargs: {{{kwargs}}}")


def test_python_generator_gets_the_split_and_its_arguments(tmp_path: Path) -> None:
    one = python(tmp_path, "file: world.py, function: things, count: 20")
    assert said(one, "test")[:2] == [["test 0", "yes"], ["test 1", "yes"]]
    assert (one.count("train"), one.count("dev"), one.count("test")) == (18, 2, 20)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ("function: things", "dataset_kwargs: needs file and function"),
        ("file: ../world.py, function: things", "'../world.py' should lie beside the task file"),
        ("file: word.py, function: things", "word.py: no such file"),
        ("file: world.py, function: thing", "has no 'thing'; did you mean 'things'?"),
        ("file: world.py, function: broken", "should hold a list of rows"),
    ],
)
def test_mistake_in_a_python_source_is_told(tmp_path: Path, kwargs: str, message: str) -> None:
    line = failure(python(tmp_path, kwargs))
    assert ":2: dataset_path: " in line and message in line


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dataset_path: json", "dataset_kwargs.data_files: names no file"),
        ("dataset_path: json\ndataset_kwargs: {data_file: x}", "unknown key; did you mean 'data_files'?"),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: {tests: x}}",
            "has no split 'test'; the splits are: tests; did",
        ),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: x.jsonl}}", "x.jsonl: no such file"),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: it.yaml}}", "should end in .jsonl"),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: {test: bad.jsonl}}",
            "bad.jsonl:2: not valid JSON",
        ),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: {test: torn.jsonl.gz}}",
            "torn.jsonl.gz: cannot be read",
        ),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: empty.jsonl}}", "test has no rows"),
        ("dataset_path: ./nowhere", "nowhere: no such folder"),
    ],
)
def test_data_that_cannot_be_read_is_told_with_the_place(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "reply": "b"}\n{"text": \n', encoding="utf-8")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(lines(ROWS))[:-9])
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    line = failure(task(tmp_path, source))
    assert "it.yaml:2: dataset_path: " in line and message in line


MIRRORED = """\
doc_to_text: "{{ text }}?"
doc_to_target: reply
metadata:
  local:
    path: family/it
    columns: {text: "{{ input | lower }}", reply: "{{ output }}"}
"""


def copies(root: Path, *splits: str) -> Path:
    (root / "family").mkdir(parents=True)
    rows = [{"task": "it", "instruction": "", "input": f"ROW {n}", "output": "yes"} for n in range(30)]
    for split in splits:
        (root / "family" / f"it.{split}.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
    return root


def test_local_copy_is_read_through_its_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = task(tmp_path, "dataset_path: some/set", MIRRORED)
    root = copies(tmp_path / "data", "train", "test")
    assert said(one, "test", data_root=root)[1] == ["row 1?", "yes"]
    monkeypatch.setenv(sources.DATA_ROOT, str(root))
    assert said(one, "test")[1] == ["row 1?", "yes"]
    assert (one.count("train"), one.count("dev")) == (27, 3)


def test_local_copy_may_have_a_dev_file(tmp_path: Path) -> None:
    one = task(tmp_path, "dataset_path: some/set", MIRRORED)
    root = copies(tmp_path / "data", "train", "dev")
    assert (one.count("train", root), one.count("dev", root)) == (30, 30)


class FakeDatasets:
    def __init__(self, result: Any) -> None:
        self.result, self.asked = result, ()

    def load_dataset(self, *args: Any, **kwargs: Any) -> Any:
        self.asked = (*args, *kwargs.items())
        if isinstance(self.result, Exception):
            raise self.result
        return iter(self.result)


def test_hub_is_asked_for_the_configuration_and_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDatasets(ROWS)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert FROM_HUB("nyu-mll/glue", "rte", {"revision": "r"}, "train") == ROWS
    assert fake.asked == ("nyu-mll/glue", "rte", ("split", "train"), ("revision", "r"))


@pytest.mark.parametrize("error", [ConnectionError("no way\nout"), ValueError("no way")])
def test_trouble_with_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets(error))
    with pytest.raises(ContinualError) as caught:
        FROM_HUB("some/set", None, {}, "train")
    assert caught.value.lines == (f"'some/set' (split train): {type(error).__name__}: no way",)


def test_count_does_not_download(tmp_path: Path) -> None:
    assert task(tmp_path, "dataset_path: some/set", MIRRORED).count("train") is None


def test_missing_data_says_what_was_looked_for_where_and_how_to_get_it(tmp_path: Path) -> None:
    one = task(tmp_path, "dataset_path: some/set", MIRRORED)
    assert failure(one, data_root=tmp_path / "data") == (
        f"{tmp_path}/it.yaml:2: dataset_path: the test rows of 'it' are not here: "
        f"looked for {tmp_path}/data/family/it.test.jsonl.gz, then asked the Hugging Face Hub for 'some/set' "
        "(split test): ConnectionError: no network; to get them, run once with a network, "
        "or keep a copy as DIR/family/it.test.jsonl.gz and give --data-root DIR or CONTINUAL_DATA=DIR"
    )


def test_same_rows_from_the_hub_and_from_a_copy_make_the_same_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = [{"text": f"row {n}", "reply": "yes"} for n in range(30)]
    monkeypatch.setattr(sources, "_from_hub", lambda *_: hub[::-1])
    one = task(tmp_path, "dataset_path: some/set", MIRRORED)
    root = copies(tmp_path / "data", "train")
    for split in ("train", "dev"):
        assert said(one, split) == said(one, split, data_root=root)[::-1]


def test_explode_makes_a_row_of_each_inner_row(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(lines([{"who": "Ann", "turns": [{"text": "a"}, {"text": "b"}]}]))
    keys = "doc_to_text: text\ndoc_to_target: who\nmetadata: {explode: turns}\n"
    assert said(task(tmp_path, "dataset_path: .", keys)) == [["a", "Ann"], ["b", "Ann"]]
