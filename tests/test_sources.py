import csv
import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from continual import rowfiles, sources
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


QA = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


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
    # By name: gzip puts the time into its bytes, and two workers may not collect in the same second.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_of_any_kind_is_read_beside_the_task_file_and_as_a_folder(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    builder = name.removesuffix(".gz").split(".")[-1].replace("jsonl", "json")
    by_file = task(tmp_path, f"dataset_path: {builder}\ndataset_kwargs: {{data_files: {{test: {name}}}}}")
    wanted = [["早安\u2028 a", "one"], ['b "quoted", c', "two"]]
    assert said(by_file) == wanted
    assert said(task(tmp_path, "dataset_path: .")) == wanted


def test_delimiter_and_encoding_may_stand_in_the_task_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("text:reply\nПривет, мир:да\n".encode("cp1251"))
    kwargs = "{data_files: {test: x.csv}, delimiter: ':', encoding: cp1251}"
    assert said(task(tmp_path, f"dataset_path: csv\ndataset_kwargs: {kwargs}")) == [["Привет, мир", "да"]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ("delimiter: '::'", "dataset_kwargs.delimiter: should be one character, is '::'"),
        ("delimiter: 5", "dataset_kwargs.delimiter: should be a text, is 5"),
        ("encoding: utf9", "dataset_kwargs.encoding: unknown encoding 'utf9'"),
        ("sep: ';'", "dataset_kwargs.sep: unknown key; known: data_files, delimiter, encoding"),
    ],
)
def test_a_wrong_way_to_read_a_file_is_told(tmp_path: Path, kwargs: str, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(table(ROWS))
    line = failure(task(tmp_path, f"dataset_path: csv\ndataset_kwargs: {{data_files: {{test: x.csv}}, {kwargs}}}"))
    assert message in line


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


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
ASKED = [("user", "Rain?", (), None), ("assistant", "", (CALL,), None), ("tool", "12 mm", (), "weather")]
TOOLED = [*ASKED, ("assistant", "Yes.", (), None)]
SPEC = {"type": "function", "function": {"name": "weather", "parameters": {}}}
AS_TEXT = '{"city": "Bern"}'
FORMS = {
    "openai": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Ra"}, {"type": "text", "text": "in?"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": AS_TEXT}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "12 mm"},
                {"role": "assistant", "content": "Yes."},
            ],
            "tools": [SPEC],
        },
        TOOLED,
    ),
    "openai-old": (
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": AS_TEXT}},
                {"role": "function", "name": "weather", "content": "12 mm"},
                {"role": "assistant", "content": "Yes."},
            ],
            "tools": json.dumps([SPEC["function"]]),
        },
        TOOLED,
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "Rain?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
                {"from": "observation", "value": "12 mm"},
                {"from": "gpt", "value": "Yes."},
            ],
            "system": "Be brief.",
            "tools": json.dumps([SPEC]),
        },
        [("system", "Be brief.", (), None), *[(r, c, t, None) for r, c, t, _ in TOOLED]],
    ),
    "alpaca": (
        {
            "instruction": "And now?",
            "input": None,
            "output": "Sun.",
            "system": "Be brief.",
            "history": [["Rain?", "Yes."]],
        },
        [
            ("system", "Be brief.", (), None),
            ("user", "Rain?", (), None),
            ("assistant", "Yes.", (), None),
            ("user", "And now?", (), None),
            ("assistant", "Sun.", (), None),
        ],
    ),
    "trl-texts": (
        {"prompt": "Rain?", "completion": "Yes."},
        [("user", "Rain?", (), None), ("assistant", "Yes.", (), None)],
    ),
    "trl-messages": (
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rain?"}],
            "completion": [{"role": "assistant", "content": "Yes."}],
        },
        [("system", "Be brief.", (), None), ("user", "Rain?", (), None), ("assistant", "Yes.", (), None)],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_chat_data_is_read_whole(tmp_path: Path, form: str) -> None:
    row, turns = FORMS[form]
    (tmp_path / "test.jsonl").write_bytes(lines([row]))
    one = task(tmp_path, "dataset_path: .\ntest_split: test", "")
    (sample,) = one.samples("test")
    assert [(m.role, m.content, m.tool_calls, m.name) for m in sample.messages] == turns
    assert sample.tools == ((SPEC,) if "tools" in row else ())
    assert one._pool("test", None).renderer.unread == set()


