"""LoRA adapters as part of the weights they sit on, for as long as something is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from continual.guard import guard

guard()

import torch  # noqa: E402


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """Inside, a PEFT model computes W x + B A x as (W + B A) x, one product instead of three.

    The weights themselves are put back afterwards, not computed back: W + BA - BA is not W in floating point.
    Only plain LoRA on float32 (or float64) linear layers is folded, where the sum is exact to rounding; every
    other layer, and every other model, stays as it is.
    """
    kept: list[tuple[Any, torch.Tensor]] = []
    try:
        if "peft" in type(model).__module__:
            embedding = model.get_input_embeddings().weight
            for layer in model.modules():
                # A head that shares its weight with the embedding must not change that.
                if _foldable(layer) and layer.get_base_layer().weight is not embedding:
                    weight, names = layer.get_base_layer().weight, layer.active_adapters
                    with torch.no_grad():
                        sum_ = sum((layer.get_delta_weight(name) for name in names), start=weight.data)
                    kept.append((layer, weight.data))
                    weight.data = sum_
                    layer.merged_adapters.extend(names)  # what makes PEFT's layer skip its own two products
        yield
    finally:
        for layer, weight in kept:
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()


def _foldable(layer: Any) -> bool:
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or layer.disable_adapters or layer.merged:
        return False
    names = layer.active_adapters
    if not names or any(n not in layer.lora_A or n in layer.lora_variant or layer.lora_bias[n] for n in names):
        return False
    return layer.get_base_layer().weight.dtype in (torch.float32, torch.float64)
