"""What RegMean and Fisher merging must know of an adapter's data: computed once, kept beside the adapter.

Neither tells a row of the data, but both were made of real rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from continual.errors import ContinualError
from continual.lora import Lora
from continual.seeds import derive
from continual.weights import changed


class Row(NamedTuple):
    """One sample as the model sees it."""

    ids: Sequence[int]
    answer: Sequence[int]
    """1 for each token that is part of an answer, else 0."""


def gram(model: Any, lora: Lora, rows: Iterable[Row]) -> dict[str, torch.Tensor]:
    """Of each module that the adapter changes, the mean of x x^T over its inputs x with the adapter: (in, in).

    The mean, so that adapters with more data do not count more: that is what weights are for.

    Args:
        model: the base model; the same afterwards.
        rows: samples of the adapter's task.
    """
    found: dict[str, torch.Tensor] = {}
    tokens = 0

    def watch(name: str) -> Any:
        def before(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).double()
            found[name] = found.get(name, 0.0) + x.T @ x

        return model.get_submodule(name).register_forward_pre_hook(before)

    with torch.no_grad(), changed(model, _changes(lora)):
        hooks = [watch(name) for name in lora.factors]
        try:
            for row in rows:
                model(torch.tensor([row.ids], device=model.device))
                tokens += len(row.ids)
        finally:
            for hook in hooks:
                hook.remove()
    _check(tokens)
    return {name: (total / tokens).float().cpu() for name, total in found.items()}


def fisher(model: Any, lora: Lora, rows: Iterable[Row], seed: int = 0) -> dict[str, torch.Tensor]:
    """Of each module that the adapter changes, the diagonal of the Fisher information of its weights, (out, in).

    The mean over rows of the squared gradient of log p(y | x), one row at a time, where each token of the answer y is
    drawn from what the model with the adapter expects there (Matena and Raffel, 2022, section 3.2), given the tokens
    of the data before it.

    Args:
        model: the base model; the same afterwards.
        rows: samples of the adapter's task.
        seed: decides what is drawn.
    """
    names, n = list(lora.factors), 0
    found = {name: torch.zeros(b.shape[0], a.shape[1]) for name, (a, b) in lora.factors.items()}
    with changed(model, _changes(lora)):
        weights = [model.get_submodule(name).weight for name in names]
        asked = [weight.requires_grad for weight in weights]
        for weight in weights:
            weight.requires_grad_(True)
        try:
            for row in rows:
                ids = torch.tensor([row.ids], device=model.device)
                places = torch.tensor(row.answer[1:], dtype=torch.bool, device=model.device)
                if not places.any():
                    continue
                likely = torch.log_softmax(model(ids).logits[0, :-1][places].float(), dim=-1)
                draw = torch.Generator().manual_seed(derive(seed, "fisher", n))
                drawn = torch.multinomial(likely.detach().exp().cpu(), 1, generator=draw).to(model.device)
                gradients = torch.autograd.grad(likely.gather(1, drawn).sum(), weights)
                for name, gradient in zip(names, gradients, strict=True):
                    square = gradient.float().cpu() ** 2
                    turned = type(model.get_submodule(name)).__name__ == "Conv1D"
                    found[name] += square.T if turned else square
                n += 1
        finally:
            for weight, was in zip(weights, asked, strict=True):
                weight.requires_grad_(was)
    _check(n)
    return {name: total / n for name, total in found.items()}


def save(statistics: Mapping[str, torch.Tensor], kind: str, folder: Path) -> None:
    """Keep statistics beside an adapter, as `gram.safetensors` or `fisher.safetensors`."""
    save_file({name: one.contiguous() for name, one in statistics.items()}, folder / f"{kind}.safetensors")


def load(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Read what `save` has written.

    Raises:
        ContinualError: there is none.
    """
    file = folder / f"{kind}.safetensors"
    if not file.is_file():
        raise ContinualError(
            f"{folder}: there is no {file.name}; continual.statistics.{kind} computes it from rows of the adapter's "
            "task (docs/merging.md)"
        )
    return load_file(file)


def _changes(lora: Lora) -> Iterable[tuple[str, torch.Tensor]]:
    return ((name, b @ a) for name, (a, b) in lora.factors.items())


def _check(n: int) -> None:
    if not n:
        raise ContinualError("there is no row to compute statistics from")
