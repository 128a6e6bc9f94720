"""A run can die at any moment, and goes on to the same last digit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import teach

from continual import runs
from continual.errors import ContinualError
from continual.runs import read_json

ARMS = {
    "rehearsal": {"rehearsal": {"ratio": 0.3, "max_tries": 2}},
    "specialists": {"teach": "specialists"},
    "multitask": {"teach": "multitask"},
}
ADAPTER = {"r": 2, "lora_dropout": 0.2}  # dropout draws at random in every step
TRAINING = {
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "tokens_per_batch": 128,
    "max_length": 48,
    "save_steps": 3,
}


class Killed(BaseException):
    """Like SIGKILL: nothing below may catch it, nothing is tidied up."""


def die_at(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Die at the n-th rename: just before something would have become visible."""
    left = [nth]
    replace = runs.os.replace

    def dying(*args: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        replace(*args)

    monkeypatch.setattr(runs.os, "replace", dying)


def matrices(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("R.csv"))}


def test_a_run_that_dies_again_and_again_ends_with_the_same_bytes(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"arms": ARMS, "adapter": ADAPTER, "training": TRAINING}
    whole = matrices(teach(world, **settings, output_dir=str(world / "whole")))
    deaths = 0
    for nth in (3, 4, 5, 6, 7, 9, 11, 13, 40, 100):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                run = teach(world, **settings)
                break
            except Killed:
                deaths += 1
    else:
        run = teach(world, **settings)
    assert deaths >= 6
    assert matrices(run) == whole
    assert not list(run.rglob("checkpoints/*"))


def test_mid_task_checkpoints_are_used(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from continual import checkpoint

    restored = []
    restore = checkpoint.restore
    monkeypatch.setattr(checkpoint, "restore", lambda *a: (restored.append(a[0]), restore(*a)))
    settings = {"arms": {"finetune": {}}, "adapter": ADAPTER, "training": TRAINING, "curriculum": ["sound"]}
    whole = matrices(teach(world, **settings, output_dir=str(world / "whole")))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        # The fifth rename of a folder is past the first checkpoint and before the model is saved.
        die_at(patch, 8)
        teach(world, **settings)
    run = teach(world, **settings)
    assert restored and matrices(run) == whole


def test_a_finished_run_is_not_taught_again(world: Path) -> None:
    run = teach(world)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    teach(world)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == before
    for derived in ("router", "merge-report"):  # of models that are thrown away
        (run / derived).mkdir()
    teach(world, fresh=True)
    assert not (run / "router").exists() and not (run / "merge-report").exists()
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} != before


@pytest.mark.parametrize("keep", ["all", "last"])
def test_a_grown_curriculum_goes_on_from_the_finished_run(world: Path, keep: str) -> None:
    settings = {"arms": ARMS, "adapter": ADAPTER, "keep": keep}
    run = teach(world, **settings)
    first = run / "arms/rehearsal/seed0/after/2/adapter_model.safetensors"
    before = first.stat().st_mtime_ns
    old = read_json(run / "arms/rehearsal/seed0/run.json")["R"]
    teach(world, **settings, curriculum=["sound", "legs", "first"])
    new = read_json(run / "arms/rehearsal/seed0/run.json")["R"]
    assert len(new) == 4 and [row[:2] for row in new[:3]] == old
    if keep == "all":  # every old state is still there to be asked about the new task
        assert first.stat().st_mtime_ns == before
        assert all(cell is not None for row in new for cell in row)
    else:
        assert new[0][2] is not None and new[1][2] is None and new[3][2] is not None
    specialists = read_json(run / "arms/specialists/seed0/run.json")["R"]
    assert len(specialists) == 2 and None not in specialists[1]
    assert len(read_json(run / "arms/multitask/seed0/run.json")["R"][1]) == 3


