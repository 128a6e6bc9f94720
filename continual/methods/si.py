"""Synaptic intelligence: a weight is held by how much its way through training has lowered the loss.

Zenke, Poole and Ganguli, 2017, "Continual Learning Through Synaptic Intelligence", eq. 4 and 5, in the form of
Maltoni and Lomonaco, 2019, "Continuous Learning in Single-Incremental-Task Scenarios", which caps an importance at
0.001. The gradients of the path are those of each step as the optimizer takes it: clipped, penalty included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from continual.avalanche_settings import SynapticIntelligence
from continual.guard import guard
from continual.methods.importance import flat, named
from continual.methods.lesson import Lesson
from continual.plugin import LossPlugin, MethodPlugin

guard()

from avalanche.training.plugins import SynapticIntelligencePlugin  # noqa: E402
from avalanche.training.utils import ParamData  # noqa: E402

SCRATCH = ("old_theta", "new_theta", "grad")
"""What Avalanche writes anew at each step."""


class SynapticIntelligenceMethod(SynapticIntelligencePlugin, LossPlugin, MethodPlugin):
    """Avalanche's SI, also on a CPU.

    There Avalanche takes a view of each weight for a copy of it. What it compares at the end of a step, and with what
    the penalty compares, is then the weight itself: all importance and all penalties are 0.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with _weights_only(strategy):
            super().before_training_exp(strategy, **kwargs)
        _copy(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        with _weights_only(strategy):
            super().before_training_iteration(strategy, **kwargs)
        _copy(self.syn_data["old_theta"])

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        with _weights_only(strategy):
            super().before_backward(strategy, **kwargs)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        with _weights_only(strategy):
            super().after_training_iteration(strategy, **kwargs)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with _weights_only(strategy):
            super().after_training_exp(strategy, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        state = flat("anchor", self.ewc_data[0]) | flat("importance", self.ewc_data[1])
        state |= flat("trajectory", self.syn_data["trajectory"])
        return state | flat("cum_trajectory", self.syn_data["cum_trajectory"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # Avalanche keeps these on the CPU whatever the model is on.
        own = {key: tensor.cpu() for key, tensor in state.items()}
        self.ewc_data = (named("anchor", own), named("importance", own))
        for kind in ("trajectory", "cum_trajectory"):
            self.syn_data[kind] = named(kind, own)
        for kind in SCRATCH:
            self.syn_data[kind] = {name: ParamData(name, v.data.shape) for name, v in self.ewc_data[0].items()}


class _Weights:
    """A model that has trained weights and no layers."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Any]]:
        return self.model.named_parameters()

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        return iter(())


@contextmanager
def _weights_only(strategy: Any) -> Iterator[None]:
    """While it lasts, a plugin sees a model without layers.

    Several times in a step Avalanche looks for batch norms through all layers below each layer, which takes a time
    that doubles with each level of depth. A language model has none.
    """
    model = strategy.model
    strategy.model = _Weights(model)
    try:
        yield
    finally:
        strategy.model = model


def _copy(of_weights: Mapping[str, Any]) -> None:
    """Let tensors that may be views of weights have memory of their own."""
    for own in of_weights.values():
        own.data = own.data.clone()


def build(arguments: SynapticIntelligence, lesson: Lesson) -> SynapticIntelligenceMethod:
    return SynapticIntelligenceMethod(arguments.lambda_, arguments.eps)
