"""The state of methods on disk: tensors in safetensors, plain values in JSON. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from continual.plugin import Stateful
from continual.runs import read_json, write_json

NAME = "methods"


def store(folder: Path, plugins: Sequence[Stateful]) -> None:
    """Write the states of some plugins into a folder; nothing where there are none."""
    tensors: dict[str, torch.Tensor] = {}
    values: list[dict[str, Any]] = []
    for number, plugin in enumerate(plugins):
        state = plugin.state_dict()
        own = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        tensors |= {f"{number}/{name}": value.detach().contiguous().cpu() for name, value in own.items()}
        values.append({name: value for name, value in state.items() if name not in own})
    if tensors:
        save_file(tensors, folder / f"{NAME}.safetensors")
    if any(values):
        write_json(folder / f"{NAME}.json", values)


def restore(folder: Path, plugins: Sequence[Stateful], device: Any = "cpu") -> None:
    """Put plugins into the states that `store` wrote of them."""
    values, tensors = folder / f"{NAME}.json", folder / f"{NAME}.safetensors"
    states: list[dict[str, Any]] = read_json(values) if values.exists() else [{} for _ in plugins]
    if tensors.exists():
        for key, tensor in load_file(tensors, device=str(device)).items():
            number, name = key.split("/", 1)
            states[int(number)][name] = tensor
    for plugin, state in zip(plugins, states, strict=True):
        plugin.load_state_dict(state)
