"""LoRA adapters one on the other: the earlier ones frozen, a fresh one beside them, and all of them saved as one.

The sum of adapters is again an adapter, s_1 B_1 A_1 + s_2 B_2 A_2 = [s_1 B_1, s_2 B_2] [A_1; A_2], whose rank is the
sum of theirs. So between tasks a model has one adapter, `default`, and what is saved of it is a standard PEFT folder.
While a task is learnt there are two: `default`, frozen, and `new`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from continual.errors import ContinualError
from continual.guard import guard

guard()

import torch  # noqa: E402
from peft import LoraConfig  # noqa: E402
from peft.tuners.lora import Linear, LoraLayer  # noqa: E402

DEFAULT = "default"
NEW = "new"


def check_one_process(strategy: Any) -> None:
    """See that parameters may come and go: distributed training follows those that were there when it began.

    Raises:
        ContinualError: several processes train.
    """
    if strategy.accelerator.num_processes > 1:
        raise ContinualError("start_from, method: a new adapter for each task needs a single process")


def layers(model: Any) -> Iterator[Any]:
    """The adapted layers of a PEFT model.

    Raises:
        ContinualError: one of them is not linear, and has no factors that could be stacked.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            if not isinstance(layer, Linear):
                raise ContinualError(f"adapter.target_modules: adapters are stacked on linear layers; {name} is none")
            yield layer


def add(model: Any, settings: Mapping[str, Any], seed: int) -> None:
    """Freeze the adapter of a model, without dropout, and put a fresh one beside it, which is trained.

    Args:
        settings: of the fresh one, arguments of `peft.LoraConfig`.
        seed: decides its initial weights.
    """
    torch.manual_seed(seed)
    model.add_adapter(NEW, _config(model, settings))
    model.base_model.set_adapter([DEFAULT, NEW])
    model.set_requires_grad(DEFAULT, requires_grad=False)
    for layer in layers(model):
        layer.lora_dropout[DEFAULT] = torch.nn.Identity()


def stack(model: Any) -> None:
    """Make one adapter of the frozen and the new one; the model computes what it did."""
    with torch.no_grad():
        stacked = [_stacked(layer) for layer in layers(model)]
    rank = len(stacked[0][0])
    config = _config(model, {"r": rank, "lora_alpha": rank})  # scaled by 1: the scales are in B
    model.base_model.set_adapter(NEW)  # PEFT warns where an active adapter is deleted that is not the last
    for name in (DEFAULT, NEW):
        model.base_model.delete_adapter(name)
    model.add_adapter(DEFAULT, config)
    model.set_adapter(DEFAULT)
    with torch.no_grad():
        for layer, (a, b) in zip(layers(model), stacked, strict=True):
            layer.lora_A[DEFAULT].weight.copy_(a)
            layer.lora_B[DEFAULT].weight.copy_(b)


def renew(model: Any, settings: Mapping[str, Any], seed: int) -> None:
    """Put the adapter of a model back to a fresh one on the untaught base; it stays the same set of parameters."""
    torch.manual_seed(seed)
    model.add_adapter(NEW, _config(model, settings))
    parts = {tuple(name.split(".")): parameter for name, parameter in model.named_parameters()}
    fresh = {tuple(DEFAULT if part == NEW else part for part in name): p for name, p in parts.items() if NEW in name}
    with torch.no_grad():
        for name, parameter in fresh.items():
            parts[name].copy_(parameter)
    model.delete_adapter(NEW)


def _stacked(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A, (ranks, in), and B, (out, ranks), of both adapters."""
    names = (DEFAULT, NEW)
    a = torch.cat([layer.lora_A[name].weight for name in names])
    b = torch.cat([layer.scaling[name] * layer.lora_B[name].weight for name in names], dim=1)
    return a, b


def _config(model: Any, settings: Mapping[str, Any]) -> LoraConfig:
    """Settings for the layers that are adapted already; `all-linear` would also find the adapters' own."""
    known = model.peft_config[DEFAULT]
    targets = {"target_modules": known.target_modules, "fan_in_fan_out": known.fan_in_fan_out}
    base = {"base_model_name_or_path": known.base_model_name_or_path}
    return LoraConfig(task_type="CAUSAL_LM", **{**settings, **targets, **base})
