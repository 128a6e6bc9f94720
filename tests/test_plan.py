import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from continual import estimate, plan
from continual.errors import ContinualError
from continual.estimate import BaseSize, TaskSize
from continual.plan import expand
from continual.recipe import Recipe

BASE = BaseSize("tiny", 1_000_000, 20_000, 128, 4, chat=None)

SIZES = {
    "a": TaskSize("a", train=100, train_available=500, test=50, test_available=50, tokens=20, answer_tokens=5),
    "b": TaskSize("b", train=40, train_available=40, test=10, test_available=10, tokens=30, answer_tokens=2),
    "c": TaskSize("c", train=60, train_available=60, test=20, test_available=90, tokens=10, answer_tokens=1),
}


def recipe(**settings: Any) -> Recipe:
    data = {
        "model_name_or_path": "m",
        "curriculum": ["a", "b", "c"],
        "training": {"learning_rate": 1e-3, "num_train_epochs": 2, "tokens_per_batch": 500},
        "adapter": {},
        "output_dir": "runs/x",
    }
    return Recipe.model_validate({**data, **settings})


# Which runs there are


def test_one_run_for_each_arm_and_seed():
    runs = expand(recipe(arms={"x": {}, "y": {"teach": "multitask"}}, seeds=[0, 5]))
    assert [(run.arm, run.seed, run.run_name) for run in runs] == [
        ("x", 0, "seed0"),
        ("x", 5, "seed5"),
        ("y", 0, "seed0"),
        ("y", 5, "seed5"),
    ]
    assert all(run.set == {} and run.order == ("a", "b", "c") for run in runs)


def test_a_sweep_is_every_combination():
    swept = recipe(
        arms={"x": {}},
        sweep={"adapter.r": [4, 8], "curriculum": [["a", "b", "c"], ["c", "a", "b"]]},
    )
    runs = expand(swept)
    assert [(run.recipe.adapter.r, run.order) for run in runs] == [
        (4, ("a", "b", "c")),
        (4, ("c", "a", "b")),
        (8, ("a", "b", "c")),
        (8, ("c", "a", "b")),
    ]
    assert [run.recipe.tasks == run.order for run in runs] == [True] * 4
    assert len({run.run_name for run in runs}) == 4
    assert all(run.run_name.startswith("seed0-") and len(run.run_name) == 14 for run in runs)


def test_orders_concern_only_what_is_taught_in_sequence():
    orders = [["c", "a", "b"], ["b", "c", "a"]]
    arms = {"x": {}, "one": {"teach": "specialists"}, "all": {"teach": "multitask"}}
    runs = expand(recipe(arms=arms, seeds=[0, 1], sweep={"curriculum": orders, "adapter.r": [4, 8]}))
    assert [sum(run.arm == arm for run in runs) for arm in arms] == [8, 4, 4]
    for run in runs:
        assert run.arm == "x" or (run.order == ("a", "b", "c") and set(run.set) == {"adapter.r"})
    alone = [run for run in expand(recipe(arms=arms, sweep={"curriculum": orders})) if run.arm == "all"]
    assert [(run.run_name, dict(run.set)) for run in alone] == [("seed0", {})]


def test_a_key_of_one_arm_varies_that_arm_only():
    swept = recipe(
        arms={"x": {"rehearsal": {}}, "y": {}},
        sweep={"arms.x.rehearsal.ratio": [0.1, 0.3]},
    )
    assert [(run.arm, dict(run.set)) for run in expand(swept)] == [
        ("x", {"arms.x.rehearsal.ratio": 0.1}),
        ("x", {"arms.x.rehearsal.ratio": 0.3}),
        ("y", {}),
    ]
    assert expand(swept)[1].recipe.arms["x"].rehearsal.ratio == 0.3


def test_arms_whose_names_begin_alike_are_two_arms():
    swept = recipe(arms={"x": {}, "x2": {}}, sweep={"arms.x.training.learning_rate": [1, 2]})
    assert [run.arm for run in expand(swept)] == ["x", "x", "x2"]


