"""`auto`: which specialist a prompt is for."""

from pathlib import Path

import numpy as np
import pytest

from continual.errors import ContinualError
from continual.route import Router, held_out_scores, load_router, terms_of

PROMPTS = {
    "translate": [f"translate the word {word} into german" for word in ("dog", "cat", "hen", "fox", "owl", "bee")],
    "legs": [f"how many legs has a {word} ?" for word in ("dog", "cat", "hen", "fox", "owl", "bee")],
    "zh": [f"请把{word}翻译成中文" for word in ("dog", "cat", "hen", "fox", "owl", "bee")],
}


def test_a_held_out_score_is_that_of_a_fit_without_the_row() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 4))
    right = np.eye(2)[[0, 1, 0, 1, 1, 0, 0]]
    kernel, ridge = rows @ rows.T, 0.3
    told = held_out_scores(kernel, ridge, right)
    for i in range(7):
        rest = [n for n in range(7) if n != i]
        weights = np.linalg.solve(rows[rest].T @ rows[rest] + ridge * np.eye(4), rows[rest].T @ right[rest])
        assert told[i] == pytest.approx(rows[i] @ weights, abs=1e-9)


def test_terms_are_words_marks_and_pairs() -> None:
    assert terms_of("A dog, a dog") == {"a": 2, "dog": 2, ",": 1, "a dog": 2, "dog ,": 1, ", a": 1}
    assert "翻 译" in terms_of("翻译")


def test_it_picks_the_task_of_prompts_that_it_has_not_seen() -> None:
    router = Router.fit(PROMPTS)
    for prompt, name in (
        ("translate the word cow into german", "translate"),
        ("How many legs has a horse ?", "legs"),
        ("请把horse翻译成中文", "zh"),
    ):
        choice = router.pick(prompt)
        assert (choice.adapter, choice.sure) == (name, True), choice
        assert next(iter(choice.scores)) == name
        assert list(choice.scores.values()) == sorted(choice.scores.values(), reverse=True)
    assert "legs" in router.pick("How many legs has a horse ?").why
    assert router.held_out == 1.0


@pytest.mark.parametrize("prompt", ["Write a poem about the sea.", "", "what is this ?", "def f(x): return x"])
def test_what_no_specialist_knows_goes_to_the_rule(prompt: str) -> None:
    choice = Router.fit(PROMPTS, unsure="generalist").pick(prompt)
    assert (choice.adapter, choice.sure) == ("generalist", False)
    assert "not sure" in choice.why and "generalist answers" in choice.why
    assert Router.fit(PROMPTS).pick(prompt).adapter is None


def test_unknown_words_make_every_score_smaller() -> None:
    router = Router.fit(PROMPTS)
    known = router.pick("how many legs has a dog ?").scores["legs"]
    told = router.pick("how many legs has a dog ? zyx qwv uts").scores["legs"]
    assert 0 < told < 0.9 * known


def test_a_prompt_between_two_tasks_is_not_sure() -> None:
    router = Router.fit(PROMPTS)
    choice = router.pick("translate how many legs the word dog has into german a ?")
    assert not choice.sure


def test_it_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    router = Router.fit(PROMPTS, unsure="multitask")
    router.save(tmp_path / "router")
    again = load_router(tmp_path)
    for prompt in ("translate the word cow into german", "something else"):
        assert again.pick(prompt) == router.pick(prompt)
    assert again.unsure == "multitask"
    assert [p.suffix for p in (tmp_path / "router").iterdir()] == [".safetensors"]


def test_the_same_prompts_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Router.fit(PROMPTS).save(tmp_path / name)
    first, second = (next((tmp_path / name).iterdir()).read_bytes() for name in ("a", "b"))
    assert first == second


def test_two_that_are_asked_the_same_can_be_told_apart_by_nobody_and_are_routed_all_the_same() -> None:
    router = Router.fit({"a": PROMPTS["legs"], "b": PROMPTS["legs"], "few": ["what is this ?", "and that ?"]})
    assert set(router.names) == {"a", "b", "few"} and all(abs(one) < 10 for one in router.thresholds)


def test_too_little_is_refused() -> None:
    with pytest.raises(ContinualError, match="two specialists"):
        Router.fit({"legs": PROMPTS["legs"]})
    with pytest.raises(ContinualError, match="zh: too few"):
        Router.fit({"legs": PROMPTS["legs"], "zh": ["same", "same"]})


def test_a_run_without_a_router_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ContinualError, match="continual route"):
        load_router(tmp_path)
