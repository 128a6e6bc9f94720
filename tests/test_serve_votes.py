"""What votes come to."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from continual.serve.votes import MAX_PROMPT, Vote, Votes, rate


def test_the_interval_is_wilsons() -> None:
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662, and 0 of 20 gives 0 to 0.1611.
    assert rate([1.0] * 81 + [0.0] * 182)["interval"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert rate([0.0] * 20)["interval"] == pytest.approx([0, 0.1611], abs=1e-4)
    assert rate([0.5, 0.5]) | {"interval": 0} == {
        "votes": 2,
        "wins": 0,
        "ties": 2,
        "losses": 0,
        "rate": 0.5,
        "interval": 0,
    }


def test_votes_are_kept_and_counted_for_both_sides(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    assert votes.results() == {"votes": 0, "models": [], "pairs": []}
    for a, b, winner in [("x", "y", "a"), ("y", "x", "a"), ("y", "x", "b"), ("x", "z", "tie")]:
        votes.add(Vote(a=a, b=b, winner=winner, prompt="what\n?"))
    results = Votes(tmp_path).results()
    assert {entry["model"]: (entry["wins"], entry["ties"], entry["losses"]) for entry in results["models"]} == {
        "x": (2, 1, 1),
        "y": (1, 0, 2),
        "z": (0, 1, 0),
    }
    pairs = [(pair["a"], pair["b"], pair["votes"], pair["rate"]) for pair in results["pairs"]]
    assert pairs == [("x", "y", 3, 2 / 3), ("x", "z", 1, 0.5)]


@pytest.mark.parametrize("change", [{"b": "x"}, {"winner": "c"}, {"more": 1}, {"prompt": "x" * (MAX_PROMPT + 1)}])
def test_a_vote_that_says_nothing_is_refused(change: dict) -> None:
    with pytest.raises(ValidationError):
        Vote.model_validate({"a": "x", "b": "y", "winner": "a", **change})
