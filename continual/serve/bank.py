"""Stands in for `continual.adapters.AdapterBank` until that is there: the same interface, slow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from continual import lora
from continual.errors import ContinualError

Adapter = Any


class AdapterBank:
    """Adds each row's own change to the output of the linear modules, row by row."""

    def __init__(self, model: Any, *, memory: int | None = None) -> None:
        self.modules = dict(model.named_modules())
        self.loaded: dict[str, lora.Lora] = {}
        self.hooked: set[str] = set()
        self.rows: Sequence[Adapter] = []

    def load(self, name: str, adapter: Path | lora.Lora) -> None:
        read = lora.load(adapter) if isinstance(adapter, Path) else adapter
        for module in read.factors:
            if module not in self.modules:
                raise ContinualError(f"the model has no module {module}")
            if module not in self.hooked:
                self.hooked.add(module)
                self.modules[module].register_forward_hook(
                    lambda _, args, output, module=module: self._changed(module, args[0], output)
                )
        self.loaded = {**self.loaded, name: read}

    def unload(self, name: str) -> None:
        self.loaded = {other: read for other, read in self.loaded.items() if other != name}

    def names(self) -> list[str]:
        return list(self.loaded)

    def hold(self, adapter: Adapter) -> Adapter:
        return adapter

    def use(self, adapters: Sequence[Adapter]) -> None:
        self.rows = adapters

    def _changed(self, module: str, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        added = torch.zeros_like(output)
        for n, row in enumerate(self.rows):
            for name, weight in ((row, 1.0),) if isinstance(row, str) else row or ():
                factors = self.loaded[name].factors.get(module)
                if factors is not None:
                    a, b = (side.to(output) for side in factors)
                    added[n] += weight * (x[n] @ a.T @ b.T)
        return output + added
