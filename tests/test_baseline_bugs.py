"""What is wrong with the baselines in LAMOL's released code must not be wrong here.

There EWC ends with a NameError after the first task; EWC and MAS pull towards the weights from before the first task
for ever; their penalties and GEM's projection have no effect in half precision; and what is squared is the gradient
of a batch's mean.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from test_avalanche_by_hand import Probe, Weights, fisher, gradient, held, lesson, school, weights

from continual.avalanche_settings import Agem, Ewc, Mas, OnlineEwc
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.methods import agem, ewc, mas

HELD: dict[str, tuple[Any, Any, Any, Any]] = {
    "ewc": (ewc.build, Ewc, lambda method, task: method.saved_params[task], lambda method: method.importances[0]),
    "ewc_online": (
        ewc.build,
        OnlineEwc,
        lambda method, task: method.saved_params[task],
        lambda method: method.importances[0],
    ),
    "mas": (mas.build, Mas, lambda method, task: method.params, lambda method: method.importance),
}
"""Methods with an anchor: how they are made, their arguments, their anchor after a task, their first importance."""


@pytest.fixture(params=["no", "bf16"])
def accelerator(request: pytest.FixtureRequest) -> Iterator[Accelerator]:
    """In float32 and with bfloat16 autocast; accelerate keeps one precision for a whole process."""
    for state in (AcceleratorState, GradientState):
        state._reset_state()
    yield Accelerator(mixed_precision=request.param)
    for state in (AcceleratorState, GradientState):
        state._reset_state()


def distance(some: Weights, others: Weights) -> float:
    return sum(float((some[name] - others[name]).pow(2).sum()) for name in some) ** 0.5


def test_the_importance_of_ewc_is_computed_at_all(accelerator: Accelerator) -> None:
    method = ewc.build(Ewc(), lesson())
    strategy, stream = school(lesson(), [method], accelerator=accelerator)
    strategy.train(stream[0], eval_streams=[])
    importance = method.importances[0]
    assert set(importance) == set(weights(strategy))
    assert all(float(own.data.max()) > 0 for own in importance.values())


@pytest.mark.parametrize("name", HELD)
def test_the_anchor_is_that_of_the_newest_task(name: str) -> None:
    build, arguments, anchor, _ = HELD[name]
    method = build(arguments(), lesson())
    strategy, stream = school(lesson(), [method])
    for number, experience in enumerate(stream):
        before = weights(strategy)
        strategy.train(experience, eval_streams=[])
        found = {key: own.data for key, own in anchor(method, number).items()}
        assert distance(found, weights(strategy)) == 0
        assert distance(found, before) > 0.1


@pytest.mark.parametrize("name", HELD)
def test_the_penalty_holds_weights_in_every_precision(name: str, accelerator: Accelerator) -> None:
    build, arguments, _, importance = HELD[name]
    moved = {}
    for strength in (0.0, 1e4):
        method = build(arguments(**{"lambda": strength}), lesson())
        strategy, stream = school(lesson(), [method], accelerator=accelerator)
        strategy.train(stream[0], eval_streams=[])
        before, important = weights(strategy), {key: own.data.clone() for key, own in importance(method).items()}
        strategy.train(stream[1], eval_streams=[])
        moved[strength] = held(important, weights(strategy), before)
    assert moved[1e4] < 0.25 * moved[0.0]


class Plain(CausalLMTemplate):
    """Steps of plain gradient descent, from which the gradient can be read."""

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        super().check_model_and_optimizer(**kwargs)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.schedule = torch.optim.lr_scheduler.ConstantLR(self.optimizer, 1.0)


def test_the_projection_is_what_the_optimizer_uses(accelerator: Accelerator) -> None:
    told = lesson()
    method = agem.build(Agem(patterns_per_experience=8, sample_size=8), told)
    raw, start = Probe("after_backward", gradient), Probe("before_update", weights)
    turned, end = Probe("before_update", gradient), Probe("after_update", weights)
    reference = Probe("after_backward", lambda s: method.reference_gradients.clone())
    settings = Hyperparameters(0.1, 12, 64, warmup_ratio=0.0, max_grad_norm=0.0)
    strategy, stream = school(
        told, [raw, method, reference, start, turned, end], hyperparameters=settings, accelerator=accelerator
    )
    strategy.train(stream[0], eval_streams=[])
    strategy.__class__ = Plain
    for probe in (raw, start, turned, end, reference):
        probe.seen.clear()
    strategy.train(stream[1], eval_streams=[])
    apart = 0
    for g, r, used, old, new in zip(raw.seen, reference.seen, turned.seen, start.seen, end.seen, strict=True):
        step = torch.cat([(old[name] - new[name]).flatten() for name in old])
        torch.testing.assert_close(step, used, rtol=1e-3, atol=1e-5)
        apart += float(g @ r) < 0
        if float(g @ r) < 0:
            assert abs(float(used @ r)) < 1e-3 * float(g.norm() * r.norm())
            assert float((used - g).norm()) > 0
    assert apart > 0


def test_what_is_squared_is_the_gradient_of_single_rows() -> None:
    told = lesson()
    method = ewc.build(Ewc(), told)
    strategy, stream = school(told, [method])
    strategy.train(stream[0], eval_streams=[])
    assert strategy.train_mb_size > 1  # Avalanche's own would take so many rows at a time
    for name, tensor in fisher(told, 0, strategy.model).items():
        torch.testing.assert_close(method.importances[0][name].data, tensor, rtol=1e-3, atol=1e-7)


def test_importance_may_come_from_some_rows_only() -> None:
    told = lesson()
    some, all_rows = ewc.build(Ewc(importance_samples=2), told), ewc.build(Ewc(importance_samples=8), told)
    strategy, stream = school(told, [some, all_rows])
    strategy.train(stream[0], eval_streams=[])
    whole = fisher(told, 0, strategy.model)
    name = next(iter(whole))
    torch.testing.assert_close(all_rows.importances[0][name].data, whole[name], rtol=1e-3, atol=1e-7)
    assert not torch.allclose(some.importances[0][name].data, whole[name], rtol=1e-2)
