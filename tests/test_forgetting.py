import copy
import random

import pytest

from continual import forgetting as f

TASKS = ["a", "b", "c"]
R = [
    [0.1, 0.2, 0.3],  # base
    [0.9, 0.3, 0.2],  # after a
    [0.5, 0.8, 0.4],  # after b
    [0.6, 0.4, 0.7],  # after c
]
MULTITASK = [0.9, 0.9, 0.6]
SPECIALISTS = [1.0, 0.8, 0.9]


def test_figures_of_a_hand_computed_matrix() -> None:
    found = f.figures(R, TASKS, TASKS, MULTITASK, SPECIALISTS)
    assert found == pytest.approx(
        {
            "acc": (0.6 + 0.4 + 0.7) / 3,
            "average_incremental_acc": (0.9 + (0.5 + 0.8) / 2 + (0.6 + 0.4 + 0.7) / 3) / 3,
            "learning_acc": (0.9 + 0.8 + 0.7) / 3,
            "bwt": ((0.6 - 0.9) + (0.4 - 0.8)) / 2,
            "fwt": ((0.3 - 0.2) + (0.4 - 0.3)) / 2,
            "forgetting": ((0.9 - 0.6) + (0.8 - 0.4)) / 2,
            "intransigence": (0.0 + 0.1 - 0.1) / 3,
            "gap_to_multitask": (0.3 + 0.5 - 0.1) / 3,
            "gap_to_specialists": (0.1 + 0.0 + 0.2) / 3,
        },
        abs=1e-12,
    )
    assert list(found) == list(f.FORMULAE)


def test_columns_are_put_into_the_order_taught_before_anything_is_computed() -> None:
    order = ["c", "a", "b"]
    stored = [[row[1], row[2], row[0]] for row in R]  # R was taught c, a, b; its columns are stored a, b, c
    found = f.figures(stored, order, TASKS, multitask=[0.9, 0.6, 0.9], specialists=[0.8, 0.9, 1.0])
    assert f.in_order(stored, TASKS, order) == R
    assert found == f.figures(R, TASKS, TASKS, MULTITASK, SPECIALISTS)
    assert f.figures(stored, TASKS, TASKS)["bwt"] != f.figures(stored, order, TASKS)["bwt"]


def test_a_task_outside_the_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="'z' is not in list"):
        f.in_order(R, TASKS, ["a", "b", "z"])


def test_forgetting_is_negative_when_a_task_still_rises_at_the_end() -> None:
    rising = [[0.0, 0.0], [0.5, 0.0], [0.7, 0.9]]
    assert f.forgetting(rising) == pytest.approx(-0.2)  # with the last row inside the maximum it would be 0


def test_forgetting_counts_a_best_score_from_before_the_task_was_taught() -> None:
    early = [[0.0, 0.0, 0.0], [1.0, 0.9, 0.0], [1.0, 0.6, 0.0], [1.0, 0.5, 1.0]]
    assert f.forgetting(early) == pytest.approx((0.0 + (0.9 - 0.5)) / 2)
    assert f.bwt(early) == pytest.approx((0.0 + (0.5 - 0.6)) / 2)


def test_forgetting_leaves_the_base_row_out() -> None:
    assert f.forgetting([[1.0, 0.0], [0.5, 0.0], [0.4, 0.9]]) == pytest.approx(0.1)


def test_one_task_has_no_transfer_and_nothing_to_forget() -> None:
    found = f.figures([[0.2], [0.8]], ["a"], ["a"], [0.9], [0.7])
    assert found["bwt"] is None and found["fwt"] is None and found["forgetting"] is None
    assert found["acc"] == found["learning_acc"] == found["average_incremental_acc"] == 0.8
    assert found["gap_to_specialists"] == pytest.approx(-0.1)


