import json
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_arm, write_run

from continual import results
from continual.errors import ContinualError

FINETUNE = [[0.0, 0.1, 0.0], [0.9, 0.1, 0.0], [0.4, 0.8, 0.1], [0.2, 0.3, 0.7]]
MULTITASK = [[0.0, 0.1, 0.0], [0.9, 0.9, 0.6]]
SPECIALISTS = [[0.0, 0.1, 0.0], [1.0, 0.8, 0.9]]
ARMS = {"finetune": "sequential", "specialists": "specialists", "multitask": "multitask"}


def test_a_finished_run_has_figures_against_its_references(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", ARMS)
    write_arm(run, "finetune", FINETUNE)
    write_arm(run, "specialists", SPECIALISTS, teach="specialists")
    write_arm(run, "multitask", MULTITASK, teach="multitask")
    found = results.collect(run)
    assert found["schema"] == 1 and found["name"] == "quick" and found["model"] == "builtin:tinyworld"
    assert found["tasks"] == ["translate", "edit", "answer"]
    assert found["metrics"]["edit"] == "exact_match"
    assert list(found["arms"]) == list(ARMS) and found["unfinished"] == []
    (only,) = found["arms"]["finetune"]["runs"]
    assert only["R"] == FINETUNE and only["after"] == ["base", "translate", "edit", "answer"]
    assert only["ci"][3][2] == pytest.approx([0.67, 0.73])
    assert only["cost"]["train_tokens"] == 190_000
    assert only["figures"]["bwt"] == pytest.approx((0.2 - 0.9 + 0.3 - 0.8) / 2)
    assert only["figures"]["gap_to_multitask"] == pytest.approx(0.8 - 0.4)
    assert only["figures"]["gap_to_specialists"] == pytest.approx(0.9 - 0.8)
    assert found["arms"]["multitask"]["mean"]["gap_to_multitask"] == 0.0
    assert found["arms"]["specialists"]["mean"]["bwt"] is None
    assert set(found["formulae"]) == set(found["arms"]["finetune"]["mean"])
    assert found["formulae"]["bwt"]["formula"] and found["formulae"]["bwt"]["source"]


def test_stored_columns_and_the_order_taught_may_differ(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"finetune": "sequential"})
    stored = [[row[1], row[2], row[0]] for row in FINETUNE]  # FINETUNE was taught answer, translate, edit
    write_arm(run, "finetune", stored, order=["answer", "translate", "edit"])
    (only,) = results.collect(run)["arms"]["finetune"]["runs"]
    assert only["R"] == stored
    assert only["figures"]["bwt"] == pytest.approx((0.2 - 0.9 + 0.3 - 0.8) / 2)


def test_mean_and_std_are_over_seeds_with_the_sample_standard_deviation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"finetune": "sequential"}, ["a", "b"], seeds=[0, 1])
    write_arm(run, "finetune", [[0, 0], [0.9, 0], [0.5, 0.7]], tasks=["a", "b"])
    write_arm(run, "finetune", [[0, 0], [0.9, 0], [0.7, 0.9]], tasks=["a", "b"], seed=1)
    arm = results.collect(run)["arms"]["finetune"]
    assert arm["mean"]["acc"] == pytest.approx(0.7)
    assert arm["std"]["acc"] == pytest.approx(0.2 / 2**0.5)
    assert arm["std"]["gap_to_multitask"] is None


def test_one_run_has_no_standard_deviation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"finetune": "sequential"})
    write_arm(run, "finetune", FINETUNE)
    assert set(results.collect(run)["arms"]["finetune"]["std"].values()) == {None}


def test_orders_share_a_mean_and_other_settings_do_not(tmp_path: Path) -> None:
    key = "arms.rehearsal.rehearsal.ratio"
    orders = [["a", "b"], ["b", "a"]]
    sweep: dict[str, list[Any]] = {"curriculum": orders, key: [0.1, 0.2]}
    run = write_run(tmp_path / "swept", {"rehearsal": "sequential"}, ["a", "b"], sweep=sweep)
    score = 0.0
    for ratio in sweep[key]:
        for order in orders:
            score += 0.1
            R = [[0.0, 0.0], [score, score], [score, score]]
            settings = {"curriculum": order, key: ratio}
            name = f"seed0-{order[0]}{ratio}"
            write_arm(run, "rehearsal", R, tasks=["a", "b"], order=order, settings=settings, run=name)
    arm = results.collect(run)["arms"]["rehearsal"]
    assert [entry["set"] for entry in arm["mean"]] == [{key: 0.1}, {key: 0.2}]
    assert [entry["acc"] for entry in arm["mean"]] == pytest.approx([0.15, 0.35])
    assert [entry["acc"] for entry in arm["std"]] == pytest.approx([0.1 / 2**0.5] * 2)


def test_a_run_is_compared_with_the_multitask_run_of_its_own_seed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"m": "multitask", "f": "sequential"}, ["a"], seeds=[0, 1, 2])
    for seed, bound in ((0, 0.8), (1, 0.6)):
        write_arm(run, "m", [[0.0], [bound]], teach="multitask", tasks=["a"], seed=seed)
    for seed in range(3):
        write_arm(run, "f", [[0.0], [0.5]], tasks=["a"], seed=seed)
    gaps = [entry["figures"]["gap_to_multitask"] for entry in results.collect(run)["arms"]["f"]["runs"]]
    assert gaps[:2] == pytest.approx([0.3, 0.1]) and gaps[2] is None


def test_runs_that_have_not_finished_are_listed_and_have_no_figures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", ARMS, seeds=[0, 1])
    write_arm(run, "finetune", FINETUNE)
    write_arm(run, "finetune", FINETUNE[:2], seed=1)
    write_arm(run, "multitask", MULTITASK[:1], teach="multitask")
    found = results.collect(run)
    assert list(found["arms"]) == ["finetune"]
    assert [entry["seed"] for entry in found["arms"]["finetune"]["runs"]] == [0]
    assert found["unfinished"] == [
        {"arm": "finetune", "run": "seed1", "rows": 2, "of": 4},
        {"arm": "specialists", "run": None, "not_begun": 2},
        {"arm": "multitask", "run": "seed0", "rows": 1, "of": 2},
        {"arm": "multitask", "run": None, "not_begun": 1},
    ]


def test_specialists_of_which_one_is_missing_have_not_finished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"specialists": "specialists"})
    write_arm(run, "specialists", [SPECIALISTS[0], [1.0, None, None]], teach="specialists")
    found = results.collect(run)
    assert found["arms"] == {}
    assert found["unfinished"] == [{"arm": "specialists", "run": "seed0", "rows": 1, "of": 2}]


def test_an_empty_cell_is_unknown_and_not_zero(tmp_path: Path) -> None:
    run = write_run(tmp_path / "grown", {"finetune": "sequential"})
    write_arm(run, "finetune", [[0.0, 0.1, None], *FINETUNE[1:]])
    (only,) = results.collect(run)["arms"]["finetune"]["runs"]
    assert only["R"][0] == [0.0, 0.1, None] and only["ci"][0][2] is None
    assert only["figures"]["fwt"] is None and only["figures"]["acc"] == pytest.approx(0.4)


def test_results_json_is_what_was_collected(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quick", {"finetune": "sequential"})
    write_arm(run, "finetune", FINETUNE)
    written = results.write(run)
    assert json.loads((run / "results.json").read_text(encoding="utf-8")) == written == results.collect(run)
    assert not list(run.glob(".*"))


def test_a_folder_that_is_no_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ContinualError, match="no run here"):
        results.collect(tmp_path)
