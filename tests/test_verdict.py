"""`continual check`: what it prints, and the exit code that a script goes by."""

import html
import json
from pathlib import Path

import pytest
from fake_run import write_arm, write_run
from rich.console import Console

from continual import report as reports
from continual.cli import main
from continual.results import collect
from continual.verdict import verdicts

# translate falls from .9 to .8, edit rises.
R = [[0.0, 0.1, 0.0], [0.9, 0.1, 0.0], [0.85, 0.8, 0.1], [0.8, 0.85, 0.7]]
BAD = [[0.0, 0.1, 0.0], [0.9, 0.1, 0.0], [0.4, 0.8, 0.1], [0.2, 0.3, 0.7]]


def code(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run", {"rehearsal": "sequential", "finetune": "sequential", "all": "multitask"})
    write_arm(folder, "rehearsal", R)
    write_arm(folder, "finetune", BAD)
    write_arm(folder, "all", [R[0], R[3]], teach="multitask")
    return folder


def test_it_gives_chaudhrys_forgetting_of_each_task(run: Path) -> None:
    good, bad = sorted(verdicts(run, None), key=lambda verdict: verdict.arm, reverse=True)
    assert good.lost == {"translate": pytest.approx(0.1), "edit": pytest.approx(-0.05)}
    assert bad.lost == {"translate": pytest.approx(0.7), "edit": pytest.approx(0.5)}
    assert good.beyond(0.2) == [] and good.beyond(0.05) == ["translate"]


def test_a_loss_as_large_as_the_limit_is_allowed(run: Path) -> None:
    (good,) = verdicts(run, "rehearsal")
    assert good.beyond(good.lost["translate"] or 0) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-forgetting", "0.2", "--arm", "rehearsal"], 0),
        (["--arm", "rehearsal"], 1),  # five points unless told otherwise
        (["--max-forgetting", "0.2"], 1),
        (["--max-forgetting", "0.8"], 0),
        (["--arm", "all"], 2),
        (["--arm", "rehearsel"], 2),
    ],
)
def test_the_exit_code(run: Path, words: list[str], expected: int) -> None:
    assert code("check", str(run), *words) == expected


def test_an_unknown_run_is_no_failed_check(tmp_path: Path) -> None:
    assert code("check", str(tmp_path / "none")) == 2


def test_it_says_which_task_and_how_much(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("check", str(run), "--max-forgetting", "0.6", "--arm", "finetune") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "finetune seed0: too much: translate"
    assert lines[1].split() == ["translate", "70.0", "<--", "too", "much"]
    assert lines[2].split() == ["edit", "50.0"]


def test_what_is_not_known_is_not_passed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"rehearsal": "sequential"})
    write_arm(folder, "rehearsal", [*R[:3], [R[3][0], None, R[3][2]]])
    (verdict,) = verdicts(folder, None)
    assert verdict.lost["edit"] is None and "edit" in verdict.beyond(0.5)


def test_a_run_on_its_way_is_judged_by_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", {"finetune": "sequential"})
    write_arm(folder, "finetune", BAD[:3])
    (verdict,) = verdicts(folder, None)
    assert verdict.lost == {"translate": pytest.approx(0.5)}
    assert code("check", str(folder)) == 1
    assert "finetune seed0 (2 of 3 tasks): too much: translate" in capsys.readouterr().out


@pytest.mark.parametrize(("kept", "expected"), [(0, 1), (23, 1), (24, 0)])
def test_rehearsal_below_half_of_its_quota_fails(
    run: Path, capsys: pytest.CaptureFixture[str], kept: int, expected: int
) -> None:
    path = run / "arms" / "rehearsal" / "seed0" / "run.json"
    entry = {"before": "edit", "task": "translate", "age": 1, "wanted": 48, "kept": kept, "drawn": 192, "valid": 0.0}
    entry |= {"rejected": {"eos": 100, "wrong_task": 92 - kept}, "real_rows": 0, "real_bytes": 0}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rehearsed": [entry]}))
    assert code("check", str(run), "--max-forgetting", "0.2", "--arm", "rehearsal") == expected
    said = f"rehearsal kept {kept} of 48 samples of translate before edit (rejected: 100 eos"
    out = capsys.readouterr().out
    assert (said in out) is (expected == 1)
    page = html.unescape(reports.page([run]))
    assert (f"rehearsal seed0: {said}" in page) is (expected == 1)
    if expected:  # before anything that was measured
        assert page.index(said) < page.index('<ul class="headlines">') and "num_train_epochs" in page
    reports.last_words(collect(run), run, Console(width=300))
    assert (f"mind: rehearsal seed0: {said}" in capsys.readouterr().out) is (expected == 1)


def test_a_task_that_was_taken_back_cannot_be_forgotten(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"guarded": "sequential"})
    path = write_arm(folder, "guarded", BAD) / "run.json"
    told = json.loads(path.read_text())
    told["guard"] = [{"after": "edit", "action": "rollback"}]
    path.write_text(json.dumps(told))
    (verdict,) = verdicts(folder, None)
    assert list(verdict.lost) == ["translate"]
