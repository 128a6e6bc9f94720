"""Whom a model learns from beside the data: itself as it was before a task, or the specialist of a task.

A teacher is a set of trained weights, not a second model: its forward passes run with these weights in the place of
the student's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from continual.batch import LMBatch
from continual.errors import ContinualError
from continual.model import CausalLM, LogitsOf

Weights = dict[str, torch.Tensor]
"""Trained parameters by their name in the model."""


def weights_of(model: Any) -> Weights:
    """A copy of what is trained of a model."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def wearing(model: Any, weights: Weights) -> Iterator[None]:
    """While it lasts, a model computes with other weights, if there are any. No gradient may be asked for what is
    computed then.
    """
    parameters = {name: p for name, p in model.named_parameters() if name in weights} if weights else {}
    own = {name: p.data for name, p in parameters.items()}
    try:
        _lay(parameters, weights)
        yield
    finally:
        _lay(parameters, own)


def _lay(parameters: Mapping[str, torch.nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    # Mixed precision keeps its bfloat16 copies by parameter, and would go on with those of the other weights.
    torch.clear_autocast_cache()


@torch.no_grad()
def teacher_logits(model: CausalLM, x: LMBatch, weights: Weights) -> LogitsOf:
    """What a model with other weights, if there are any, expects at supervised positions, without dropout."""
    training = model.training
    model.eval()
    try:
        with wearing(model.inner, weights):
            logits_of = model.in_parts(x)
    finally:
        model.train(training)

    def worn(part: slice) -> torch.Tensor:
        with wearing(model.inner, weights):
            return logits_of(part)

    return worn


class Teachers(Protocol):
    """Gives the teacher of each earlier task; None is the model as it is."""

    def of(self, model: Any, task: str) -> Weights | None: ...


class Newest:
    """The model itself, as it is when it is asked."""

    def of(self, model: Any, task: str) -> Weights | None:
        return None


class Specialists:
    """The adapters of an arm that taught one for each task.

    Args:
        folder: of that arm's run; holds ``specialists/<task>``.
        others: teachers of what has no specialist, by its name.
    """

    def __init__(self, folder: Path, others: Mapping[str, Callable[[], Weights]]) -> None:
        self.folder, self.others = folder, others
        self._known: dict[str, Weights] = {}

    def of(self, model: Any, task: str) -> Weights | None:
        if task not in self._known:
            other = self.others.get(task)
            self._known[task] = other() if other else adapter_weights(model, self.folder / "specialists" / task)
        return self._known[task]


def adapter_weights(model: Any, folder: Path) -> Weights:
    """A saved adapter's weights by the names that they have in a model with an adapter of the same shape.

    Raises:
        ContinualError: there is none, or it does not fit.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ContinualError(f"{folder}: there is no specialist; its arm must be taught before, at the same seed")
    saved = load_file(path, device=str(model.device))
    # PEFT leaves the adapter's name out of what it saves.
    wanted: Mapping[str, torch.Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights = {name: saved.get(name.replace(".default", "")) for name in wanted}
    found: Weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    if len(found) < len(wanted) or any(tensor.shape != wanted[name].shape for name, tensor in found.items()):
        raise ContinualError(f"{folder}: this adapter has not the shape of the one that is taught")
    return {name: tensor.to(wanted[name].dtype) for name, tensor in found.items()}