def test_the_name_of_a_point_does_not_hang_on_the_order_of_its_keys():
    one = recipe(arms={"x": {}}, sweep={"adapter.r": [4], "dtype": ["float32"]})
    two = recipe(arms={"x": {}}, sweep={"dtype": ["float32"], "adapter.r": [4]})
    assert expand(one)[0].run_name == expand(two)[0].run_name


def test_a_point_that_is_no_recipe_is_named():
    swept = recipe(arms={"x": {"teach": "specialists"}}, sweep={"adapter": [{"r": 4}, None]})
    with pytest.raises(ContinualError, match="sweep: at adapter=None: specialists are adapters"):
        expand(swept)


# What they cost, against figures worked out by hand


def test_cost_of_finetuning():
    cost = estimate.cost(recipe(arms={"x": {}}), "x", SIZES, BASE)
    assert cost.train_tokens == 2 * (100 * 20 + 40 * 30 + 60 * 10)
    assert cost.steps == 2 * (4 + 3 + 2)
    assert cost.written == cost.written_tokens == 0
    assert cost.answers == 3 * (50 + 10 + 20)
    assert cost.answer_tokens == 3 * (50 * 5 + 10 * 2 + 20 * 1)
    assert cost.read_tokens == 3 * (50 * 15 + 10 * 28 + 20 * 9)


def test_fewer_answers_where_each_task_is_examined_after_itself_and_at_the_end():
    cost = estimate.cost(recipe(arms={"x": {}}, evaluate={"after": "own_and_last"}), "x", SIZES, BASE)
    assert cost.answers == (50 + 10) + (50 + 10 + 20)
    assert cost.answer_tokens == (50 * 5 + 10 * 2) + (50 * 5 + 10 * 2 + 20 * 1)


def test_cost_of_rehearsal_by_the_old_tasks():
    cost = estimate.cost(recipe(arms={"x": {"rehearsal": {"ratio": 0.2}}}), "x", SIZES, BASE)
    # written once: 20 of a and 8 of b for each of the two epochs of those that come after
    assert cost.written == 2 * (20 + 8)
    assert cost.written_tokens == 2 * (20 * 20 + 8 * 30)
    assert cost.train_tokens == 2 * (100 * 20 + 40 * 30 + 60 * 10 + 40 * 20 + 8 * 30)


def test_cost_of_writing_is_that_of_the_longest_task():
    tasks = ["a", "b", {"task": "c", "num_train_epochs": 5}]
    arms = {"x": {"rehearsal": {"ratio": 0.2}}}
    cost = estimate.cost(recipe(arms=arms, curriculum=tasks), "x", SIZES, BASE)
    assert cost.written == 5 * (20 + 8)


def test_cost_of_writing_anew_and_of_the_same_in_every_epoch():
    anew = {"x": {"rehearsal": {"ratio": 0.2, "when": "before_task", "fresh": False}}}
    assert estimate.cost(recipe(arms=anew), "x", SIZES, BASE).written == 20 + 20 + 8


def test_cost_of_spaced_reviews():
    arms = {"x": {"rehearsal": {"schedule": "spaced", "day_steps": 2}}}
    cost = estimate.cost(recipe(arms=arms), "x", SIZES, BASE)
    # b takes 2 × 3 steps, three days: a's 400 tokens are reviewed after days 1 and 2 and at the end. c takes 2 × 2
    # steps, two days: again three reviews, of 640 tokens.
    assert cost.steps == 8 + (6 + 3 * 1) + (4 + 3 * 2)
    assert cost.train_tokens == 2 * 2000 + (2 * 1200 + 3 * 400) + (2 * 600 + 3 * 640)


def test_cost_of_rehearsal_by_the_new_task_and_of_two_passes():
    lamol = {"rehearsal": {"preset": "lamol", "ratio": 0.2}}
    cost = estimate.cost(recipe(arms={"x": lamol}), "x", SIZES, BASE)
    assert cost.written == 8 + 6 + 6
    learned = 100 * 20 + 40 * 30 + 60 * 10 + 8 * 20 + 6 * 20 + 6 * 30
    assert cost.train_tokens == 2 * 2 * learned


