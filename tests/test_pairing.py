import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_arm, write_run
from rich.console import Console

from continual import report, results
from continual.report import pairs
from continual.report.views import colours, rows_of

TASKS = ["a", "b"]
ARMS = {"finetune": "sequential", "rehearsal": "sequential", "multitask": "multitask"}
ORDERS = [["a", "b"], ["b", "a"]]


def write(folder: Path, arm: str, scores: dict[str, list[float]], **more: Any) -> None:
    final = [sum(scores[task]) / len(scores[task]) for task in TASKS]
    R = [[0.0, 0.0], final] if ARMS[arm] == "multitask" else [[0.0, 0.0], final, final]
    write_arm(folder, arm, R, teach=ARMS[arm], tasks=TASKS, answers=scores, **more)


def two_orders(path: Path) -> Path:
    run = write_run(path / "paired", ARMS, TASKS, seeds=[0, 1], sweep={"curriculum": ORDERS})
    for seed in (0, 1):
        multitask = {"a": [1.0, 1.0, 0.5, 1.0], "b": [1.0, 0.5]}
        write(run, "multitask", multitask, seed=seed)
        for order in ORDERS:
            where: dict[str, Any] = {"seed": seed, "order": order, "run": f"seed{seed}-{order[0]}"}
            write(run, "finetune", {"a": [0.5, 0.0, 0.0, 0.0], "b": [1.0, 0.5]}, **where)
            write(run, "rehearsal", multitask, **where)
    return run


def test_each_arm_is_paired_with_multitask_over_all_seeds_and_orders(tmp_path: Path) -> None:
    found = results.collect(two_orders(tmp_path))
    told = found["arms"]["finetune"]["paired"]
    assert told["against"] == "multitask" and told["runs"] == 4 and told["left_out"] == []
    assert told["difference"] == pytest.approx((-0.75 + 0.0) / 2)
    gaps = [run["figures"]["gap_to_multitask"] for run in found["arms"]["finetune"]["runs"]]
    assert told["difference"] == pytest.approx(-sum(gaps) / 4)
    low, high = told["ci"]
    assert -0.5 <= low < told["difference"] < high <= -0.25
    equal = found["arms"]["rehearsal"]["paired"]
    assert equal["difference"] == 0.0 and equal["ci"] == [0.0, 0.0]
    assert found["arms"]["multitask"]["paired"] is None
    assert found == results.collect(tmp_path / "paired")


def test_every_pair_of_arms_stands_there_both_ways(tmp_path: Path) -> None:
    found = results.collect(two_orders(tmp_path))["paired"]
    assert [(one["arm"], one["against"]) for one in found] == [
        (arm, other) for arm in ARMS for other in ARMS if arm != other
    ]
    told = {(one["arm"], one["against"]): one for one in found}
    there, back = told["finetune", "rehearsal"], told["rehearsal", "finetune"]
    assert back["difference"] == -there["difference"] and back["ci"] == [-there["ci"][1], -there["ci"][0]]
    assert there["runs"] == 4


def test_only_the_same_settings_are_paired(tmp_path: Path) -> None:
    key = "training.learning_rate"
    own = "arms.rehearsal.rehearsal.ratio"
    run = write_run(tmp_path / "swept", ARMS, TASKS, sweep={key: [1, 2], own: [0.1, 0.2]})
    for rate in (1, 2):
        for arm, score in (("finetune", 0.1 * rate), ("multitask", 1.0)):
            write(run, arm, {"a": [score] * 3, "b": [score] * 3}, settings={key: rate}, run=f"seed0-{rate}")
        for ratio in (0.1, 0.2):
            settings = {key: rate, own: ratio}
            write(
                run, "rehearsal", {"a": [ratio] * 3, "b": [ratio] * 3}, settings=settings, run=f"seed0-{rate}{ratio}"
            )
    found = results.collect(run)
    told = found["arms"]["finetune"]["paired"]
    assert [(one["set"], one["against_set"]) for one in told] == [({key: 1}, {key: 1}), ({key: 2}, {key: 2})]
    assert [one["difference"] for one in told] == pytest.approx([-0.9, -0.8])
    assert [one["difference"] for one in found["arms"]["rehearsal"]["paired"]] == pytest.approx([-0.9, -0.8] * 2)
    rows = report.page([run])
    assert rows.count("−90.0 to −90.0") == 3  # in the square


