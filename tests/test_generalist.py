"""One adapter from specialists: merged, or distilled from what they write; and what a recipe may say of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ANIMALS, recipe, teach
from pydantic import ValidationError

from continual import lora
from continual.errors import ContinualError
from continual.rehearse.text import Written
from continual.rehearse.writer import ModelWriter
from continual.report.rehearsed import batches
from continual.runs import read_json
from continual.sample import Message

ADAPTER = {"r": 4, "lora_alpha": 8}
APART: dict[str, Any] = {"teach": "specialists", "rehearsal": {}}
ARMS: dict[str, Any] = {
    "specialists": APART,
    "ties": {"teach": "merge", "method": "ties", "method_args": {"density": 0.5}},
    "mean": {"teach": "merge", "method": "linear", "scale": 0.5, "rank": 8},
    "tuned": {"teach": "merge", "method": "linear", "scale": "tune", "tune_samples": 4},
    "each": {"teach": "merge", "method": "linear", "scale": "tune_each", "tune_on": "dev", "tune_samples": 2},
    "distilled": {"teach": "distill", "rehearsal": {"samples": 6}},
    "warm": {
        "teach": "distill", "start_from": "merged", "method": "linear", "scale": "tune", "tune_samples": 4,
        "rehearsal": {"samples": 6},
    },
    "multitask": {"teach": "multitask"},
}  # fmt: skip
WRITING = 10**15
"""Bytes that writing and tuning took, as the fixture has it."""


def written(self: ModelWriter, model: Any, wanted: Any, seed: int, earlier: Any = None, shapes: Any = None) -> Any:
    """What good specialists would write; a model this small cannot."""
    frame = {"sound": "red {}", "legs": "how many legs has the {} ?"}
    answer = {"sound": lambda animal: animal[::-1], "legs": lambda animal: "two"}

    def sample(task: str, animal: str) -> Written:
        messages = (Message("user", frame[task].format(animal)), Message("assistant", answer[task](animal)))
        return Written(messages, "", None, 5)

    return {task: [sample(task, animal) for animal in (ANIMALS * 9)[:n]] for task, n in wanted.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with every kind of generalist."""
    from conftest import make_world

    world = make_world(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelWriter, "write", written)
        patch.setattr("continual.generalist.peak", lambda: WRITING)
        return teach(world, arms=ARMS, adapter=ADAPTER)


def told(run: Path, arm: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run / "arms" / arm / "seed0/run.json")
    return found


@pytest.mark.parametrize("arm", [name for name in ARMS if name not in ("specialists", "multitask")])
def test_each_has_two_rows_and_an_adapter_that_can_be_asked(run: Path, arm: str) -> None:
    R = told(run, arm)["R"]
    assert len(R) == 2 and all(cell is not None for cell in R[1])
    assert lora.load(run / "arms" / arm / "seed0/after/1").factors


def test_a_merge_is_what_its_recipe_says(run: Path) -> None:
    from continual.merge import merge

    apart = [lora.load(run / f"arms/specialists/seed0/specialists/{task}") for task in ("sound", "legs")]
    stored = lora.load(run / "arms/mean/seed0/after/1")
    assert stored.rank == 8
    by_hand = merge(apart, "linear", rank=8).lora
    for name, (a, b) in stored.factors.items():
        assert torch.allclose(b @ a, 0.5 * by_hand.factors[name].b @ by_hand.factors[name].a, atol=1e-6)
    said = read_json(run / "arms/mean/seed0/after/1/merge.json")
    assert (said["of"], said["tasks"], said["scale"]) == ("specialists", ["sound", "legs"], 0.5)


def test_real_rows_count_only_where_a_merge_is_tuned_on_them(run: Path) -> None:
    costs = {arm: told(run, arm)["cost"] for arm in ARMS}
    assert {arm: cost["real_rows_kept"] for arm, cost in costs.items()} == {
        **dict.fromkeys(ARMS, 0),
        "each": 4,
        "multitask": None,
    }
    assert costs["each"]["stored_bytes"] > 0 and costs["tuned"]["stored_bytes"] == 0


def test_a_tuned_merge_says_what_it_tried(run: Path) -> None:
    said = read_json(run / "arms/tuned/seed0/after/1/merge.json")
    losses = dict(said["tried"])
    assert said["loss"] == min(losses.values()) == losses[said["scale"]]
    assert len(read_json(run / "arms/each/seed0/after/1/merge.json")["weights"]) == 2
    assert told(run, "tuned")["cost"]["generated_tokens"] == 2 * 4 * 5


def test_a_distilled_one_learns_only_what_was_written(run: Path) -> None:
    arm = told(run, "distilled")
    assert [(e["task"], e["kept"], e["real_rows"]) for e in arm["rehearsed"]] == [("sound", 6, 0), ("legs", 6, 0)]
    assert arm["cost"]["generated_tokens"] == 2 * 6 * 5
    assert 0 < arm["cost"]["train_tokens"] < told(run, "multitask")["cost"]["train_tokens"]
    files = sorted(path.name for path in (run / "arms/distilled/seed0/rehearsed").iterdir())
    assert files == ["1-legs.jsonl", "1-sound.jsonl"]


def test_what_its_start_was_tuned_on_counts_beside_what_it_learns(run: Path) -> None:
    arm = told(run, "warm")
    assert arm["cost"]["generated_tokens"] == 2 * (4 + 6) * 5
    assert [(e["before"], e["task"], e["wanted"]) for e in arm["rehearsed"]] == [
        ("the merge", "sound", 4), ("the merge", "legs", 4), ("all tasks", "sound", 6), ("all tasks", "legs", 6),
    ]  # fmt: skip
    shown = batches(run / "arms/warm/seed0", arm)
    assert [len(batch.samples) for batch in shown] == [4, 4, 6, 6]


