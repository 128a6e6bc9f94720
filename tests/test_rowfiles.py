"""Files as people bring them: every dialect and encoding, and files that stay on the disk."""

import gzip
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from test_sources import parquet

from continual import rowfiles
from continual.errors import ContinualError
from continual.rowfiles import Reading, open_rows, read_file
from continual.task import Task, read_task

PLAIN = 'q,a\nWie heißt du?,"Zoë, sagt ""sie"""\n"zwei\nZeilen",ja\n'
ROWS = [{"q": "Wie heißt du?", "a": 'Zoë, sagt "sie"'}, {"q": "zwei\nZeilen", "a": "ja"}]


def with_delimiter(delimiter: str) -> str:
    cells = [["q", "a"], *([row["q"], row["a"]] for row in ROWS)]
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
    return "".join(delimiter.join(row) + "\r\n" for row in quoted)


DIALECTS = {
    "plain.csv": PLAIN.encode(),
    "mark.csv": b"\xef\xbb\xbf" + PLAIN.encode(),
    "semicolon.csv": b"\xef\xbb\xbf" + with_delimiter(";").encode(),
    "tab.csv": with_delimiter("\t").encode(),
    "tab.tsv": with_delimiter("\t").encode(),
    "bar.csv": with_delimiter("|").encode(),
    "windows.csv": PLAIN.encode("cp1252"),
    "excel.csv": with_delimiter("\t").encode("utf-16"),
    "utf16.csv": PLAIN.encode("utf-16-le"),
    "macintosh.csv": PLAIN.replace("zwei\n", "zwei\\").replace("\n", "\r").replace("zwei\\", "zwei\n").encode(),
    "backslash.csv": PLAIN.replace('""', '\\"').encode(),
    "packed.csv.gz": gzip.compress(with_delimiter(";").encode(), mtime=0),
    "mark.jsonl": b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "utf16.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode("utf-16"),
    "mark.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
}


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.filterwarnings("ignore:.*was read as cp1252")
@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert read_file(written(tmp_path, name, DIALECTS[name])) == ROWS


@pytest.mark.filterwarnings("ignore:.*was read as cp1252")
@pytest.mark.parametrize("name", DIALECTS)
def test_a_large_file_gives_the_rows_of_a_small_one(tmp_path: Path, name: str) -> None:
    rows = open_rows([written(tmp_path, name, DIALECTS[name])], Reading())
    assert len(rows.digests) == 2 and rows.head(5) == ROWS
    assert list(rows.take([0, 1])) == ROWS and list(rows.take([1])) == ROWS[1:]


def test_quotes_in_the_middle_of_cells_are_letters(tmp_path: Path) -> None:
    text = b'q\ta\n"Hello" she said\tyes\na 5" nail\tno\n'
    for rows in (read_file, lambda file: list(open_rows([file], Reading()).take([0, 1]))):
        assert rows(written(tmp_path, "x.tsv", text)) == [
            {"q": '"Hello" she said', "a": "yes"},
            {"q": 'a 5" nail', "a": "no"},
        ]


def test_delimiter_and_encoding_may_be_given(tmp_path: Path) -> None:
    text = "q:a\nПривет, мир:да\n"
    reading = Reading(":", "cp1251")
    assert read_file(written(tmp_path, "x.csv", text.encode("cp1251")), reading) == [{"q": "Привет, мир", "a": "да"}]


