import json
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

from continual import cli
from continual.errors import ContinualError

ROOT = Path(cli.__file__).parent.parent

RECIPE = """\
# Mine.
model_name_or_path: builtin:tinyworld
curriculum: [reviews]
training: {learning_rate: 1e-3}
arms: {plain: {}}
"""

TASK = """\
task: reviews
dataset_path: json
dataset_kwargs: {data_files: {train: rows.jsonl, test: more-rows.jsonl}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Review: {{ text }}"
doc_to_choice: [negative, positive]
doc_to_target: "{{ label }}"
metric_list: [{metric: acc}]
metadata: {version: 1.0, summary: "Is a review positive?"}
"""

FIVE_MISTAKES = """\
model_name_or_path: builtin:tinyworld
curriculum: [reviews, revews]
adapter: {type: lora, r: zero}
training:
  leraning_rate: 1e-3
  learning_rate: 1e-3
arms:
  upper: {teach: multitask, rehearsal: {}}
  other: {teach: sequentially}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe, and a task beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "reviews.yaml").write_text(TASK)
    rows = [{"text": f"It was {'good' if i % 2 else 'bad'} {i}.", "label": i % 2} for i in range(60)]
    for name, part in (("rows", rows[:40]), ("more-rows", rows[40:])):
        (tmp_path / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple, dict]]:
    """Stand-ins for what trains, talks and reports; they note how they are called."""
    made: list[tuple[str, tuple, dict]] = []

    def noted(name: str, result: object = None):
        def call(*args: object, **kwargs: object) -> object:
            made.append((name, args, kwargs))
            return result

        return call

    modules = {
        "execute": {"run": None},
        "talk": {"ask": "an answer", "chat": None, "rehearse": None},
        "show": {"show_task": None},
    }
    for module, functions in modules.items():
        stand_in = types.ModuleType(f"continual.{module}")
        for name, result in functions.items():
            setattr(stand_in, name, noted(f"{module}.{name}", result))
        monkeypatch.setitem(sys.modules, f"continual.{module}", stand_in)
        monkeypatch.setattr(f"continual.{module}", stand_in, raising=False)
    return made


def run(*words: str) -> int:
    """The exit code of ``continual words…``."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    return int(caught.value.code or 0)


# Mistakes


def test_five_mistakes_are_five_lines_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "mine.yaml").write_text(FIVE_MISTAKES)
    before = sorted(folder.rglob("*"))
    assert run("run", "mine.yaml") == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "mine.yaml:2: curriculum.1: unknown task 'revews'; did you mean 'reviews'?",
        "mine.yaml:3: adapter.r: Input should be a valid integer, unable to parse string as an integer",
        "mine.yaml:5: training.leraning_rate: unknown key; did you mean 'learning_rate'?",
        "mine.yaml:8: arms.upper.rehearsal: multitask has no earlier tasks to rehearse; only teach: sequential has",
        "mine.yaml:9: arms.other.teach: Input should be 'sequential', 'specialists', 'multitask', 'merge' or"
        " 'distill'; did you mean 'sequential'?",
    ]
    assert captured.out == ""
    assert sorted(folder.rglob("*")) == before


