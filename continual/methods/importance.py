"""What the methods that hold important weights share: their state by name, and importance from single rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from continual.guard import guard
from continual.seeds import derive

guard()

from avalanche.training.utils import ParamData  # noqa: E402

Named = dict[str, Any]
"""A tensor of each trained parameter, as Avalanche keeps them: name -> `ParamData`."""


def flat(prefix: str, named: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Copies of the tensors, ``prefix/name`` -> tensor."""
    return {f"{prefix}/{name}": own.data.clone() for name, own in named.items()}


def named(prefix: str, state: Mapping[str, Any]) -> Named:
    """What `flat` made of it, again as Avalanche keeps it; empty where it has none of this prefix."""
    start = f"{prefix}/"
    found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    return {name: ParamData(name, init_tensor=value, device=value.device) for name, value in found.items()}


@contextmanager
def row_by_row(strategy: Any, rows: int | None, seed: int) -> Iterator[None]:
    """While it lasts, a plugin that computes importance sees the current task's rows one at a time.

    Avalanche takes batches of `train_mb_size` and squares the gradient of their mean. That is no Fisher information,
    for gradients of different rows cancel before they are squared, and it shrinks as batches grow.

    Args:
        rows: so many are drawn; None: all.
        seed: decides which.
    """
    experience, size = strategy.experience, strategy.train_mb_size
    dataset, own = experience.dataset, derive(seed, experience.current_experience, "importance")
    if rows is not None and rows < len(dataset):
        dataset = dataset.subset(np.random.default_rng(own).permutation(len(dataset))[:rows].tolist())
    torch.manual_seed(own)
    strategy.experience, strategy.train_mb_size = SimpleNamespace(dataset=dataset), 1
    try:
        yield
    finally:
        strategy.experience, strategy.train_mb_size = experience, size
