"""Spaced reviews: model time by hand, when a review is due, that it is a training of its own, and a kill."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import recipe, teach
from pydantic import ValidationError
from test_resume import Killed, matrices

from continual import crossentropy
from continual.batch import Collate
from continual.chat import Chat
from continual.checkpoint import CheckpointPlugin
from continual.curriculum import benchmark
from continual.data import encode
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.methods.distill import DistillPlugin
from continual.methods.spaced import SpacedPlugin
from continual.model import CausalLM
from continual.rehearse.modeltime import Clock, passed
from continual.runs import read_json
from continual.sample import Message, Sample


def test_days_come_further_and_further_apart() -> None:
    assert [passed(days) for days in (0.9, 1, 3.9, 4, 30, 500)] == [0, 1, 2, 3, 6, 9]


def test_a_day_is_how_far_the_first_steps_of_the_first_task_went() -> None:
    clock = Clock(day_steps=2)
    clock.begin()
    assert [clock.tick(moved) for moved in (3.0, 1.0)] == [False, True]  # day 1 has come with the day's own end
    assert clock.day == 4.0
    assert [clock.tick(2.0) for _ in range(6)] == [False, True, False, False, False, True]  # at 8 and at 16
    clock.begin()  # the next task counts from zero, with the same day
    assert clock.time == 0 and [clock.tick(moved) for moved in (3.9, 0.1, 12.0)] == [False, True, True]
    assert clock.due == 3  # the last step passed days 2 and 4 at once: one review


def test_a_first_task_shorter_than_a_day_gives_its_mean_step() -> None:
    clock = Clock(day_steps=24)
    clock.begin()
    for moved in (1.0, 3.0):
        assert not clock.tick(moved)
    clock.begin()
    assert clock.day == 48.0


class Watch(SpacedPlugin):
    """Notes the norm of each step and the number of each reviewed row."""

    def __init__(self, day_steps: int) -> None:
        super().__init__(day_steps)
        self.path: list[float] = []
        self.at: list[int] = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.path.append(self._moved)
        super().after_training_iteration(strategy, **kwargs)

    def _review(self, strategy: Any) -> None:
        self.at.append(strategy.step)
        before = (strategy.optimizer, strategy.schedule.last_epoch, strategy.loss.item())
        super()._review(strategy)
        assert (strategy.optimizer, strategy.schedule.last_epoch, strategy.loss.item()) == before


def lessons() -> tuple[Any, Any, Collate]:
    chat = Chat(tiny.tokenizer())
    collate = Collate(chat.bos_ids, {}, chat.end_id)
    rows = {t: [Sample(t, (Message("user", f"{t} {i}"), Message("assistant", t))) for i in range(16)] for t in "ab"}
    splits = {t: dict.fromkeys(("train", "dev", "test"), rows[t]) for t in "ab"}
    old = encode(rows["a"], chat, 40, 0, collate, rehearsed=True)
    return benchmark(["a", "b"], splits, chat, collate, 40).train_stream, old, collate


def test_model_time_is_the_norm_of_each_step_and_reviews_take_none() -> None:
    stream, old, collate = lessons()
    weights: list[torch.Tensor] = []

    class Traced(Watch):
        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            super().before_update(strategy, **kwargs)
            weights.append(torch.cat([p.detach().flatten() for p in strategy.model.parameters()]))

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            super().after_update(strategy, **kwargs)
            weights.append(torch.cat([p.detach().flatten() for p in strategy.model.parameters()]))

    plugin = Traced(day_steps=3)
    fast = Hyperparameters(learning_rate=1e-2, num_train_epochs=4, tokens_per_batch=64, lr_scheduler_type="constant")
    strategy = CausalLMTemplate(
        model=CausalLM(tiny.model()), hyperparameters=fast, seed=0, collate=collate, plugins=[plugin]
    )
    plugin.begin([])
    strategy.train(stream[0], eval_streams=[])
    assert plugin.reviews == 0
    first = len(plugin.path)
    by_hand = [float((after - before).norm()) for before, after in zip(weights[::2], weights[1::2], strict=True)]
    assert plugin.path == pytest.approx(by_hand, rel=1e-4)
    assert plugin.clock.day == pytest.approx(sum(by_hand[:3]), rel=1e-4)
    plugin.at.clear()
    plugin.begin([old])
    strategy.train(stream[1], eval_streams=[])
    times = [sum(plugin.path[first : first + n]) / plugin.clock.day for n in range(1, strategy.step + 1)]
    due = [n for n, days in enumerate(times, start=1) if passed(days) > passed(times[n - 2] if n > 1 else 0)]
    assert plugin.at == [*due, strategy.step] and len(due) >= 2  # and once more at the end
    assert plugin.reviews == len(plugin.at)
    assert strategy.step == len(plugin.path) - first  # reviews are not counted as steps
    plugin.begin([])
    assert plugin.reviews == 0


def test_a_review_teaches_its_rows() -> None:
    stream, old, collate = lessons()
    fast = Hyperparameters(learning_rate=1e-2, num_train_epochs=8, tokens_per_batch=64)
    losses = {}
    for rows in (None, old):
        plugin = SpacedPlugin(day_steps=2)
        model = tiny.model()
        strategy = CausalLMTemplate(
            model=CausalLM(model), hyperparameters=fast, seed=0, collate=collate, plugins=[plugin]
        )
        plugin.begin([])
        strategy.train(stream[0], eval_streams=[])
        plugin.begin([] if rows is None else [rows])
        strategy.train(stream[1], eval_streams=[])
        x, y, _ = collate([old[i] for i in range(len(old))])
        losses[rows is None] = float(torch.nn.functional.cross_entropy(CausalLM(model)(x), y))
    assert losses[False] < losses[True] / 2


SPACED = {"rehearsal": {"schedule": "spaced", "day_steps": 2, "writer": "real"}}


def test_a_run_counts_its_reviews_and_learns_them_apart(world: Path) -> None:
    arms = {"spaced": SPACED, "every": {"rehearsal": {"writer": "real"}}}
    run = teach(world, arms=arms, curriculum=["sound", "legs", "first"])
    spaced, every = (read_json(run / f"arms/{arm}/seed0/run.json") for arm in arms)
    assert all(entry["reviews"] >= 2 for entry in spaced["rehearsed"])
    assert all("reviews" not in entry for entry in every["rehearsed"])
    assert spaced["R"] != every["R"]


def test_a_killed_run_with_reviews_ends_with_the_same_bytes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"learning_rate": 1e-2, "num_train_epochs": 2, "tokens_per_batch": 64, "max_length": 48}
    arm = {"rehearsal": {**SPACED["rehearsal"], "ratio": 0.5, "distill": None}}
    settings: dict[str, Any] = {"arms": {"spaced": arm}, "training": {**training, "save_steps": 3}}
    settings["adapter"] = {"r": 2, "lora_dropout": 0.2}
    whole = teach(world, **settings, output_dir=str(world / "whole"))
    after = CheckpointPlugin.after_training_iteration
    dues = []

    def dying(self: CheckpointPlugin, strategy: Any, **kwargs: Any) -> None:
        after(self, strategy, **kwargs)
        if strategy.experience.current_experience == 1 and strategy.step == 7:
            dues.append(read_json(self.folder / "2/methods.json")[1]["due"])
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CheckpointPlugin, "after_training_iteration", dying)
        teach(world, **settings)
    assert dues[0] >= 1  # a review had been, and must not come again
    run = teach(world, **settings)
    assert matrices(run) == matrices(whole)
    ends = [read_json(folder / "arms/spaced/seed0/run.json")["rehearsed"] for folder in (run, whole)]
    assert ends[0] == ends[1]
    weights = "arms/spaced/seed0/after/2/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_share_of_a_mixture_is_refused_where_nothing_is_mixed(world: Path) -> None:
    with pytest.raises(ValidationError, match="share: with schedule: spaced nothing is mixed"):
        recipe(world, arms={"a": {"rehearsal": {"schedule": "spaced", "share": 0.5}}})


def test_a_review_is_distilled(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    guide = DistillPlugin.guide
    monkeypatch.setattr(DistillPlugin, "guide", lambda self, *given: asked.append(guide(self, *given)) or asked[-1])
    teach(world, arms={"a": SPACED})
    assert any(told is not crossentropy.plain for told in asked)


@pytest.mark.parametrize("method", ["si", "rwalk", "agem"])
def test_methods_that_look_at_each_step_are_refused_beside_reviews(world: Path, method: str) -> None:
    with pytest.raises(ValidationError, match=f"spaced: {method} looks at every step"):
        recipe(world, adapter=None, arms={"a": {"method": method, "rehearsal": {"schedule": "spaced"}}})
