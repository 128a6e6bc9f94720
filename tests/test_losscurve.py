"""The loss of each step, by task: whole after every kill, and cut where a run goes back."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import recipe, teach
from rich.console import Console
from test_resume import ADAPTER, TRAINING, Killed, die_at

from continual import execute, losscurve, progress
from continual.losscurve import LossPoint, append_points, cut_points, read_points
from continual.rollback import Selection, rollback
from continual.runs import read_json

ARMS = {
    "rehearsal": {"rehearsal": {"ratio": 0.3, "max_tries": 2}},
    "specialists": {"teach": "specialists"},
    "multitask": {"teach": "multitask"},
}
SETTINGS: dict[str, Any] = {"arms": ARMS, "adapter": ADAPTER, "training": TRAINING}


def curves(run: Path) -> dict[str, list[LossPoint]]:
    found = {path.parent.parent.name: read_points(path) for path in run.glob(f"arms/*/*/{losscurve.FILE}")}
    return dict(sorted(found.items()))


def by_task(points: list[LossPoint]) -> dict[str, list[LossPoint]]:
    found: dict[str, list[LossPoint]] = {}
    for point in points:
        found.setdefault(point.task, []).append(point)
    return found


def test_each_step_of_each_arm_is_there_once_with_what_it_was(world: Path) -> None:
    run = teach(world, **SETTINGS)
    found = {arm: by_task(points) for arm, points in curves(run).items()}
    assert {arm: list(tasks) for arm, tasks in found.items()} == {
        "multitask": ["all tasks"],
        "rehearsal": ["sound", "legs"],
        "specialists": ["sound", "legs"],
    }
    for arm, tasks in found.items():
        for points in tasks.values():
            assert [point.step for point in points] == list(range(1, len(points) + 1))
            tokens = [point.tokens for point in points]
            assert tokens == sorted(set(tokens))
            assert all(point.loss is not None and point.loss > 0 for point in points)
        total = read_json(run / f"arms/{arm}/seed0/run.json")["cost"]["train_tokens"]
        assert sum(points[-1].tokens for points in tasks.values()) == total
    sound = found["specialists"]["sound"]
    # Warm-up over a tenth of the steps, then linear to zero.
    steps = len(sound)
    assert sound[0].learning_rate == pytest.approx(1e-2 / max(1, -(-steps // 10)))
    assert sound[-1].learning_rate < sound[steps // 2].learning_rate < max(p.learning_rate for p in sound)
    assert sound[-1].loss < sound[0].loss  # type: ignore[operator]


def test_killed_again_and_again_a_run_leaves_the_curve_of_one_that_never_was(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "arms": {name: ARMS[name] for name in ("rehearsal", "specialists")}}
    whole = curves(teach(world, **settings, output_dir=str(world / "whole")))
    assert len(whole["rehearsal"]) > 8
    monkeypatch.setattr(progress, "KEEP_STEPS", 2)  # or the whole of so short a task waits for its end
    deaths = 0
    for nth in (8, 9, 11, 13):
        with monkeypatch.context() as patch:
            die_at(patch, nth)
            try:
                teach(world, **settings)
            except Killed:
                deaths += 1
    run = teach(world, **settings)
    assert deaths >= 3 and curves(run) == whole


def test_a_rollback_cuts_the_curve_and_what_is_taught_again_stands_once(world: Path) -> None:
    settings = {**SETTINGS, "arms": {"rehearsal": ARMS["rehearsal"]}, "curriculum": ["sound", "legs", "first"]}
    run = teach(world, **settings)
    whole = curves(run)
    rollback(run, Selection("sound"), Console(file=io.StringIO()))
    assert list(by_task(curves(run)["rehearsal"])) == ["sound"]
    teach(world, **settings)
    assert curves(run) == whole


def test_a_line_that_a_kill_tore_off_is_not_read_and_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "a" / losscurve.FILE
    points = [LossPoint(task, step, 10 * step, 0.5, 1e-3) for task in ("日本", "b") for step in (1, 2, 3)]
    append_points(file, points, sync=True)
    with file.open("a") as out:
        out.write('{"task": "b", "st')
    assert read_points(file) == points
    cut_points(file, "b", 4)
    assert read_points(file) == points and file.read_text().endswith("\n")
    cut_points(file, "b", 2)
    assert read_points(file) == points[:4]
    cut_points(file, "日本")
    assert read_points(file) == [] and file.read_bytes() == b""
    cut_points(tmp_path / "none", "b")  # nothing was kept: nothing to cut


def test_a_loss_that_is_no_number_is_null_and_the_file_stays_json(tmp_path: Path) -> None:
    assert [losscurve.finite(loss) for loss in (0.5, float("nan"), float("inf"))] == [0.5, None, None]
    append_points(tmp_path / "f", [LossPoint("a", 1, 2, None, 0.1)], sync=False)
    assert json.loads((tmp_path / "f").read_text()) == {
        "task": "a",
        "step": 1,
        "tokens": 2,
        "loss": None,
        "learning_rate": 0.1,
    }


def lines(world: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, *, terminal: bool = False) -> list[str]:
    """What a run prints with so many seconds between two lines."""
    monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal)
    settings = recipe(world, arms={"finetune": {}}, adapter=ADAPTER)
    execute.run(settings, data_root=None, task_folders=[world / "tasks"], fresh=True, console=console)
    return [line for line in out.getvalue().splitlines() if " left" in line]


def test_where_there_is_no_terminal_a_line_says_how_far_a_task_is(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lines(world, monkeypatch, 0.0)
    assert len(found) >= 4
    pattern = r"  1/2 sound +step 1/\d+  loss \d+\.\d{3}  +[\d,]+ tokens/s  \d+:\d\d left"
    assert re.fullmatch(pattern, found[0])
    assert any(line.startswith("  2/2 legs ") for line in found)
    assert lines(world, monkeypatch, 60.0) == []


def test_a_clock_reads_like_one() -> None:
    assert [progress.clock(s) for s in (0.4, 9, 62, 3723)] == ["0:00", "0:09", "1:02", "1:02:03"]