def test_western_windows_is_a_guess_that_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"x.csv is not UTF-8 and was read as cp1252.*ß ë.*encoding: "):
        read_file(written(tmp_path, "x.csv", PLAIN.encode("cp1252")))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "q,a\nПривет мир,да\n".encode("cp1251"), "x.csv:2: is not UTF-8 text; give dataset_kwargs: {enc"),
        ("x.csv", "q,a\n这部电影很好看,好\n".encode("gb18030"), "x.csv:2: is not UTF-8 text"),
        ("x.jsonl", b'{"q": "a"}\n{"q": "caf\xe9"}\n', "x.jsonl:2: is not utf-8"),
        ("x.csv", b"q,a\nx,y\nb, c,d\n", "row 2 has 3 cells, the header 2: a cell that holds the delimiter (',')"),
        ("x.csv", b'q,a\n"x" y,"z"\n"u","v"\n', "x.csv: row 1: "),
        ("x.csv", b'q,a\n"x, y",y\n"never closed,z\nu,v\n', "x.csv: row 2: "),
        ("x.csv", b"q,a,q\n1,2,3\n", "the header names the column 'q' twice"),
        ("x.jsonl", b'{"q": 1}\n[1, 2]\n', "row 2 is [1, 2]"),
        ("x.xlsx", b"PK", "is a workbook: save the sheet as CSV"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_row(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(ContinualError) as caught:
        read_file(written(tmp_path, name, data))
    assert message in str(caught.value)


def test_cells_of_any_length_are_read(tmp_path: Path) -> None:
    text = f'q,a\n"{"x" * 200_000}",y\n'.encode()
    file = written(tmp_path, "x.csv", text)
    assert [len(row["q"]) for row in read_file(file)] == [200_000]
    assert [len(row["q"]) for row in open_rows([file], Reading()).take([0])] == [200_000]


def test_half_a_character_is_replaced_and_said(tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", b'{"q": "a \\ud83d b"}\n{"q": "\\ud83d\\ude00"}\n')
    with pytest.warns(UserWarning, match="1 row holds half a character"):
        assert read_file(file) == [{"q": "a \ufffd b"}, {"q": "😀"}]
    with pytest.warns(UserWarning):
        assert list(open_rows([file], Reading()).take([0])) == [{"q": "a \ufffd b"}]


def test_an_unnamed_column_of_excel_or_pandas_gets_a_name(tmp_path: Path) -> None:
    assert read_file(written(tmp_path, "x.csv", b",q\n0,hi\n")) == [{"column_1": "0", "q": "hi"}]


def reviews(n: int) -> list[dict[str, Any]]:
    labels = ("bad", "good")
    return [{"text": f'film, "number" {i}\nand more', "label": labels[i % 2]} for i in range(n)]


def large_task(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, keys: str = "") -> Task:
    """A task whose files stay on the disk, as if they were large."""
    monkeypatch.setattr(rowfiles, "LARGE", 1)
    monkeypatch.setattr("continual.task.LARGE", 1)
    rows = reviews(300)
    if kind == "csv":
        cells = ['"{}",{}\n'.format(row["text"].replace('"', '""'), row["label"]) for row in rows]
        (folder / "train.csv").write_text("text,label\n" + "".join(cells), encoding="utf-8")
    elif kind == "parquet":
        (folder / "train.parquet").write_bytes(parquet(rows))
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        packed = kind.endswith(".gz")
        (folder / f"train.{kind}").write_bytes(gzip.compress(text) if packed else text)
    path = folder / "it.yaml"
    path.write_text(
        'task: it\ndataset_path: .\ndoc_to_text: "{{ text }}"\ndoc_to_target: label\n' + keys, encoding="utf-8"
    )
    return read_task(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl.gz", "parquet"])
def test_a_large_file_is_split_by_its_rows_and_read_by_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    one = large_task(tmp_path, monkeypatch, kind)
    parts = {split: {s.prompt[0].content for s in one.samples(split)} for split in ("train", "dev", "test")}
    assert [len(part) for part in parts.values()] == [225, 25, 50]
    assert set.union(*parts.values()) == {row["text"] for row in reviews(300)}
    assert [one.count(split) for split in ("train", "dev", "test")] == [225, 25, 50]
    few = one.samples("train", limit=20)
    assert len(few) == 20 and few == read_task(tmp_path / "it.yaml").samples("train", seed=3, limit=20)
    assert {sample.prompt[0].content for sample in few} < parts["train"]


def test_only_the_rows_that_are_wanted_are_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = large_task(tmp_path, monkeypatch, "jsonl")
    rendered = []
    real = rowfiles.TextRows._row
    monkeypatch.setattr(
        rowfiles.TextRows, "_row", lambda self, record, number: rendered.append(number) or real(self, record, number)
    )
    one.samples("train", limit=20)
    assert len(rendered) == 20 and one.count("train") == 225 and len(rendered) == 20


def test_a_limit_counts_the_rows_that_where_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = "metadata: {where: \"{{ label == 'good' }}\"}\n"
    one = large_task(tmp_path, monkeypatch, "jsonl", keys)
    assert [sample.answer for sample in one.samples("train", limit=40)] == ["good"] * 40
    assert one.count("train") == len(one.samples("train"))


def test_an_error_in_a_large_file_has_the_number_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = large_task(tmp_path, monkeypatch, "jsonl")
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[41] = '{"text": "x", "label": null}\n'
    (tmp_path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(ContinualError, match=r"the column 'label' is empty \(row 42 of (train|test)\)"):
        for split in ("train", "dev", "test"):
            one.samples(split)


def test_reading_warns_of_nothing_in_plain_files(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_file(written(tmp_path, "x.csv", PLAIN.encode()))


MEASURED = """
import resource, sys
from continual.cli import main
try:
    main(["run", sys.argv[1], "--dry-run"])
except SystemExit as end:
    assert not end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print("cost", used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def cost_of_a_plan(folder: Path, rows: int) -> tuple[float, float]:
    """CPU seconds and megabytes of a dry run on a CSV file of so many rows."""
    texts = [f',"{"word " * 40} {number}, he said ""yes""",' for number in range(1000)]
    with (folder / f"{rows}.csv").open("w") as file:
        file.write("id,text,label\n")
        for start in range(0, rows, 1000):
            many = min(1000, rows - start)
            file.writelines(f"{start + n}{texts[n]}{'good' if n % 2 else 'bad'}\n" for n in range(many))
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / f"{rows}.yaml").write_text(
        f"task: t{rows}\ndataset_path: csv\ndataset_kwargs: {{data_files: {{train: ../{rows}.csv}}}}\n"
        "doc_to_text: text\ndoc_to_target: label\ndoc_to_choice: [bad, good]\n"
    )
    recipe = folder / f"{rows}-recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: builtin:tinyworld\ncurriculum: [t{rows}]\nevaluate: {{limit: 100}}\n"
        "training: {learning_rate: 1e-3, max_samples: 200, tokens_per_batch: 512}\n"
    )
    words = [sys.executable, "-c", MEASURED, str(recipe)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=one_thread())
    assert done.returncode == 0, done.stderr
    _, seconds, kilobytes = done.stdout.splitlines()[-1].split()
    return float(seconds), float(kilobytes) / 1024


def one_thread() -> dict[str, str]:
    root = str(Path(rowfiles.__file__).parent.parent)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}


@pytest.mark.slow
def test_two_million_rows_cost_little_more_than_two_hundred(tmp_path: Path) -> None:
    few, many = cost_of_a_plan(tmp_path, 200), cost_of_a_plan(tmp_path, 2_000_000)
    assert (tmp_path / "2000000.csv").stat().st_size > 400_000_000
    # Where other jobs share the cores a CPU second does a third of its work; reading all rows took 80.
    assert many[0] - few[0] < 15 and many[1] - few[1] < 400