def test_what_is_not_read_of_a_conversation_is_said(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q", "id": 7}, {"role": "assistant", "content": "a", "thinking": "hm"}]
    for split in ("train", "test"):
        rows = [{"messages": [{**turns[0], "content": f"{split} {n}"}, turns[1]], "source": "x"} for n in range(9)]
        (tmp_path / f"{split}.jsonl").write_bytes(lines(rows))
    assert task(tmp_path, "dataset_path: .", "").notices() == [
        "it: not read of the conversations: id of a turn, source, thinking of a turn"
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "x", "output": None}, "the column 'output' is empty"),
        ({"instruction": float("nan"), "output": "x"}, "the column 'instruction' is empty"),
        ({"prompt": "x", "completion": None}, "the column 'completion' is empty"),
        ({"prompt": "x", "chosen": "a", "rejected": "b"}, "the rows are preferences (chosen, rejected)"),
        ({"messages": [QA[0], {"role": "assistant", "content": float("nan")}]}, "should be text, is nan"),
    ],
)
def test_nulls_and_preferences_are_refused_with_the_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {"instruction": "a", "output": "b"} if "instruction" in row else {"messages": QA}
    (tmp_path / "test.jsonl").write_bytes(lines([good, row]))
    line = failure(task(tmp_path, "dataset_path: .", ""))
    assert message in line and line.endswith("(row 2 of test)")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "user", "content": "q"}], "a conversation should be user and assistant in turns"),
        ([{"role": "judge", "content": "q"}], "the role 'judge' is none of"),
        ([{"role": "tool", "content": "q"}, {"role": "assistant", "content": "a"}], "here it is tool, assistant"),
        ([*QA, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}], "weight 0"),
        ([{"role": "user", "content": [{"type": "image"}]}, QA[1]], "a part of type image; only text is read"),
        ([QA[0], {"role": "assistant", "tool_calls": [{"name": "f"}]}], "an answer that is a call cannot be scored"),
        (
            [QA[0], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
            "the arguments of a tool call should be JSON",
        ),
        ([{"role": "system", "content": "other"}, *QA], "a system column and another system message"),
        (
            [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}],
            "should be text, is None",
        ),
        ("q", "a conversation should be a list of turns"),
    ],
)
def test_conversation_that_cannot_be_taught_is_an_error(tmp_path: Path, turns: Any, message: str) -> None:
    (tmp_path / "test.jsonl").write_bytes(lines([{"messages": turns, "system": "s" if len(turns) == 3 else None}]))
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


class HubRows(list[dict[str, Any]]):
    info = SimpleNamespace(dataset_size=1000)


class FakeDatasets:
    def __init__(self, result: Any) -> None:
        self.result, self.asked = result, ()

    def load_dataset(self, *args: Any, **kwargs: Any) -> Any:
        self.asked = (*args, *kwargs.items())
        if isinstance(self.result, Exception):
            raise self.result
        return HubRows(self.result)


def test_hub_is_asked_for_the_configuration_and_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDatasets(ROWS)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert FROM_HUB("nyu-mll/glue", "rte", {"revision": "r"}, "train") == ROWS
    assert fake.asked == ("nyu-mll/glue", "rte", ("split", "train"), ("revision", "r"))


def test_a_large_set_of_the_hub_stays_in_its_memory_map(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_list([{"text": f"row {n}", "reply": "yes", "n": [n]} for n in range(30)])
    table.info.dataset_size = rowfiles.LARGE + 1
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    rows = FROM_HUB("some/set", None, {}, "train")
    assert isinstance(rows, rowfiles.ArrowRows) and len(set(rows.digests.tolist())) == 30
    assert [row["n"] for row in rows.take([3, 20])] == [[3], [20]] and rows.head(2)[1]["text"] == "row 1"


def test_a_stream_gives_its_first_rows_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def take(self, count: int) -> list[dict[str, Any]]:
            return ROWS[:count]

    fake = FakeDatasets(ROWS)
    fake.load_dataset = lambda *args, **kwargs: (setattr(fake, "asked", kwargs), Stream())[1]  # type: ignore
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert FROM_HUB("some/set", None, {"streaming": True, "rows": 1}, "train") == ROWS[:1]
    assert fake.asked == {"split": "train", "streaming": True}
    with pytest.raises(ContinualError, match="a stream needs the number of rows"):
        FROM_HUB("some/set", None, {"streaming": True}, "train")


def test_hub_data_without_a_test_part_hold_one_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(path: str, name: str | None, kwargs: Any, split: str) -> list[dict[str, Any]]:
        if split == "test":
            raise sources.NoSplitError("Unknown split")
        return [{"text": f"row {n}", "reply": "yes"} for n in range(50)]

    monkeypatch.setattr(sources, "_from_hub", hub)
    one = task(tmp_path, "dataset_path: some/set")
    assert [len(one.samples(split)) for split in ("train", "dev", "test")] == [36, 4, 10]


def test_half_a_character_from_a_generator_is_refused_with_its_row(tmp_path: Path) -> None:
    code = 'def things(split):\n    return [{"text": "a", "reply": "b"}, {"text": "\\ud83d", "reply": "b"}]\n'
    (tmp_path / "world.py").write_text(code)
    one = task(tmp_path, "dataset_path: python\ndataset_kwargs: {file: world.py, function: things}")
    assert "row 2 of test holds half a character" in failure(one)


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
