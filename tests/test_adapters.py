"""The bank of adapters: each row has the adapter that it asked for, whatever the others have."""

from typing import Any

import pytest
import tiny
import torch

from continual import lora
from continual.adapters import AdapterBank
from continual.request import Chosen

IDS = torch.tensor([[9, 20, 31, 42], [7, 7, 8, 200], [5, 6, 7, 8], [100, 90, 80, 70]])
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
BATCHES: list[list[Chosen]] = [
    ["a"] * 4,
    [None] * 4,
    ["a", "b", "a", "b"],
    ["a", None, None, None],
    ["a", "b", None, "large"],
    ["small", "large", "queries", "mlp"],
    ["queries"] * 4,
    [None, "mlp", None, None],
    ["mlp", "mlp", "queries", None],
    [MIX] * 4,
    [MIX, "a", None, (("b", 1.0), ("b", 1.0))],
    [None, None, None, MIX],
]


@pytest.mark.parametrize("rows", BATCHES, ids=str)
@torch.inference_mode()
def test_each_row_is_changed_by_its_own_adapter(rows: list[Chosen]) -> None:
    one = bank()
    one.use(rows)
    found = one.model(IDS).logits
    for n, chosen in enumerate(rows):
        torch.testing.assert_close(found[n : n + 1], expected(chosen, IDS[n : n + 1]), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_batches_may_follow_each_other_in_any_order() -> None:
    one, many = bank(), IDS.repeat(4, 1)
    for rows in [*BATCHES, *reversed(BATCHES), *([*row * 4] for row in BATCHES), *BATCHES]:
        one.use(rows)
        found = one.model(many[: len(rows)]).logits
        for n, chosen in enumerate(rows):
            torch.testing.assert_close(found[n : n + 1], expected(chosen, many[n : n + 1]), rtol=1e-9, atol=1e-9)
    one.use(())
    torch.testing.assert_close(one.model(IDS).logits, expected(None, IDS), rtol=0, atol=0)
