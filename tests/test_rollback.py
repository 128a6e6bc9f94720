"""Back to the state after a task, and on again: as if nothing had been."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import teach
from rich.console import Console
from test_guard import REHEARSAL, THREE, TRAINING, arm
from test_resume import ADAPTER, Killed, die_at, matrices

from continual import runs, talk
from continual.cli import main
from continual.errors import ContinualError
from continual.rollback import Selection, rollback
from continual.runs import read_json

ARMS = {
    "rehearsal": arm("warn", {**REHEARSAL, "budget": "surprise", "when": "before_task"}),
    "kept": {"rehearsal": {**REHEARSAL, "when": "after_task"}},
}
SETTINGS: dict[str, Any] = {"arms": ARMS, "adapter": ADAPTER, "training": TRAINING, "curriculum": THREE}


def back(run: Path, task: str, arm: str | None = None, seed: int | None = None) -> None:
    rollback(run, Selection(task, arm, seed), Console(file=io.StringIO()))


def told(run: Path, arm: str = "rehearsal") -> dict[str, Any]:
    return dict(read_json(run / f"arms/{arm}/seed0/run.json"))


def files(run: Path) -> dict[str, str]:
    kinds = ("rehearsed", "guard", "predictions")
    found = [path for kind in kinds for path in run.glob(f"arms/*/seed0/{kind}/*")]
    return {str(path.relative_to(run)): path.read_text() for path in found}


@pytest.mark.parametrize("task", ["sound", "legs"])
def test_rolled_back_and_taught_again_a_run_is_what_it_was(world: Path, task: str) -> None:
    run = teach(world, **SETTINGS)
    whole, before, texts = matrices(run), told(run), files(run)
    back(run, task)
    number = THREE.index(task) + 1
    for name in ARMS:
        cut = told(run, name)
        assert cut["rows"] == ["base", *THREE[:number]] and len(cut["R"]) == len(cut["ci"]) == number + 1
        folder = run / f"arms/{name}/seed0"
        assert sorted(path.name for path in (folder / "after").iterdir()) == ["1", "2"][:number]
        numbers = {int(path.name.partition("-")[0]) for path in (folder / "rehearsed").glob("*")}
        assert all(n <= number for n in numbers)
        assert all(THREE.index(entry["before"]) < number for entry in cut["rehearsed"])
    assert read_json(run / "manifest.json")["state"] == f"rolled back to {task}"
    assert {entry["rows"] for entry in read_json(run / "results.json")["unfinished"]} == {number + 1}
    assert talk.taught(run)["rehearsal"] == run / f"arms/rehearsal/seed0/after/{number}"
    teach(world, **SETTINGS)
    assert matrices(run) == whole and files(run) == texts
    again = told(run)
    assert {**again, "cost": None} == {**before, "cost": None}
    for name in ("train_tokens", "generated_tokens", "real_rows_kept"):
        assert again["cost"][name] == before["cost"][name]
    assert read_json(run / "manifest.json")["state"] == "finished"


def test_what_lay_in_a_memory_goes_with_the_tasks(world: Path) -> None:
    settings = {**SETTINGS, "arms": {"kept": {"method": "replay", "method_args": {"mem_size": 12}}}}
    run = teach(world, **settings)
    before = told(run, "kept")
    assert [entry["task"] for entry in before["kept"]] == ["sound", "sound", "legs"]
    back(run, "legs")
    assert told(run, "kept")["kept"] == before["kept"][:1]
    assert told(run, "kept")["cost"]["real_rows_kept"] == before["kept"][0]["rows"]
    teach(world, **settings)
    assert {**told(run, "kept"), "cost": None} == {**before, "cost": None}


def test_only_the_arm_and_seed_that_are_named_go_back(world: Path) -> None:
    run = teach(world, **{**SETTINGS, "seeds": [0, 1], "curriculum": ["sound", "legs"]})
    before = matrices(run)
    back(run, "sound", "kept", 1)
    now = matrices(run)
    assert [name for name in now if now[name] != before[name]] == ["arms/kept/seed1/R.csv"]


def test_a_state_that_was_not_kept_is_told_with_those_that_were(world: Path) -> None:
    run = teach(world, **{**SETTINGS, "keep": "last"})
    before = matrices(run)
    with pytest.raises(ContinualError) as caught:
        back(run, "sound")
    assert len(caught.value.lines) == 2
    assert "rehearsal seed0: the state after sound is not there (`keep: all` keeps them); there is: first" in str(
        caught.value
    )
    assert matrices(run) == before and read_json(run / "manifest.json")["state"] == "finished"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "sund"], "'sund' is none of its tasks; did you mean 'sound'"),
        (["--to", "sound", "--arm", "keptt"], "'keptt' is no arm that is taught in sequence; did you mean 'kept'"),
        (["--to", "sound", "--seed", "7"], "with seed 7; there are [0]"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    world: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = teach(world, **{**SETTINGS, "curriculum": ["sound", "legs"]})
    with pytest.raises(SystemExit) as ended:
        main(["rollback", str(run), "--yes", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_killed_anywhere_a_rollback_leaves_a_run_that_goes_on_or_back(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    run = teach(world, **SETTINGS)
    whole = matrices(run)
    shutil.copytree(run, world / "saved")
    deaths = 0
    for nth in range(2, 12):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                back(run, "sound")
            except Killed:
                deaths += 1
        if nth % 2:  # on it goes
            teach(world, **SETTINGS)
        else:  # back once more
            back(run, "sound")
            assert {len(told(run, name)["R"]) for name in ARMS} == {2}
            teach(world, **SETTINGS)
        assert matrices(run) == whole
        shutil.rmtree(run)
        shutil.copytree(world / "saved", run)
    assert deaths > 6


def test_a_run_that_another_process_writes_is_left_alone(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = teach(world, **{**SETTINGS, "curriculum": ["sound", "legs"]})
    with runs.Run(run).locked(), pytest.raises(ContinualError, match="another process"):
        back(run, "sound")
    assert json.loads((run / "manifest.json").read_text())["state"] == "finished"


def typed(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["rollback", *words])
    return int(ended.value.code or 0)


def test_before_models_are_deleted_it_is_said_which_and_asked(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = teach(world, **{**SETTINGS, "curriculum": ["sound", "legs"]})
    before = matrices(run)
    doomed = [f"{name} seed0: the models after legs will be deleted" for name in ("kept", "rehearsal")]
    # A script has nobody who could be asked.
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert typed(str(run), "--to", "sound") == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == doomed
    assert err == "nothing was changed: give --yes to delete them, --arm NAME for one arm alone\n"
    assert matrices(run) == before and (run / "arms/kept/seed0/after/2").is_dir()
    for answer, code in (("n\n", 1), ("y\n", 0)):
        terminal = io.StringIO(answer)
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdin", terminal)
        assert typed(str(run), "--to", "sound", "--arm", "kept") == code
        assert capsys.readouterr().out.splitlines()[0] == doomed[0]
        assert (run / "arms/kept/seed0/after/2").is_dir() == bool(code)
    assert (run / "arms/rehearsal/seed0/after/2").is_dir()  # the other arm stands as it was
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert typed(str(run), "--to", "sound", "--arm", "kept") == 0  # nothing is left to be deleted: nothing to ask


def test_a_rollback_says_that_a_server_uses_the_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = teach(world, **{**SETTINGS, "arms": {"kept": ARMS["kept"]}, "curriculum": ["sound", "legs"]})
    using = f"mind: a server or a chat is using {run}; what it has not loaded yet will be gone"
    with runs.Run(run).used(), runs.Run(run).used():  # two servers may
        assert typed(str(run), "--to", "sound") == 2
        assert capsys.readouterr().out.splitlines()[-1] == using
        assert typed(str(run), "--to", "sound", "--yes") == 0
        assert using in capsys.readouterr().out
    assert not runs.Run(run).in_use
