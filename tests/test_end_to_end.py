"""The commands of the README, one after another, on a tiny world."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_world

from continual import cli
from continual.runs import Run

RECIPE = """\
# Two small things.
model_name_or_path: model
curriculum: [sound, legs]
adapter: {r: 2}
training: {learning_rate: 1e-2, num_train_epochs: 1, tokens_per_batch: 256, max_length: 48}
arms:
  finetune: {}
  rehearsal: {rehearsal: {ratio: 0.2, max_tries: 1}}
  multitask: {teach: multitask}
evaluate: {limit: 4}
"""

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a recipe, its tasks beside it, and a finished run."""
    world = make_world(tmp_path_factory.mktemp("end"))
    (world / "mine.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.chdir(world)
        cli.main(["run", "mine.yaml"])
    assert left.value.code == 0
    return world


@pytest.fixture
def call(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Types a command; gives exit code, output and errors."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("COLUMNS", "160")

    def typed(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    return typed


def test_a_run_tells_what_was_learned_and_what_to_type_next(call: Call, world: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in (world / "runs/mine").rglob("*.safetensors")}
    code, out, _ = call("run", "mine.yaml")  # finished already: only the last words again
    assert code == 0
    assert "runs/mine/report.html" in out and "next   continual chat runs/mine" in out
    assert weights and weights == {path: path.stat().st_mtime_ns for path in weights}
    for name in ("manifest.json", "recipe.yaml", "results.json", "report.html", "README.md"):
        assert (world / "runs/mine" / name).is_file()


def test_the_run_is_listed(call: Call) -> None:
    code, out, _ = call("ls", "runs")
    (line,) = out.splitlines()
    assert code == 0 and line.split("\t")[2] == "runs/mine" and "finished" in line


def test_a_run_whose_process_was_killed_is_stopped_and_not_running(call: Call, world: Path) -> None:
    path = world / "runs/mine/manifest.json"
    finished = path.read_text()
    path.write_text(json.dumps({**json.loads(finished), "state": "running"}))
    try:
        assert "\tstopped, begun " in call("ls", "runs")[1]
        with Run(world / "runs/mine").locked():
            assert "\trunning, begun " in call("ls", "runs")[1]
        assert "\tstopped, begun " in call("ls", "runs")[1]
    finally:
        path.write_text(finished)


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_who_answers_from_a_run_is_seen_to_use_it(
    call: Call, world: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen = []
    where = {"chat": "continual.talk.chat", "serve": "continual.serve.server.serve"}[command]
    monkeypatch.setattr(where, lambda folder, *rest: seen.append(Run(folder).in_use))
    assert call(command, "mine")[0] == 0
    assert seen == [True] and not Run(world / "runs/mine").in_use


def test_the_report_goes_where_it_is_told(call: Call, world: Path) -> None:
    code, out, _ = call("report", "mine", "--out", "page.html")
    assert code == 0 and "the page: page.html" in out
    for arm in ("finetune", "rehearsal", "multitask"):
        assert arm in out and arm in (world / "page.html").read_text()


def test_asking_prints_the_answer_alone(call: Call) -> None:
    from continual import talk

    expected = talk.ask(Path("runs/mine"), "sad dog", "finetune")
    assert call("ask", "mine", "sad dog", "--adapter", "finetune") == (0, expected + "\n", "")


def test_asking_an_unknown_adapter_is_one_line_and_no_answer(call: Call) -> None:
    code, out, err = call("ask", "mine", "sad dog", "--adapter", "fientune")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "unknown adapter 'fientune'; did you mean 'finetune'" in err


def test_a_chat_ends_with_the_input(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("/adapters\n"))
    code, out, _ = call("chat", "mine")
    assert code == 0 and "rehearsal listens" in out and "base, " in out


def test_a_task_of_ones_own_is_rehearsed(call: Call) -> None:
    code, out, _ = call("rehearse", "mine", "--task", "sound", "-n", "2")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("───")]) == 2


def test_rehearsing_what_was_not_learnt_says_what_was(call: Call) -> None:
    code, _, err = call("rehearse", "mine", "--task", "first")
    assert code == 2 and "'first' was not learnt by rehearsal" in err and "sound, legs" in err


def test_another_recipe_is_refused_in_the_same_run(call: Call, world: Path) -> None:
    before = json.loads((world / "runs/mine/manifest.json").read_text())
    code, _, err = call("run", "mine.yaml", "training.learning_rate=0.5", "output_dir=runs/mine")
    assert code == 2 and "training.learning_rate: was 0.01, now 0.5" in err and "--fresh" in err
    assert json.loads((world / "runs/mine/manifest.json").read_text()) == before


def test_a_dry_run_writes_nothing(call: Call, world: Path) -> None:
    code, out, _ = call("run", "mine.yaml", "seed=5", "--dry-run")
    assert code == 0 and "nothing was trained; to run it: continual run mine.yaml seed=5" in out
    assert [path.name for path in (world / "runs").iterdir()] == ["mine"]


def test_a_task_file_is_shown_with_the_recipes_model(call: Call) -> None:
    code, out, _ = call("show", "tasks/legs.yaml", "--model", "model", "-n", "1")
    assert code == 0 and "<|end|><|assistant|>«six<|end|>»" in out
