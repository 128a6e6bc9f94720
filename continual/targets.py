"""Which parts of a base model an adapter changes: linear modules, or parameters that are named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from continual.errors import ContinualError
from continual.guard import guard
from continual.patterns import Patterns
from continual.problems import did_you_mean

guard()

from peft import LoraConfig  # noqa: E402
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

ALL_LINEAR = "all-linear"


def linear_modules(model: Any) -> dict[str, nn.Module]:
    """Every linear module of a base model but its output layer, by name."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def expert_parameters(model: Any) -> list[str]:
    """Names of weights that hold all experts of a layer, such as ``experts.down_proj``, each once."""
    found = {
        ".".join(name.split(".")[-2:])
        for name, parameter in model.named_parameters()
        if "expert" in name and parameter.ndim == 3
    }
    return sorted(found)


def lora_settings(model: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `peft.LoraConfig`, so that `all-linear` means linear modules and nothing else.

    For some mixtures of experts PEFT takes it, and the names of projections, for the experts' stacked weights and the
    router. Those that keep their meaning are then named one by one.
    """
    if settings["target_modules"] != ALL_LINEAR or not _taken_for_experts(model, ALL_LINEAR):
        return dict(settings)
    names = {name.rsplit(".", 1)[-1] for name in linear_modules(model)}
    return {**settings, "target_modules": sorted(n for n in names if not _taken_for_experts(model, n))}


def check(model: Any, settings: Mapping[str, Any]) -> None:
    """See that every name of an adapter's settings is of something in the model.

    Args:
        model: the base; may be without weights.
        settings: arguments of `peft.LoraConfig`.

    Raises:
        ContinualError: with one line for each name that is not.
    """
    problems = list(_problems(model, settings))
    if problems:
        raise ContinualError(*problems)


def notices(model: Any, settings: Mapping[str, Any]) -> list[str]:
    """What a user may not expect of an adapter on this model, one line each."""
    experts = expert_parameters(model)
    if not experts or settings["target_modules"] != ALL_LINEAR or settings.get("target_parameters"):
        return []
    changed = sorted({name.rsplit(".", 1)[-1] for name in _targeted(model, settings)})
    return [
        f"adapter.target_modules: all-linear adapts {', '.join(changed)}; the experts of {type(model).__name__} are "
        f"no linear modules and stay as they are (target_parameters: [{', '.join(experts)}] adapts them)"
    ]


def _problems(model: Any, settings: Mapping[str, Any]) -> Iterator[str]:
    kind, linear = type(model).__name__, linear_modules(model)
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if not linear:
        yield f"adapter: {kind} has no linear module that an adapter could change"
        return
    targets = settings["target_modules"]
    if targets == ALL_LINEAR and not _targeted(model, settings) and not settings.get("target_parameters"):
        yield f"adapter: {kind} has no linear module that PEFT adapts: name target_parameters"
    modules, heads = [name for name, _ in model.named_modules()], _named(model, nn.Linear | Conv1D)
    for name in () if targets == ALL_LINEAR else targets:
        if _taken_for_experts(model, name):
            there = f"{', '.join(expert_parameters(model))}"
            yield f"adapter.target_modules: '{name}' is of the experts of {kind}: ask for target_parameters ({there})"
        elif not _ends(name, heads):
            what = "is no linear module" if _ends(name, modules) else "is no module"
            near = did_you_mean(name, leaves)
            yield f"adapter.target_modules: '{name}' {what} of {kind}{near}; there is {', '.join(leaves)}"
    for name in settings.get("modules_to_save") or ():
        if not _ends(name, modules):
            near = did_you_mean(name, sorted({module.rsplit(".", 1)[-1] for module in modules if module}))
            yield f"adapter.modules_to_save: '{name}' is no module of {kind}{near}"
    parameters = [name for name, _ in model.named_parameters()]
    for name in settings.get("target_parameters") or ():
        if not _ends(name, parameters):
            experts = expert_parameters(model)
            there = f"; there is {', '.join(experts)}" if experts else ""
            yield f"adapter.target_parameters: '{name}' is no parameter of {kind}{did_you_mean(name, experts)}{there}"
    changed = _targeted(model, settings)
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in settings.get(key) or {}:
            if not any(Patterns(f"adapter.{key}", [pattern]).first(module) for module in changed):
                yield f"adapter.{key}: '{pattern}' matches no module that is adapted"


def _named(model: Any, kind: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def _targeted(model: Any, settings: Mapping[str, Any]) -> list[str]:
    """The linear modules that an adapter changes."""
    targets = lora_settings(model, settings)["target_modules"]
    if targets == ALL_LINEAR:
        return list(linear_modules(model))
    return [name for name in _named(model, nn.Linear | Conv1D) if any(_ends(target, [name]) for target in targets)]


def _ends(name: str, names: Collection[str]) -> bool:
    return any(each == name or each.endswith(f".{name}") for each in names)


def _taken_for_experts(model: Any, target: str) -> bool:
    """Whether PEFT makes stacked weights of experts of a target."""
    config = LoraConfig(target_modules=target if target == ALL_LINEAR else [target])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # a gate without its up: both are in one weight
        return True
    return bool(config.target_parameters)