def test_a_correlation_is_left_out_and_named(tmp_path: Path) -> None:
    import json

    run = two_orders(tmp_path)
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    manifest["metrics"]["b"] = "mcc"
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = results.collect(run)
    told = found["arms"]["finetune"]["paired"]
    assert told["left_out"] == ["b"] and told["difference"] == pytest.approx(-0.75)
    assert "no means over rows: b" in report.page([run])
    console = Console(record=True, width=120, file=StringIO())
    report.tables(found, console)
    assert "no means over rows: b" in console.export_text()


def clearly(tmp_path: Path, rehearsal: int, rows: int = 40) -> list[str]:
    """What is bold where finetune has 20 of 40 answers right and another arm some more."""
    arms = {"finetune": "sequential", "rehearsal": "sequential", "multitask": "multitask"}
    run = write_run(tmp_path / f"of{rehearsal}", arms, ["a"])
    for arm, right in (("finetune", 20), ("rehearsal", rehearsal), ("multitask", 40)):
        scores = [1.0] * right + [0.0] * (rows - right)
        write_arm(run, arm, [[0.0], [right / rows]], teach=arms[arm], tasks=["a"], answers={"a": scores})
    document = results.collect(run)
    shown = report.page([run])
    best = pairs.clearly_best(document, rows_of(document, colours([document])))
    arms_table = shown[shown.index("The arms side by side") : shown.index("Pair by pair")]
    assert arms_table.count('class="best"') == len(best) == arms_table.count("Bold is")
    return best


def test_an_arm_is_bold_only_where_its_interval_to_each_other_leaves_out_zero(tmp_path: Path) -> None:
    assert clearly(tmp_path, 38) == ["rehearsal"]  # not multitask: it is the bound
    assert clearly(tmp_path, 21) == []  # one answer more: the interval reaches 0
    assert clearly(tmp_path, 5) == ["finetune"]


def test_without_predictions_nothing_is_paired(tmp_path: Path) -> None:
    run = two_orders(tmp_path)
    for path in run.glob("arms/multitask/*/predictions/*-b.jsonl"):
        path.unlink()
    found = results.collect(run)
    assert found["arms"]["finetune"]["paired"] is None
    assert {one["against"] for one in found["paired"]} == {"finetune", "rehearsal"}
    for path in run.glob("arms/*/*/predictions/*"):
        path.unlink()
    found = results.collect(run)
    assert found["paired"] == []
    assert "Pair by pair" not in report.page([run])


def test_a_run_of_fewer_tasks_waits_until_its_curriculum_has_grown(tmp_path: Path) -> None:
    run = two_orders(tmp_path)
    grown = (run / "recipe.yaml").read_text(encoding="utf-8").replace("- task: b", "- task: b\n- task: c")
    (run / "recipe.yaml").write_text(grown, encoding="utf-8")
    assert results.collect(run)["paired"] == []


def test_the_terminal_and_the_page_show_difference_and_interval(tmp_path: Path) -> None:
    run = two_orders(tmp_path)
    console = Console(record=True, width=100, file=StringIO())
    found = results.collect(run)
    report.tables(found, console)
    text = console.export_text()
    assert re.search(r"finetune +−37\.5 +−\d+\.\d to −\d+\.\d +4\s", text)
    assert "multitask" in text.splitlines()[next(i for i, line in enumerate(text.splitlines()) if "against" in line)]
    page = report.page([run])
    assert "Pair by pair" in page
    told = found["arms"]["finetune"]["paired"]
    assert page.count(pairs.interval(told)) == 2  # in the square, against both others
    assert page.count('class="best">+37.5') == page.count('class="best">−37.5') == 2
    assert 'class="best">0.0<span class="std">0.0 to 0.0' not in page
