"""How strongly specialists are merged: found by trying."""

import pytest

from continual.tuning import HALVINGS, SCALES, Tuned, tune_each, tune_scale


@pytest.mark.parametrize("best", [0.13, 0.85, 1.2, 4.4, 13.0])
def test_the_scale_of_a_bowl_is_found(best: float) -> None:
    found = tune_scale(lambda scale: (scale - best) ** 2)
    assert found.scale == pytest.approx(best, abs=0.12 * max(best, 1))
    assert found.loss == (found.scale - best) ** 2
    doubled = sum(scale in (10, 20, 40) for scale, _ in found.tried)
    assert found.trials == len(found.tried) <= len(SCALES) + doubled + 2 * HALVINGS


def test_between_the_best_and_its_neighbours_it_looks_closer() -> None:
    found = tune_scale(lambda scale: abs(scale - 1.25), (1.0, 2.0))
    # By hand: 1, 2, then 1.5, then 1.25 and (nothing nearer) 1.375 and 1.125.
    assert [scale for scale, _ in found.tried] == [1.0, 1.125, 1.25, 1.375, 1.5, 2.0]
    assert found.scale == 1.25


def test_at_the_beginning_of_the_row_it_stays() -> None:
    assert tune_scale(lambda scale: scale, (0.1, 0.2)).scale == 0.1


def test_past_the_end_of_the_row_it_doubles_as_long_as_that_helps() -> None:
    found = tune_scale(lambda scale: abs(scale - 15), (2.0, 4.0))
    # By hand: 2, 4, 8, 16 (the best), 32; then 12 and 24; 14 and 20; 15 and 18.
    assert [scale for scale, _ in found.tried] == [2, 4, 8, 12, 14, 15, 16, 18, 20, 24, 32]
    assert found.scale == 15


def test_where_no_scale_makes_a_difference_it_ends() -> None:
    assert tune_scale(lambda scale: 1.0, (1.0, 2.0)).scale == 1.0


def test_each_weight_moves_towards_its_own() -> None:
    right = [0.5, 2.0, 1.0]

    def loss(weights: list[float]) -> float:
        return sum((one - other) ** 2 for one, other in zip(weights, right, strict=True))

    start = Tuned(1.0, [1.0, 1.0, 1.0], loss([1.0, 1.0, 1.0]), trials=3)
    found = tune_each(lambda weights: loss(list(weights)), start)
    # First sweep: 0.6 (of 0.6, 0.8, 1.25, 1.6), 1.6, none; second: 0.48, 2.0, none.
    assert found.weights == pytest.approx([0.48, 2.0, 1.0])
    assert found.loss == pytest.approx(0.0004)
    assert found.trials == 3 + 2 * 3 * 4


def test_where_nothing_helps_one_sweep_is_enough() -> None:
    start = Tuned(1.0, [1.0, 1.0], 0.0)
    found = tune_each(lambda weights: 1.0, start)
    assert (found.weights, found.trials) == ([1.0, 1.0], 8)
