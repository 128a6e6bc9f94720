"""Adapters of random matrices, a bank of them, and what they do to the base without any bank."""

from collections.abc import Sequence
from typing import Any

import tiny
import torch

from continual import lora
from continual.adapters import AdapterBank
from continual.decode import Decoder
from continual.request import Chosen

PROMPTS = [[9, 10, 11], [12], [13, 14, 15, 16, 17], [20, 21], [22] * 9, [30, 31], [32, 9], [11, 40]]


def random_lora(seed: int, rank: int = 4, modules: str = "", architecture: str = "llama") -> lora.Lora:
    """An adapter of random matrices, for the linear modules of the layers whose names contain some letters."""
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for name, module in tiny.model(architecture).named_modules():
        if isinstance(module, torch.nn.Linear) and "layers" in name and modules in name:
            out, into = module.weight.shape
            a, b = torch.randn(rank, into, generator=draw), torch.randn(out, rank, generator=draw)
            factors[name] = lora.Factors(a * 0.3, b * 0.3)
    return lora.Lora("a-base", factors, "all-linear")


LORAS = {
    "a": random_lora(1),
    "b": random_lora(2),
    "small": random_lora(3, rank=2),
    "large": random_lora(4, rank=7),
    "queries": random_lora(5, modules="q_proj"),
    "mlp": random_lora(6, rank=3, modules="1.mlp.up"),
}


def bank(double: bool = True, **settings: Any) -> AdapterBank:
    model = tiny.model()
    made = AdapterBank(model.double() if double else model, **settings)
    for name, one in LORAS.items():
        made.load(name, one)
    return made


def added(*changes: tuple[str, float]) -> Any:
    """The base model with changes in its weights."""
    model = tiny.model().double()
    for name, weight in changes:
        for module, (a, b) in LORAS[name].factors.items():
            model.get_submodule(module).weight.data += weight * (b.double() @ a.double())
    return model


def expected(chosen: Chosen, ids: torch.Tensor) -> torch.Tensor:
    changes = () if chosen is None else ((chosen, 1.0),) if isinstance(chosen, str) else chosen
    return added(*changes)(ids).logits


MIX = (("a", 0.5), ("large", -1.5))


def decoded(one: AdapterBank, rows: Sequence[Chosen], new: int = 12, **settings: Any) -> list[tuple[int, ...]]:
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(len(rows))]
    outputs = Decoder(one.model, [1], 0, adapters=one, **settings).generate(prompts, new, adapters=rows)
    return [output.ids for output in outputs]


def alone(rows: Sequence[Chosen], new: int = 12) -> list[tuple[int, ...]]:
    """Each row by a model whose weights are changed, without any bank."""
    said = []
    for n, row in enumerate(rows):
        changes = () if row is None else ((row, 1.0),) if isinstance(row, str) else row
        (output,) = Decoder(added(*changes), [1], 0).generate([PROMPTS[n % len(PROMPTS)]], new)
        said.append(output.ids)
    return said


ROWS: list[Chosen] = ["a", None, "b", MIX, "small", "a", None, "large"]