def test_a_curriculum_with_gaps_in_r_dies_goes_on_and_grows(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"arms": ARMS, "adapter": ADAPTER, "evaluate": {"limit": 8, "after": "own_and_last"}}
    whole = matrices(teach(world, **settings, output_dir=str(world / "whole")))
    for nth in (5, 9):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, nth)
            teach(world, **settings)
    run = teach(world, **settings)
    assert matrices(run) == whole
    teach(world, **settings, curriculum=["sound", "legs", "first"])
    R = read_json(run / "arms/rehearsal/seed0/run.json")["R"]
    assert [[cell is not None for cell in row] for row in R[1:]] == [
        [True, False, False],
        [True, True, False],  # it was the last row, once
        [True, True, True],
    ]
    assert read_json(run / "results.json")["unfinished"] == []


def test_a_grown_run_equals_one_that_knew_all_tasks_from_the_start(world: Path) -> None:
    three = ["sound", "legs", "first"]
    settings = {"arms": ARMS, "adapter": ADAPTER}
    whole = matrices(teach(world, **settings, curriculum=three, output_dir=str(world / "whole")))
    teach(world, **settings)
    assert matrices(teach(world, **settings, curriculum=three)) == whole


def test_any_other_change_of_the_recipe_is_refused_with_what_differs(world: Path) -> None:
    run = teach(world)
    before = matrices(run)
    with pytest.raises(ContinualError) as caught:
        teach(world, training={**TRAINING, "learning_rate": 2e-2, "save_steps": None}, curriculum=["legs", "sound"])
    text = str(caught.value)
    assert "training.learning_rate: was 0.01, now 0.02" in text and "--fresh" in text and "curriculum" in text
    assert matrices(run) == before


def test_a_full_disk_is_told_and_nothing_is_lost(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    full = OSError(errno.ENOSPC, "No space left on device")
    real = runs.write_folder
    calls = [0]

    def filling(path: Path, fill: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise full
        real(path, fill)

    from continual import teach as teaching

    with monkeypatch.context() as patch:
        patch.setattr(teaching, "write_folder", filling)
        with pytest.raises(ContinualError, match="disk is full.*same command again"):
            teach(world)
    kept = read_json(world / "run/arms/rehearsal/seed0/run.json")["R"]
    assert len(kept) == 2
    run = teach(world)
    shutil.rmtree(world / "other", ignore_errors=True)
    assert matrices(run) == matrices(teach(world, output_dir=str(world / "other")))


def test_fresh_never_throws_away_what_is_no_run(world: Path) -> None:
    precious = world / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("words")
    for fresh in (True, False):
        with pytest.raises(ContinualError, match="thesis holds no run, but chapter1.tex"):
            teach(world, fresh=fresh, output_dir=str(precious))
    assert [p.name for p in precious.iterdir()] == ["chapter1.tex"]


def test_fresh_removes_only_what_a_run_writes(world: Path) -> None:
    run = teach(world, arms={"finetune": {}})
    (run / "notes.txt").write_text("mine")
    teach(world, fresh=True, arms={"multitask": {"teach": "multitask"}})
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "arms" / "finetune").exists()


def test_a_run_is_not_resumed_on_other_rows(world: Path) -> None:
    teach(world)
    rows = world / "tasks" / "legs.train.jsonl"
    rows.write_text(rows.read_text().replace("two", "four").replace("six", "eight"))
    task = world / "tasks" / "legs.yaml"
    task.write_text(task.read_text().replace("- six", "- eight").replace("- two", "- four"))
    tests = world / "tasks" / "legs.test.jsonl"
    tests.write_text(tests.read_text().replace("two", "four").replace("six", "eight"))
    with pytest.raises(ContinualError, match="rows of legs are not those"):
        teach(world)


def test_two_processes_do_not_write_one_run(world: Path) -> None:
    import subprocess
    import sys

    run = runs.Run(world / "run")
    code = "from pathlib import Path; from continual.runs import Run\n"
    code += f"with Run(Path({str(run.path)!r})).locked(): pass"
    with run.locked():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is carrying out this run" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
