"""Checkpoints inside a task: trainable weights, optimizer, schedule and the step. Nothing is pickled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from continual import states
from continual.plugin import LossPlugin, Stateful
from continual.runs import read_json, remove_folder, write_folder, write_json


class CheckpointPlugin(LossPlugin):
    """Saves every `save_steps` optimizer steps, and goes on from the newest checkpoint of an experience.

    Random draws need no saving: each step derives its own from its number.

    Args:
        folder: gets one sub-folder for each experience, removed when `clear` is called.
        save_steps: None saves nothing (a checkpoint that is there is still used).
        plugins: whose `state_dict` is saved too.
    """

    def __init__(self, folder: Path, save_steps: int | None, plugins: Sequence[Stateful] = ()) -> None:
        super().__init__()
        self.folder, self.save_steps, self.plugins = folder, save_steps, plugins

    def _path(self, strategy: Any) -> Path:
        return self.folder / str(strategy.experience.current_experience + 1)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        path = self._path(strategy)
        if path.exists():
            restore(path, strategy, self.plugins)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        due = self.save_steps is not None and strategy.step % self.save_steps == 0
        if due and strategy.step < strategy.steps and strategy.accelerator.is_main_process:
            write_folder(self._path(strategy), lambda folder: store(folder, strategy, self.plugins))

    def clear(self) -> None:
        remove_folder(self.folder)


def store(folder: Path, strategy: Any, plugins: Sequence[Stateful]) -> None:
    """Write the training state of a strategy into a folder."""
    optimizer = strategy.optimizer.state_dict()
    weights = {name: p.detach().contiguous().cpu() for name, p in strategy.model.named_parameters()}
    moments = {
        f"{number}.{name}": value.cpu()
        for number, state in optimizer["state"].items()
        for name, value in state.items()
    }
    save_file(weights, folder / "trainable.safetensors")
    save_file(moments, folder / "optimizer.safetensors")
    schedule = {k: v for k, v in strategy.schedule.state_dict().items() if k != "lr_lambdas"}
    state = {
        "step": strategy.step,
        "train_tokens": strategy.train_tokens,
        "halvings": strategy.halvings,
        "seconds": time.perf_counter() - strategy.started,
        "groups": optimizer["param_groups"],
        "schedule": schedule,
    }
    states.store(folder, plugins)
    write_json(folder / "state.json", state)


def restore(folder: Path, strategy: Any, plugins: Sequence[Stateful]) -> None:
    """Put a strategy into the state that `store` wrote."""
    state = read_json(folder / "state.json")
    weights = load_file(folder / "trainable.safetensors", device=str(strategy.device))
    with torch.no_grad():
        for name, parameter in strategy.model.named_parameters():
            parameter.copy_(weights[name])
    moments: dict[int, dict[str, Any]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        moments.setdefault(int(number), {})[name] = value
    strategy.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
    strategy.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None] * len(state["groups"])})
    strategy.step, strategy.train_tokens = state["step"], state["train_tokens"]
    strategy.halvings = state["halvings"]
    strategy.started -= state["seconds"]
    states.restore(folder, plugins, strategy.device)
