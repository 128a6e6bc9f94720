from typing import Any

import numpy as np
import pytest

from continual.paired import Place, accs, difference

Scores = dict[str, list[float]]


def compared(ours: dict[Place, Scores], theirs: dict[Place, Scores], **more: Any) -> Any:
    values = accs([*ours.values(), *theirs.values()])
    mine, other = values[: len(ours)], values[len(ours) :]
    return difference(dict(zip(ours, mine, strict=True)), dict(zip(theirs, other, strict=True)), **more)


def test_acc_is_the_mean_of_tasks_and_not_of_rows() -> None:
    (values,) = accs([{"a": [1.0, 0.0, 0.0, 0.0], "b": [1.0, 0.5]}], n=10)
    assert values[0] == pytest.approx((0.25 + 0.75) / 2)
    assert len(values) == 11 and len(set(values[1:])) > 1


def test_what_differs_alike_on_every_row_and_in_every_run_has_no_interval() -> None:
    rows = {"a": [1.0, 0.2, 0.0, 0.8], "b": [0.3, 0.9]}
    better = {task: [score + 0.1 for score in scores] for task, scores in rows.items()}
    places: list[Place] = [(0, ("a", "b")), (0, ("b", "a")), (1, ("a", "b"))]
    told = compared(dict.fromkeys(places, better), dict.fromkeys(places, rows))
    assert (told.value, told.low, told.high) == pytest.approx((0.1, 0.1, 0.1)) and told.runs == 3


def test_with_one_run_the_interval_is_that_of_the_mean_of_row_differences() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = draw.random(400), draw.random(400) * 0.2
    place: Place = (0, None)
    told = compared({place: {"a": list(ours)}}, {place: {"a": list(theirs)}})
    error = float((ours - theirs).std(ddof=1)) / 400**0.5
    assert told.value == pytest.approx(float((ours - theirs).mean()))
    assert (told.high - told.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_rows_are_paired_what_is_hard_for_both_arms_cancels() -> None:
    draw = np.random.default_rng(1)
    hard = draw.random(200)
    ours = {"a": [float(x) for x in hard]}
    theirs = {"a": [float(x) for x in hard - 0.01 + 0.002 * draw.standard_normal(200)]}
    told = compared({(0, None): ours}, {(0, None): theirs})
    assert 0.009 < told.low < told.value < told.high < 0.011
    alone = accs([ours])[0][1:]
    assert np.quantile(alone, 0.975) - np.quantile(alone, 0.025) > 20 * (told.high - told.low)


def test_seeds_are_drawn_whole_so_two_seeds_give_three_means() -> None:
    # Rows do not vary: seed 0 differs by 0, seed 1 by 0.2. A resample has the mean 0, 0.1 or 0.2.
    orders = [("a", "b"), ("b", "a")]
    zero = {"a": [0.5] * 3, "b": [0.5] * 3}
    theirs: dict[Place, Scores] = {(0, None): zero, (1, None): zero}
    ours: dict[Place, Scores] = {
        (seed, order): {task: [0.5 + 0.2 * seed] * 3 for task in "ab"} for seed in (0, 1) for order in orders
    }
    told = compared(ours, theirs)
    assert told.runs == 4 and told.value == pytest.approx(0.1)
    assert (told.low, told.high) == pytest.approx((0.0, 0.2))  # four runs drawn singly would rarely be one seed
    narrow = compared(ours, theirs, level=0.4)  # the middle two quarters
    assert (narrow.low, narrow.high) == pytest.approx((0.1, 0.1))


def test_orders_are_drawn_whole_too() -> None:
    orders: list[tuple[str, ...]] = [("a", "b"), ("b", "a")]
    theirs: dict[Place, Scores] = {(seed, None): {"a": [0.5]} for seed in range(6)}
    ours: dict[Place, Scores] = {(s, o): {"a": [0.5 + 0.2 * i]} for s in range(6) for i, o in enumerate(orders)}
    told = compared(ours, theirs)
    assert told.value == pytest.approx(0.1) and (told.low, told.high) == pytest.approx((0.0, 0.2))


def test_the_other_way_round_is_the_same_with_its_sign_turned() -> None:
    draw = np.random.default_rng(2)
    one: dict[Place, Scores] = {(seed, ("a",)): {"a": list(draw.random(30))} for seed in range(3)}
    other: dict[Place, Scores] = {(seed, None): {"a": list(draw.random(30))} for seed in range(3)}
    there, back = compared(one, other), compared(other, one)
    assert back.value == pytest.approx(-there.value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_only_runs_of_the_same_seed_and_order_are_paired() -> None:
    rows, better = {"a": [0.0, 1.0]}, {"a": [0.5, 1.5]}
    ours: dict[Place, Scores] = {(0, ("a", "b")): better, (0, ("b", "a")): rows, (1, ("a", "b")): rows}
    told = compared(ours, {(0, ("a", "b")): rows, (7, ("b", "a")): rows})
    assert told.runs == 1 and told.value == pytest.approx(0.5)
    assert compared(ours, {(7, None): rows}) is None


def test_a_missing_pair_is_never_all_that_a_resample_has() -> None:
    rows = {"a": [0.0, 1.0]}
    diagonal: dict[Place, Scores] = {(0, ("a", "b")): rows, (1, ("b", "a")): rows}
    told = compared(diagonal, diagonal)
    assert (told.value, told.low, told.high) == (0.0, 0.0, 0.0) and told.runs == 2


def test_runs_of_other_tasks_or_rows_are_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="different tasks"):
        accs([{"a": [1.0]}, {"b": [1.0]}])
    with pytest.raises(ValueError):
        accs([{"a": [1.0]}, {"a": [1.0, 0.0]}])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw, held, worlds = np.random.default_rng(3), 0, 120
    for _ in range(worlds):
        of_row, of_seed, of_order = draw.normal(0, 0.1, 60), draw.normal(0, 0.02, 6), draw.normal(0, 0.02, 5)
        orders: list[tuple[str, ...]] = [(str(number),) for number in range(5)]
        ours: dict[Place, Scores] = {}
        for seed in range(6):
            for number, order in enumerate(orders):
                noise = draw.normal(0, 0.01)
                ours[seed, order] = {"a": list(0.03 + of_row + of_seed[seed] + of_order[number] + noise)}
        theirs: dict[Place, Scores] = {(seed, None): {"a": [0.0] * 60} for seed in range(6)}
        values = accs([*ours.values(), *theirs.values()], n=300)
        told = difference(dict(zip(ours, values, strict=False)), dict(zip(theirs, values[30:], strict=True)))
        assert told is not None
        held += told.low <= 0.03 <= told.high
    assert 0.85 <= held / worlds <= 0.99