def test_an_unknown_cell_empties_exactly_the_figures_that_need_it() -> None:
    unknown: list[list[float | None]] = [list(row) for row in R]
    unknown[1][2] = None  # the last task two steps before it was taught: no figure reads it
    assert f.figures(unknown, TASKS, TASKS) == f.figures(R, TASKS, TASKS)
    unknown[2][2] = None
    found = f.figures(unknown, TASKS, TASKS, MULTITASK, SPECIALISTS)
    assert [name for name, value in found.items() if value is None] == ["fwt"]
    unknown[3][0] = None
    found = f.figures(unknown, TASKS, TASKS, MULTITASK, SPECIALISTS)
    gone = ["acc", "average_incremental_acc", "bwt", "fwt", "forgetting", "gap_to_multitask"]
    assert [name for name, value in found.items() if value is None] == gone


def test_with_the_diagonal_and_the_last_row_forgetting_is_the_fall_since_taught() -> None:
    sparse: list[list[float | None]] = [[0.1, 0.2, 0.3], [0.9, None, None], [None, 0.8, None], [0.6, 0.4, 0.7]]
    found = f.figures(sparse, TASKS, TASKS, MULTITASK, SPECIALISTS)
    assert [name for name, value in found.items() if value is None] == ["average_incremental_acc", "fwt"]
    assert found["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    whole = f.figures(R, TASKS, TASKS, MULTITASK, SPECIALISTS)
    assert all(found[name] == whole[name] for name in ("acc", "learning_acc", "bwt", "intransigence"))
    assert f.forgetting([[0.0, 0.0], [None, 0.0], [0.4, 0.9]]) is None


def test_an_arm_without_a_sequence_has_only_acc_and_the_gap_to_multitask() -> None:
    found = f.figures([R[0], SPECIALISTS], TASKS, TASKS, MULTITASK, SPECIALISTS, sequential=False)
    known = {name: value for name, value in found.items() if value is not None}
    assert known == pytest.approx({"acc": 0.9, "gap_to_multitask": -0.1})


def test_references_that_are_missing_leave_their_gaps_empty() -> None:
    found = f.figures(R, TASKS, TASKS)
    assert found["intransigence"] is None
    assert found["gap_to_multitask"] is None and found["gap_to_specialists"] is None


def test_a_matrix_that_is_not_square_is_an_error() -> None:
    with pytest.raises(ValueError, match="T \\+ 1 rows of T cells"):
        f.bwt(R[:3])


@pytest.mark.parametrize("seed", range(50))
def test_acc_is_learning_acc_plus_its_share_of_bwt(seed: int) -> None:
    draw = random.Random(seed)
    T = draw.randint(2, 9)
    matrix = [[draw.random() for _ in range(T)] for _ in range(T + 1)]
    before = copy.deepcopy(matrix)
    learned, change = f.learning_acc(matrix), f.bwt(matrix)
    assert learned is not None and change is not None
    assert f.acc(matrix) == pytest.approx(learned + (T - 1) / T * change)
    forgot = f.forgetting(matrix)
    assert forgot is not None and (forgot >= -change - 1e-12)  # the best is at least the score when taught
    f.figures(matrix, list(range(T)), list(range(T)), matrix[0], matrix[1])  # type: ignore[arg-type]
    assert matrix == before


def test_the_bootstrap_interval_is_reproducible_and_holds_the_mean() -> None:
    scores = [1.0] * 60 + [0.0] * 40
    low, high = f.bootstrap_ci(scores, seed=3)
    assert (low, high) == f.bootstrap_ci(scores, seed=3)
    assert (low, high) != f.bootstrap_ci(scores, seed=4)
    assert low < 0.6 < high
    assert high - low == pytest.approx(2 * 1.96 * (0.6 * 0.4 / 100) ** 0.5, abs=0.03)
    narrow = f.bootstrap_ci(scores, level=0.5)
    assert narrow[1] - narrow[0] < high - low


def test_the_bootstrap_of_equal_rows_has_no_width_and_of_no_rows_is_an_error() -> None:
    assert f.bootstrap_ci([0.5, 0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no row scores"):
        f.bootstrap_ci([])
