"""Who can be asked: the names of the models, and what each means to the bank of adapters."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from continual.adapters import AdapterBank
from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.request import HeldAdapter, Mix
from continual.route import AUTO, BASE, Router
from continual.serve.bodies import Body
from continual.serve.errors import ApiError

NAME = re.compile(r"\w[\w./+-]{0,127}")
"""Of an adapter; without a colon, which stands between the base's name and an adapter's."""


def proper(name: str) -> str:
    """A name for an adapter that comes from outside the run.

    Raises:
        ContinualError: it cannot be one.
    """
    if not NAME.fullmatch(name):
        raise ContinualError(f"'{name}' cannot be an adapter's name: letters, digits, '.', '_', '-', '+' and '/'")
    return name


@dataclass(frozen=True)
class Served:
    """One model that can be asked."""

    name: str
    adapter: str | Mix | None
    """What the bank calls it; None is the bare base."""
    root: str
    parent: str | None
    listed: bool = True
    """Not where it is a second name."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def entry(self) -> dict[str, Any]:
        """As `/v1/models` shows it, with vLLM's `root` and `parent`."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "continual",
            "root": self.root,
            "parent": self.parent,
        }


class Roster:
    """The models by name.

    Args:
        base: the base model's own name, by which it can be asked too.
        bank: holds the adapters; None: there are none, and will be none.
        called: what the model without an adapter is called: the base, or a whole model's name.
    """

    def __init__(self, base: str, bank: AdapterBank | None, called: str = BASE) -> None:
        self.called, self._bank = called, bank
        self._aliases = (called, base)
        self._models = {called: Served(called, None, base, None)}

    @property
    def bank(self) -> AdapterBank:
        """Holds the adapters."""
        assert self._bank is not None
        return self._bank

    @property
    def base(self) -> Served:
        """Who answers without an adapter."""
        return self._models[self.called]

    def put_under_base(self, folder: Path) -> None:
        """Take an adapter for a part of the base: what was taught started with it."""
        self.bank.load(self.called, folder)
        self._models[self.called] = Served(self.called, self.called, str(folder), None)

    def offer_auto(self, router: Router, root: Path) -> None:
        """Let a router choose who answers, under the name ``auto``."""
        self._router = router
        self._models[AUTO] = Served(AUTO, None, str(root), self.called)

    def pick(self, prompt: str) -> tuple[Served, dict[str, Any]]:
        """Who answers a prompt that was sent to ``auto``, and how that was chosen, for the reply.

        Raises:
            ApiError: the router names an adapter that is not there any more.
        """
        choice = self._router.pick(prompt)
        served = self.base if choice.adapter is None else self.find(choice.adapter)
        told = {"adapter": served.name, "sure": choice.sure, "why": choice.why, "scores": dict(choice.scores)}
        return served, {"continual": told}

    def check(self, name: str, again: bool = False) -> None:
        """See that an adapter may be called so.

        Args:
            again: it may take the place of one that is its bank's of that name.

        Raises:
            ContinualError: the name is taken.
        """
        if again and name in self._models and self._models[name].adapter == name != self.called:
            return
        if name in (*self._models, *self._aliases, BASE, AUTO):
            raise ContinualError(f"there is already a model called '{name}'")

    def put(self, name: str, folder: Path) -> None:
        """Offer an adapter that the bank has loaded under that name."""
        self._models[name] = Served(name, name, str(folder), self.called)

    def add(self, name: str, folder: Path) -> None:
        """Load and offer an adapter; one that is there already gets a second name.

        Raises:
            ContinualError: the name cannot be used, or the adapter.
        """
        self.check(name)
        known = next((m for m in self.all() if m.root == str(folder) and m.parent is not None), None)
        if known is None:
            self.bank.load(name, folder)
            self.put(name, folder)
        else:
            self._models[name] = Served(name, known.adapter, known.root, known.parent, listed=False)

    def remove(self, name: str) -> None:
        """Unload an adapter under all its names; answers that it has begun end with it.

        Raises:
            ApiError: there is none of that name.
        """
        model = self._exactly(name)
        if model is None or model.parent is None or not isinstance(model.adapter, str):
            raise ApiError(404, f"there is no adapter '{name}' to unload", "model_not_found", "lora_name")
        self._models = {name: other for name, other in self._models.items() if other.adapter != model.adapter}
        self.bank.unload(model.adapter)

    def all(self) -> list[Served]:
        return list(self._models.values())

    def entries(self) -> list[dict[str, Any]]:
        """What `/v1/models` lists."""
        return [model.entry for model in self.all() if model.listed]

    def _exactly(self, name: str) -> Served | None:
        if name in self._models:
            return self._models[name]
        for base in self._aliases:
            if name == base:
                return self.base
            if name.startswith(f"{base}:"):
                return self._models.get(name.removeprefix(f"{base}:"))
        return None

    def find(self, name: str) -> Served:
        """The model of that name, or of ``base:name``.

        Raises:
            ApiError: there is none. Never silently the base.
        """
        model = self._exactly(name)
        if model is None:
            names = [entry["id"] for entry in self.entries()]
            hint = did_you_mean(name, names)
            raise ApiError(
                404, f"there is no model '{name}'{hint}; there is {', '.join(names)}", "model_not_found", "model"
            )
        return model

    def hold(self, served: Served) -> HeldAdapter | None:
        """What answers, as it is now; may read a file, and may be called in any thread.

        Raises:
            ApiError: it was unloaded a moment ago.
        """
        try:
            return None if served.adapter is None else self.bank.hold(served.adapter)
        except ContinualError as error:
            raise ApiError(404, str(error), "model_not_found", "model") from error

    def chosen(self, body: Body) -> Served:
        """Whom a request names: one model, or several adapters with weights.

        Raises:
            ApiError: an adapter is unknown, or the base is not named where several adapters are.
        """
        model = self.find(body.model)
        weights = body.weights
        if weights is None:
            return model
        if model is not self.base:
            raise ApiError(400, f"adapters with weights need the base as model: '{self.called}'", None, "model")
        if self.base.adapter is not None:
            raise ApiError(400, "this base has an adapter of its own: no others can be weighted on it", None, "model")
        return self._mixed(weights)

    def _mixed(self, weights: Sequence[tuple[str, float]]) -> Served:
        summed: dict[str, float] = {}
        for name, weight in weights:
            part = self.find(name)
            if not isinstance(part.adapter, str):
                raise ApiError(400, f"'{name}' is no adapter that can be weighted", None, "model")
            summed[part.adapter] = summed.get(part.adapter, 0.0) + weight
        mix = tuple((adapter, weight) for adapter, weight in sorted(summed.items()) if weight)
        called = "+".join(name for name, _ in weights) or self.called
        return Served(called, mix or None, "mix", self.called)