def test_memory_is_that_of_writing_or_of_learning_whichever_is_more(run: Path) -> None:
    assert {told(run, arm)["cost"]["peak_bytes"] for arm in ("distilled", "warm")} == {WRITING}


def test_where_it_starts_shows(run: Path) -> None:
    first, second = (lora.load(run / f"arms/{arm}/seed0/after/1") for arm in ("distilled", "warm"))
    name = next(iter(first.factors))
    assert not torch.allclose(first.factors[name].a, second.factors[name].a)


def test_the_report_names_them(run: Path) -> None:
    from continual.report.views import colours, rows_of
    from continual.report.words import headline

    results = read_json(run / "results.json")
    said = {row.arm: headline(row) for row in rows_of(results, colours([results]))}
    assert "merged from the specialists" in said["ties"] and "taught by the specialists" in said["distilled"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "how many legs has the dog ?" in page  # what the specialists wrote can be read


def test_a_finished_run_is_left_as_it_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "results.json").read_bytes()
    monkeypatch.setattr("continual.merged.merge", None)
    teach(run.parent, arms=ARMS, adapter=ADAPTER)
    assert (run / "results.json").read_bytes() == before


def test_specialists_that_write_nothing_valid_are_named(world: Path) -> None:
    arms = {"specialists": APART, "tuned": ARMS["tuned"]}
    with pytest.raises(ContinualError, match="no sample to tune on"):
        teach(world, arms=arms, adapter=ADAPTER)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"teach": "merge"}, "say how to merge"),
        ({"teach": "merge", "method": "tiez"}, "did you mean 'ties'"),
        ({"teach": "merge", "method": "ties", "method_args": {"densty": 1}}, "densty"),
        ({"teach": "merge", "method": "regmean"}, "needs to see"),
        ({"teach": "merge", "method": "slerp"}, "2 adapters only"),
        ({"teach": "merge", "method": "ties", "of": "multitask"}, "no arm that teaches specialists"),
        ({"teach": "merge", "method": "ties", "rehearsal": {}}, "no earlier tasks"),
        ({"teach": "merge", "method": "ties", "guard": {"max_forgetting": 0.1}}, "no earlier tasks"),
        ({"teach": "merge", "method": "ties", "scale": "tuned"}, "tune"),
        ({"teach": "sequential", "of": "specialists"}, "only teach: merge"),
        ({"teach": "sequential", "scale": "tune"}, "is of a merge"),
        ({"teach": "distill", "method": "ties"}, "set start_from: merged"),
        ({"teach": "distill", "rehearsal": {"schedule": "spaced"}}, "distill has none"),
        ({"teach": "distill", "rehearsal": {"writer": "model"}}, "is the specialist here"),
        ({"teach": "distill", "rehearsal": {"cue": "shared"}}, "must be the same"),
        ({"teach": "distill", "rehearsal": {"distill": {"weigth": 1}}}, "weigth"),
    ],
)
def test_what_does_not_fit_is_told(world: Path, arm: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipe(world, arms={"specialists": APART, "multitask": {"teach": "multitask"}, "x": arm}, adapter=ADAPTER)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"x": ARMS["ties"], "specialists": APART}}, "no arm before this one"),
        ({"arms": {"specialists": {"teach": "specialists"}, "x": ARMS["tuned"]}}, "do not learn to write"),
        ({"arms": {"specialists": {"teach": "specialists"}, "x": ARMS["distilled"]}}, "do not learn to write"),
        ({"arms": {"specialists": APART, "x": ARMS["ties"]}, "adapter": None}, "no `adapter`"),
        ({"arms": {"specialists": APART, "x": ARMS["ties"]}, "adapter": {"use_dora": True}}, "use_dora"),
        ({"arms": {"specialists": APART, "x": ARMS["ties"]}, "start": "somewhere"}, "count several times"),
        ({"arms": {"specialists": APART, "x": ARMS["warm"]}, "adapter": {"rank_pattern": {"q_proj": 2}}}, "one rank"),
        ({"arms": {"specialists": APART, "x": {**ARMS["warm"], "rank": 5}}}, "rank: is larger than adapter.r, 4"),
    ],
)
def test_what_does_not_fit_the_recipe_is_told(world: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipe(world, **{"adapter": ADAPTER, **changes})


def test_a_resolved_recipe_gives_the_same(world: Path) -> None:
    from continual.recipe import Recipe

    once = recipe(world, arms=ARMS, adapter=ADAPTER)
    assert Recipe.model_validate(once.resolved()).resolved() == once.resolved()
    settings = once.arms["distilled"].rehearsal
    assert settings is not None and settings.distill is not None
    assert (settings.writer, settings.relabel, settings.distill.teacher, settings.samples) == (
        "specialist", "specialist", "specialist", 6,
    )  # fmt: skip


def test_the_plan_counts_what_is_written_and_learned(world: Path) -> None:
    from continual import estimate

    once = recipe(world, arms=ARMS, adapter=ADAPTER)
    sizes = estimate.look_at_tasks(once, estimate.look_at_model(once), None, [world / "tasks"])
    base = estimate.look_at_model(once)
    costs = {arm: estimate.cost(once, arm, sizes, base) for arm in ARMS}
    assert {arm: costs[arm].written for arm in ("ties", "tuned", "each", "distilled", "warm")} == {
        "ties": 0, "tuned": 8, "each": 0, "distilled": 12, "warm": 20,
    }  # fmt: skip
    assert costs["ties"].steps == 0 and costs["ties"].answers == costs["multitask"].answers
    assert costs["distilled"].train_tokens == round(2 * 6 * sum(sizes[t].tokens for t in ("sound", "legs")))