def test_real_replay_writes_nothing_and_learns_as_much():
    real = {"rehearsal": {"ratio": 0.2, "writer": "real"}}
    arms = {"x": {"rehearsal": {"ratio": 0.2}}, "y": real}
    written, drawn = (estimate.cost(recipe(arms=arms), arm, SIZES, BASE) for arm in arms)
    assert (drawn.written, drawn.written_tokens) == (0, 0)
    assert drawn.train_tokens == written.train_tokens


def test_multitask_takes_the_steps_of_one_long_task():
    cost = estimate.cost(recipe(arms={"x": {"teach": "multitask"}}), "x", SIZES, BASE)
    assert cost.train_tokens == 2 * 3800
    assert cost.steps == 2 * 8
    assert cost.answers == 80


def test_steps_by_rows():
    rows = {"learning_rate": 1, "num_train_epochs": 1, "per_device_train_batch_size": 8}
    counted = recipe(arms={"x": {}}, training={**rows, "gradient_accumulation_steps": 2})
    assert estimate.cost(counted, "x", SIZES, BASE).steps == 7 + 3 + 4


def test_seconds_grow_with_the_work_and_an_adapter_saves_a_third():
    light = estimate.cost(recipe(arms={"x": {}}), "x", SIZES, BASE)
    heavy = estimate.cost(recipe(arms={"x": {}}, adapter=None), "x", SIZES, BASE)
    only_training = {"answer_tokens": 0, "read_tokens": 0}
    for cost in (light, heavy):
        for name, value in only_training.items():
            setattr(cost, name, value)
    assert heavy.seconds(10**6, 1e9) == pytest.approx(6 * 10**6 * 7600 / 0.4 / 1e9)
    assert light.seconds(10**6, 1e9) == pytest.approx(heavy.seconds(10**6, 1e9) * 4 / 6)


def test_machine_speed_is_a_number_of_flops():
    assert 1e8 < estimate.machine_speed(0.05) < 1e16


def test_warnings(tmp_path: Path):
    sizes = {
        **SIZES,
        "c": TaskSize("c", 60, 60, 20, 20, tokens=10, answer_tokens=1, too_long=0.5),
    }
    (tmp_path / "manifest.json").write_text("{}")
    told = estimate.warnings(recipe(output_dir=str(tmp_path)), sizes, BASE)
    assert told == [
        "training.max_length is 512, but the model sees 128 tokens at most",
        "b: only 40 training rows",
        "c: 50% of the rows are longer than max_length=512",
        "c: only 60 training rows",
        f"{tmp_path} holds a run already; it would go on (--fresh starts over)",
    ]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dtype": "bfloat16"}, "dtype: bfloat16: "),
        ({"training": {"learning_rate": 1e-3, "bf16": True}}, "training.bf16: true: "),
        ({}, None),
    ],
)
def test_arithmetic_that_is_emulated_is_warned_of(
    settings: dict[str, Any], named: str | None, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from continual import precision

    monkeypatch.setattr(precision, "has_bfloat16", lambda device: native)
    told = estimate.warnings(recipe(output_dir=str(tmp_path), **settings), {}, BASE)
    assert [line.startswith(named) for line in told if "bfloat16" in line] == ([True] if named and not native else [])


# What is printed


def test_the_plan_shows_tasks_arms_files_and_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimate, "look_at_model", lambda recipe: BASE)
    monkeypatch.setattr(estimate, "look_at_tasks", lambda *args: SIZES)
    monkeypatch.setattr(estimate, "machine_speed", lambda: 1e9)
    out = io.StringIO()
    arms = {"fine": {}, "many": {"teach": "multitask"}}
    swept = recipe(arms=arms, seeds=[1, 2], sweep={"training.num_train_epochs": [1, 2]})
    plan.describe(swept, None, [], Console(file=out, width=150), typed="continual run x")
    shown = out.getvalue()
    for text in (
        "100 of 500",
        "20 of 90",
        "3,800 to 7,600",
        "9 to 18",
        "arms/fine/ seed1-",
        "only 40 training rows",
        "with 80 answers of the untaught base: about",
        "to run it: continual run x",
    ):
        assert text in shown
    # 2 points × 2 seeds × (3 states of fine + 1 of many)
    assert "16 adapters of 0.1 MB" in shown
