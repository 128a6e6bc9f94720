"""A LoRA adapter as plain tensors: what PEFT keeps in a folder, read exactly or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from continual.errors import ContinualError
from continual.guard import guard
from continual.patterns import Patterns
from continual.portable import LEAVES_BASE
from continual.problems import dotted, problems_of
from continual.runs import write_text

guard()

import torch  # noqa: E402
from peft import LoraConfig  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

MAX_FAULTS = 5
"""What an error names of a damaged adapter."""

HARMLESS = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules "
    "exclude_modules lora_alpha lora_dropout fan_in_fan_out use_rslora layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern megatron_core eva_config qalora_group_size runtime_config ensure_weight_tying".split()
)
"""Settings of `peft.LoraConfig` that change nothing in the result beyond what is read here. Every other one must be at
its default, those of later versions of PEFT too."""


class Factors(NamedTuple):
    """The change of one linear module: ``delta W = b @ a``, shape (out, in), with the scale in it."""

    a: torch.Tensor
    """(r, in), float32."""
    b: torch.Tensor
    """(out, r), float32."""


@dataclass(frozen=True)
class Lora:
    """The changes of all modules that an adapter touches."""

    base: str | None
    """Name or folder of the model that it belongs to, as its configuration says."""
    factors: Mapping[str, Factors]
    """By the module's name in the base model, such as ``model.layers.0.self_attn.q_proj``."""
    targets: str | tuple[str, ...]
    """PEFT's `target_modules`."""
    revision: str | None = None
    """Of the base, where it is a name on the Hub."""

    @property
    def rank(self) -> int:
        """The largest rank of a module."""
        return max(factors.a.shape[0] for factors in self.factors.values())


def load(folder: Path) -> Lora:
    """Read an adapter's folder.

    rsLoRA's scale, patterns of ranks and alphas, and initialisations that leave the base alone are exact.

    Raises:
        ContinualError: the folder holds no adapter, or a variant whose change is no plain product of two matrices
            for each linear module (DoRA, `modules_to_save`, biases, PiSSA and others); it is named.
    """
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not config.is_file() or not weights.is_file():
        missing = CONFIG if not config.is_file() else WEIGHTS
        raise ContinualError(f"{folder}: no adapter, there is no {missing}")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        tensors = load_file(weights)
    except Exception as error:  # safetensors has an exception of its own for each fault, with no common class
        raise ContinualError(f"{folder}: its adapter cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(settings, dict):
        raise ContinualError(f"{config}: an object is expected, as PEFT writes it")
    refused = sorted(set(variants(settings, tensors)))
    if refused:
        raise ContinualError(f"{folder}: a LoRA with {', '.join(refused)} cannot be used here as it is")
    faults = [*config_faults(settings), *tensor_faults(tensors)]
    if faults:
        raise ContinualError(f"{folder}: the adapter is damaged: {'; '.join(faults[:MAX_FAULTS])}")
    factors = {}
    scale = Scales(folder, settings)
    for module in sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in tensors}):
        a, b = (tensors[f"{PREFIX}{module}.lora_{side}.weight"].float() for side in "AB")
        factors[module] = Factors(a, b * scale.of(module, a.shape[0]))
    targets = settings["target_modules"]
    base = settings.get("base_model_name_or_path")
    targets = targets if isinstance(targets, str) else tuple(sorted(targets))
    return Lora(base, factors, targets, settings.get("revision"))


class Scales:
    """What PEFT multiplies the product of each module with.

    Args:
        folder: of the adapter, for errors.
        settings: of its configuration.

    Raises:
        ContinualError: a pattern is no regular expression.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.settings, self.patterns = settings, settings.get("alpha_pattern") or {}
        self._match = Patterns(f"{folder}: alpha_pattern", list(self.patterns))

    def of(self, module: str, rank: int) -> float:
        """Alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski, 2023).

        Raises:
            ContinualError: the patterns take too long to match.
        """
        pattern = self._match.first(module)
        alpha = self.settings["lora_alpha"] if pattern is None else self.patterns[pattern]
        return float(alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank))


def variants(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """What makes an adapter more, or other, than a plain product for each linear module."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        yield f"peft_type {kind}"
        return
    plain = LoraConfig().to_dict()
    for key, value in settings.items():
        if key == "init_lora_weights":
            if value not in LEAVES_BASE:
                yield f"init_lora_weights {value}, which changes the base model"
        elif key not in HARMLESS and value and value != plain.get(key):
            yield key
    for name, tensor in tensors.items():
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            yield f"tensors such as {name.removeprefix(PREFIX)}"
            return
        if tensor.ndim != 2:
            yield f"tensors of {tensor.ndim} dimensions such as {name.removeprefix(PREFIX)}"
            return


class ReadSettings(BaseModel):
    """The settings of `peft.LoraConfig` that are read here."""

    model_config = ConfigDict(strict=True)

    lora_alpha: Annotated[float, Field(allow_inf_nan=False)]
    target_modules: str | list[str]
    alpha_pattern: dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None = None
    use_rslora: bool = False
    base_model_name_or_path: str | None = None


def config_faults(settings: Mapping[str, Any]) -> list[str]:
    """What is missing or of a wrong type in a configuration."""
    try:
        ReadSettings.model_validate(settings)
    except ValidationError as error:
        return [f"{dotted(keys)}: {text}" for keys, text in problems_of(error, ReadSettings, settings)]
    return []


def tensor_faults(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """What keeps some tensors from being two matrices of one rank for each module."""
    faults = [] if tensors else [f"there are no tensors in {WEIGHTS}"]
    for module in sorted({name.rsplit(".lora_", 1)[0] for name in tensors}):
        a, b = (tensors.get(f"{module}.lora_{side}.weight") for side in "AB")
        if not module.startswith(PREFIX):
            faults.append(f"{module}: its name does not begin with {PREFIX}")
        elif a is None or b is None:
            faults.append(f"{module}: there is no lora_{'A' if a is None else 'B'}")
        elif a.shape[0] != b.shape[1] or not a.shape[0]:
            faults.append(f"{module}: the ranks of its matrices are {a.shape[0]} and {b.shape[1]}")
    return faults


def save(lora: Lora, folder: Path, base: str | None = None) -> None:
    """Write an adapter so that PEFT, and whoever reads PEFT's folders, loads it as it is.

    One rank and one alpha, equal, so that every reader applies the scale 1: smaller modules are filled up with zeros.

    Args:
        base: the base model's name; that of `lora` if left out.
    """
    rank, tensors = lora.rank, {}
    for module, (a, b) in lora.factors.items():
        missing = rank - a.shape[0]
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, missing)).contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.nn.functional.pad(b, (0, missing)).contiguous()
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base or lora.base,
        revision=lora.revision if base is None else None,
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=lora.targets if isinstance(lora.targets, str) else set(lora.targets),
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