def test_a_mistake_in_an_override_names_it(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("run", "mine.yaml", "training.leraning_rate=1") == 2
    assert capsys.readouterr().err == (
        "override: training.leraning_rate: unknown key; did you mean 'learning_rate'?\n"
    )


def test_bugs_keep_their_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def bug(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("continual.recipe.load_recipe", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "mine.yaml"])


# run


def test_run_hands_over_the_recipe_and_where_its_data_lie(folder: Path, calls: list):
    (folder / "more").mkdir()
    words = ("run", "mine.yaml", "seed=3", "--fresh", "--data-root", "data", "--tasks", "more")
    assert run(*words, "training.max_length=64") == 0
    ((name, (recipe,), given),) = calls
    assert name == "execute.run"
    assert (recipe.seeds, recipe.training.max_length) == ((3,), 64)
    assert recipe.output_dir.startswith("runs/mine-")
    assert given["data_root"] == Path("data")
    assert given["task_folders"] == [Path("more"), Path("tasks")]
    assert given["fresh"] is True


def test_run_goes_on_by_default_and_reads_the_environment(folder: Path, calls: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONTINUAL_DATA", "elsewhere")
    assert run("run", "mine.yaml") == 0
    assert calls[0][2]["fresh"] is False
    assert calls[0][2]["data_root"] == Path("elsewhere")


def test_quitting_says_how_to_go_on(
    folder: Path, calls: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["continual.execute"], "run", interrupted)
    assert run("run", "mine.yaml", "seed=3", "sweep={adapter.r: [1, 2]}") == 130
    assert capsys.readouterr().err == (
        "stopped; go on with: continual run mine.yaml seed=3 'sweep={adapter.r: [1, 2]}'\n"
    )


def test_going_on_keeps_folders_but_never_starts_over(
    folder: Path, calls: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["continual.execute"], "run", interrupted)
    assert run("run", "mine.yaml", "--fresh", "--data-root", "d", "--tasks", "tasks") == 130
    assert capsys.readouterr().err == ("stopped; go on with: continual run mine.yaml --data-root d --tasks tasks\n")


def test_dry_run_trains_nothing(folder: Path, calls: list, monkeypatch: pytest.MonkeyPatch):
    described = []
    monkeypatch.setattr("continual.plan.describe", lambda *args: described.append(args))
    assert run("run", "mine.yaml", "--dry-run") == 0
    assert calls == []
    assert described[0][0].tasks == ("reviews",)
    assert described[0][2] == [Path("tasks")]
    assert described[0][4] == "continual run mine.yaml"


# ls, show, validate


def test_ls_lists_each_kind(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "runs" / "first").mkdir(parents=True)
    manifest = {"schema": 1, "name": "first", "created": "2025-11-22", "state": "finished"}
    (folder / "runs" / "first" / "manifest.json").write_text(json.dumps(manifest))
    assert run("ls", "--tasks", "tasks") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tasks\ttasks\treviews\tIs a review positive?" in lines
    assert any(line.startswith("recipes\t\tquickstart\tFive skills in order") for line in lines)
    assert "runs\t\truns/first\tfinished, begun 2025-11-22" in lines
    assert any(line.startswith("methods\t") and "\trehearsal\t" in line for line in lines)
    assert run("ls", "runs") == 0
    assert capsys.readouterr().out.splitlines() == ["runs\t\truns/first\tfinished, begun 2025-11-22"]


def test_show_prints_a_recipe_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("show", "mine.yaml") == 0
    assert capsys.readouterr().out == RECIPE
    assert run("show", "quickstart") == 0
    assert capsys.readouterr().out == (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")


def test_show_renders_a_task(folder: Path, calls: list):
    assert run("show", "reviews", "-n", "2", "--tasks", "tasks", "--model", "other") == 0
    ((name, (task, model, n, _), _given),) = calls
    assert (name, task.task, model, n) == ("show.show_task", "reviews", "other", 2)


def test_show_of_something_unknown(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("show", "quickstat") == 2
    assert capsys.readouterr().err == "no recipe or task is called 'quickstat'; did you mean 'quickstart'?\n"


def test_validate_says_what_is_right(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("validate", "mine.yaml", "tasks/reviews.yaml") == 0
    assert capsys.readouterr().out.splitlines() == [
        "mine.yaml: ok, recipe with 1 task and 1 arm",
        "tasks/reviews.yaml: ok, task reviews (multiple_choice, acc)",
    ]


def test_validate_tells_the_mistakes_of_every_file(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "bad.yaml").write_text(FIVE_MISTAKES)
    (folder / "tasks" / "bad.yaml").write_text(TASK.replace("task: reviews", "task: bad").replace("acc", "ac"))
    assert run("validate", "bad.yaml", "mine.yaml", "tasks/bad.yaml") == 2
    captured = capsys.readouterr()
    assert captured.out == "mine.yaml: ok, recipe with 1 task and 1 arm\n"
    assert len(captured.err.splitlines()) == 6
    assert captured.err.splitlines()[-1].startswith("tasks/bad.yaml:")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{ text }}", "{{ texd }}", "tasks/reviews.yaml:7: doc_to_text: 'texd' is undefined"),
        ("{{ label }}", "{{ label + 5 }}", "tasks/reviews.yaml:9: doc_to_target: 5 is no index into the 2 choices"),
        ("rows.jsonl, t", "nowhere.jsonl, t", "nowhere.jsonl: no such file"),
    ],
)
def test_validate_looks_at_the_first_rows_of_a_task(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
):
    (folder / "tasks" / "reviews.yaml").write_text(TASK.replace(old, new))
    assert run("validate", "tasks/reviews.yaml") == 2
    assert message in capsys.readouterr().err


def test_validate_says_that_rows_on_the_hub_were_not_looked_at(folder: Path, capsys: pytest.CaptureFixture[str]):
    from continual.paths import shipped

    assert run("validate", str(shipped("tasks") / "lamol" / "sst.yaml")) == 0
    assert "its rows are on the Hub and were not looked at" in capsys.readouterr().out


# What needs a run


def test_runs_are_found_by_name(folder: Path, calls: list, capsys: pytest.CaptureFixture[str]):
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "runs" / "first" / "manifest.json").write_text("{}")
    assert run("ask", "first", "What is new?", "--adapter", "base") == 0
    assert calls[-1] == ("talk.ask", (Path("runs/first"), "What is new?", "base", False), {})
    assert capsys.readouterr().out == "an answer\n"
    assert run("chat", "runs/first") == 0
    assert calls[-1][0] == "talk.chat" and calls[-1][1][:2] == (Path("runs/first"), None)
    assert run("rehearse", "first", "--task", "edit", "-n", "4") == 0
    assert calls[-1][1][:3] == (Path("runs/first"), "edit", 4)
    assert run("ask", "frist", "x") == 2
    assert "no run in frist or runs/frist" in capsys.readouterr().err


def test_report_of_several_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in ("a", "b"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "manifest.json").write_text("{}")
        # Left by the report that is written just before; here by hand.
        (folder / "runs" / name / "results.json").write_text(f'{{"name": "{name}"}}')
    written = []
    monkeypatch.setattr("continual.report.write", lambda runs, out: written.append((runs, out)) or out)
    monkeypatch.setattr("continual.report.tables", lambda results, console: print("table", results["name"]))
    assert run("report", "a", "b", "--out", "page.html") == 0
    assert written == [([Path("runs/a"), Path("runs/b")], Path("page.html"))]
    assert capsys.readouterr().out.splitlines() == ["table a", "table b", "the page: page.html"]


def test_pretrain_refuses_a_recipe_that_teaches(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("pretrain", "mine.yaml", "--out", "model") == 2
    assert "mine.yaml" in capsys.readouterr().err


# The program


def test_version(capsys: pytest.CaptureFixture[str]):
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("continual ")


def test_warnings_are_plain_lines():
    assert cli._one_line("the file hides another", UserWarning, "file.py", 3) == "mind: the file hides another\n"


def cpu_seconds() -> float:
    """What finished child processes have computed so far: the clock on the wall is shared with other programs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_names_every_command():
    command = [sys.executable, "-m", "continual", "--help"]
    environment = {**os.environ, "COLUMNS": "100"}
    best, shown = 60.0, ""
    for _ in range(3):
        start = cpu_seconds()
        shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        best = min(best, cpu_seconds() - start)
    for name in (
        "run",
        "ls",
        "show",
        "validate",
        "report",
        "check",
        "rollback",
        "teach",
        "ask",
        "chat",
        "rehearse",
        "pretrain",
    ):
        assert f" {name} " in shown
    assert best < 0.7


def test_a_model_that_cannot_be_had_is_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    monkeypatch.setenv("HF_HOME", str(folder / "cache"))
    assert run("run", "mine.yaml", "model_name_or_path=continual-tests/no-such-model", "--dry-run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("model_name_or_path: cannot load 'continual-tests/no-such-model'")
    assert "Name or service not known" in line
    assert "local folder" in line and "HF_HUB_OFFLINE" in line
    assert not (folder / "runs").exists()


def test_missing_data_are_told_for_every_task(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from continual import estimate

    for name in ("one", "two"):
        text = TASK.replace("task: reviews", f"task: {name}").replace("rows.jsonl", "none.jsonl")
        (folder / "tasks" / f"{name}.yaml").write_text(text)
    from continual.recipe import load_recipe

    (folder / "mine.yaml").write_text(RECIPE.replace("[reviews]", "[one, reviews, two]"))
    recipe = load_recipe("mine.yaml", folders=[Path("tasks")])
    chat = types.SimpleNamespace(rows=lambda sample: [sample], encode=lambda sample, n: _Encoded())
    base = types.SimpleNamespace(chat=chat)
    with pytest.raises(ContinualError) as caught:
        estimate.look_at_tasks(recipe, base, None, [Path("tasks")])
    assert len(caught.value.lines) == 2
    assert ["one.yaml" in caught.value.lines[0], "two.yaml" in caught.value.lines[1]] == [True, True]


class _Encoded:
    input_ids = (1, 2)
    answer = (0, 1)
    truncated = False
