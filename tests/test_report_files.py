"""`continual report --out`: the suffix of the file is the format, for one run and for several."""

import csv
import json
import re
from pathlib import Path

import pytest
from fake_run import write_arm, write_run
from test_report import quick

from continual import cli, report, results
from continual.errors import ContinualError

HOSTILE = "50%_of {a} & b|c #1 ~^\\"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return quick(tmp_path)


def written(runs: list[Path], out: Path) -> str:
    assert report.write(runs, out) == out
    return out.read_text(encoding="utf-8")


def test_each_suffix_is_a_format(run: Path, tmp_path: Path) -> None:
    assert written([run], tmp_path / "a/page.html").startswith("<!DOCTYPE html>")
    assert r"\begin{tabular}{lrrrrrr}" in written([run], tmp_path / "a.tex")
    assert "| arm | ACC | forgetting |" in written([run], tmp_path / "a.md")
    assert json.loads(written([run], tmp_path / "a.json")) == results.collect(run)
    assert written([run], tmp_path / "a.csv").startswith("run,arm,set,teach,runs,acc,")
    assert written([run], tmp_path / "a.TEX") == written([run], tmp_path / "a.tex")
    assert not (tmp_path / "plots").exists()  # they belong to the page


def test_numbers_are_those_of_the_results(run: Path, tmp_path: Path) -> None:
    arms = results.collect(run)["arms"]
    lines = list(csv.DictReader(written([run], tmp_path / "a.csv").splitlines()))
    assert [line["arm"] for line in lines] == list(arms)
    for line in lines:
        mean, cost = arms[line["arm"]]["mean"], arms[line["arm"]]["runs"][0]["cost"]
        assert float(line["acc"]) == mean["acc"] and float(line["seconds"]) == cost["seconds"]
        assert line["bwt"] == ("" if mean["bwt"] is None else repr(mean["bwt"]))
    tex, markdown = written([run], tmp_path / "a.tex"), written([run], tmp_path / "a.md")
    assert r"rehearsal & 79.0 & 1.5 & $-$1.5" in tex
    assert "| rehearsal | 79.0 | 1.5 | −1.5" in markdown
    assert r"edit & 90.0 & 80.0 & 10.0 \\" in tex and "| edit | 90.0 | 80.0 | 10.0 |" in markdown


def test_several_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = quick(tmp_path, "other", seeds=(0, 1))
    runs = [run, other]
    tex, markdown = written(runs, tmp_path / "a.tex"), written(runs, tmp_path / "a.md")
    for name in ("quick · rehearsal", "other · rehearsal × 2"):
        assert f"| {name} |" in markdown
        assert name.replace("·", r"$\cdot$").replace("×", r"$\times$") + " &" in tex
    assert r" $\pm$ 0.0" in tex
    assert json.loads(written(runs, tmp_path / "a.json")) == [results.collect(one) for one in runs]
    lines = list(csv.DictReader(written(runs, tmp_path / "a.csv").splitlines()))
    assert [(line["run"], line["runs"]) for line in lines[::3]] == [("quick", "1"), ("other", "2")]


def test_latex_takes_any_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "my_run", {HOSTILE.replace("\\", "x"): "sequential"}, [HOSTILE, "b"])
    write_arm(run, HOSTILE.replace("\\", "x"), [[0.0, 0.1], [0.5, 0.1], [0.4, 0.6]], tasks=[HOSTILE, "b"])
    tex = written([run], tmp_path / "a.tex")
    for line in tex.splitlines():
        if line.startswith("%"):
            continue
        rest = re.sub(r"\\\\$|\\[&%$#_{}]|\$(\\\w+|[-<>|])\$|\\\w+", "", line)
        assert not re.search(r"[%$#_~^\\]", rest), line
    tables = re.findall(r"\\begin\{tabular\}\{(.*?)\}(.*?)\\end\{tabular\}", tex, re.DOTALL)
    assert len(tables) == tex.count(r"\toprule") == tex.count(r"\bottomrule") == 3
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    labels = re.findall(r"\\label\{(.*?)\}", tex)
    assert len(set(labels)) == 3 and all(re.fullmatch(r"tab:[A-Za-z0-9-]+", label) for label in labels)


def test_markdown_takes_any_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a|b": "sequential"}, ["x"])
    write_arm(run, "a|b", [[0.0], [0.5]], tasks=["x"])
    assert r"| a\|b | 50.0 |" in written([run], tmp_path / "a.md")


def test_a_run_without_finished_arms_is_an_empty_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": "sequential"}, ["x"])
    for suffix in ("tex", "md", "csv", "json", "html"):
        assert written([run], tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("name", ["table.pdf", "table", "table.text", ".tex", "table.htm", "table.tex.gz", "."])
def test_another_suffix_is_refused_and_nothing_written(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit) as end:
        cli.main(["report", str(run), "--out", str(tmp_path / name)])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and ".html, .md, .tex, .csv, .json" in line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_near_suffix_is_suggested(run: Path) -> None:
    with pytest.raises(ContinualError, match="did you mean '.tex'"):
        report.write([run], Path("table.text"))


def test_the_command_says_where_the_report_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.tex"
    with pytest.raises(SystemExit) as end:
        cli.main(["report", str(run), "--out", str(out)])
    assert not end.value.code
    assert f"the report: {out}" in capsys.readouterr().out
