"""Changes of linear modules as part of a base model's own weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from continual.errors import ContinualError

Named = Iterable[tuple[str, torch.Tensor]]
"""Changes (out, in) by the module's name."""


def weight_of(model: Any, name: str) -> torch.Tensor:
    """The weight of a linear module as (out, in), a view.

    Raises:
        ContinualError: there is no such module, it is not linear, or its weight is the embedding's too: a change of
            the one would change the other.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ContinualError(f"the base model has no {name}: the adapter belongs to another one") from None
    kind = type(module).__name__
    if not isinstance(module, nn.Linear) and kind != "Conv1D":
        raise ContinualError(f"{name} is a {kind}, no linear module")
    if module.weight is model.get_input_embeddings().weight:
        raise ContinualError(f"{name} shares its weight with the embedding, which the adapter leaves alone")
    return module.weight.data.T if kind == "Conv1D" else module.weight.data  # GPT-2 keeps it the other way round


def add(model: Any, changes: Named) -> None:
    """Add changes to the weights of a model, computed in float32.

    Raises:
        ContinualError: a change does not fit the model.
    """
    for name, change in changes:
        weight = weight_of(model, name)
        if weight.shape != change.shape:
            raise ContinualError(f"{name} is {tuple(weight.shape)} in the base model and {tuple(change.shape)} here")
        weight.copy_(weight.float() + change.to(weight.device))


@contextmanager
def changed(model: Any, changes: Named) -> Iterator[None]:
    """While it lasts, the changes are part of the weights; afterwards these are put back, not computed back."""
    changes = list(changes)
    kept = {name: weight_of(model, name).clone() for name, _ in changes}
    try:
        add(model, changes)
        yield
    finally:
        for name, weight in kept.items():
            weight_of(model, name).copy_(weight)
