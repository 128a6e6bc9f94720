from typing import Any

from continual.card import card

Rows = list[list[float | None]]


def results(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"name": "mine", "model": "gpt2", "tasks": ["edit", "ask"], "arms": {"plain": {"runs": list(runs)}}}


def run(last: list[float | None], seed: int = 0, order: str = "edit ask", **settings: Any) -> dict[str, Any]:
    return {"seed": seed, "set": settings, "order": order.split(), "R": [[0.0, 0.25], [0.5, 0.1], last]}


def table(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def test_the_card_tells_what_was_taught_and_the_last_row_of_each_run() -> None:
    text = card(results(run([0.75, 1.0]), run([0.5, 0.25], seed=1)))
    assert text.startswith("# mine\n") and "`gpt2` taught `edit`, `ask`, in this order" in text
    rows = table(text)
    assert rows["arm"] == ["edit", "ask", "mean"]
    assert rows["base"] == ["0.0", "25.0", "12.5"]
    assert rows["plain, seed 0"] == ["75.0", "100.0", "87.5"]
    assert rows["plain, seed 1"] == ["50.0", "25.0", "37.5"]


def test_each_point_of_a_sweep_has_a_row_of_its_own() -> None:
    swept = {"training.learning_rate": 0.1}
    rows = table(card(results(run([0.75, 1.0]), run([0.5, 0.5], **swept), run([0.1, 0.2], order="ask edit"))))
    assert rows["plain, seed 0"][-1] == "87.5"
    assert rows["plain, seed 0, training.learning_rate=0.1"][-1] == "50.0"
    assert rows["plain, seed 0, in the order ask edit"] == ["10.0", "20.0", "15.0"]


def test_an_unknown_score_is_left_out_and_not_counted_as_zero() -> None:
    assert table(card(results(run([None, 0.5]))))["plain, seed 0"] == ["", "50.0", "50.0"]
