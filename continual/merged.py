"""A merge of specialists as an arm or a report wants it: its scale given or found, and all of it told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from continual.errors import ContinualError
from continual.guard import guard
from continual.lora import Factors, Lora
from continual.merge import check_weights, merge
from continual.runs import read_json
from continual.tuning import Tuned, tune_each, tune_scale

guard()

import torch  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402

ADAPTER = "default"
"""What PEFT calls the only adapter of a model."""


@dataclass(frozen=True)
class How:
    """How specialists are merged, as a recipe says it."""

    method: str
    arguments: Mapping[str, Any]
    scale: float | str = 1.0
    """A number, or `tune` or `tune_each`."""
    rank: int | None = None


def merged(
    loras: Sequence[Lora], how: How, loss_of: Callable[[Lora], float] | None = None
) -> tuple[Lora, dict[str, Any]]:
    """Merge specialists, and tell how.

    Args:
        loss_of: of a merged adapter; asked where the scale is to be found.

    Returns:
        The adapter; and method, arguments, weights, scale, rank, the share of the energy that the rank could hold,
        and of a search the loss, the scales tried, and how many merges were looked at.
    """
    weights = check_weights(how.method, len(loras), None)

    def at(weights: Sequence[float]) -> Any:
        return merge(loras, how.method, weights, rank=how.rank, **how.arguments)

    found = at(weights)
    tuned = Tuned(1.0, list(weights), 0.0)
    if isinstance(how.scale, str):
        assert loss_of is not None
        plain, score = found.lora, loss_of
        tuned = replace(tune_scale(lambda scale: score(scaled(plain, scale))), weights=list(weights))
        if how.scale == "tune_each":
            scale = tuned.scale
            tuned = tune_each(lambda weights: score(scaled(at(weights).lora, scale)), tuned)
            found = at(tuned.weights)
    scale = tuned.scale if isinstance(how.scale, str) else how.scale
    told: dict[str, Any] = {
        "method": how.method,
        "arguments": dict(how.arguments),
        "weights": tuned.weights,
        "scale": scale,
        "rank": found.lora.rank,
        "kept": found.kept,
    }
    if isinstance(how.scale, str):
        told |= {"loss": tuned.loss, "trials": tuned.trials, "tried": [list(pair) for pair in tuned.tried]}
    return scaled(found.lora, scale), told


def scaled(lora: Lora, scale: float) -> Lora:
    """An adapter whose change is so many times as large."""
    return replace(lora, factors={name: Factors(a, b * scale) for name, (a, b) in lora.factors.items()})


@torch.no_grad()
def put_on(model: Any, lora: Lora) -> None:
    """Let a model's own adapter make the change of another one, of the same rank or a smaller one.

    Rows of A that are left over stay as they are, so that they can still learn; of B they are zero.

    Raises:
        ContinualError: it touches what the model's adapter does not, or its rank is larger.
    """
    layers = {name: module for name, module in model.base_model.model.named_modules() if isinstance(module, LoraLayer)}
    strange = [name for name in lora.factors if name not in layers]
    if strange:
        raise ContinualError(f"the adapter changes {strange[0]}, which this model's does not")
    for name, layer in layers.items():
        own_a, own_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        own_b.zero_()
        if name not in lora.factors:
            continue
        a, b = lora.factors[name]
        if len(a) > len(own_a):
            raise ContinualError(f"an adapter of rank {len(a)} does not fit into one of rank {len(own_a)}")
        own_a[: len(a)] = a.to(own_a)
        own_b[:, : len(a)] = (b / layer.scaling[ADAPTER]).to(own_b)


def random_like(lora: Lora, seed: int) -> Lora:
    """A random adapter of the same shapes whose change of each module has the same Frobenius norm: a control.

    Merging adapters that were never trained can do about as well as merging some that were (arXiv 2602.12323).
    """
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for name, (a, b) in lora.factors.items():
        new_a, new_b = torch.randn(a.shape, generator=draw), torch.randn(b.shape, generator=draw)
        factors[name] = Factors(new_a, new_b * (norm(Factors(a, b)) / norm(Factors(new_a, new_b))))
    return replace(lora, factors=factors)


def norm(factors: Factors) -> float:
    """The Frobenius norm of b a, from the r x r matrices b'b and a a' alone."""
    a, b = factors.a.double(), factors.b.double()
    return float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())


def check_start(home: Path) -> None:
    """See that specialists share nothing that a merge would count several times.

    Args:
        home: the run of their arm.

    Raises:
        ContinualError: the recipe went on with an adapter.
    """
    run_dir = home.resolve().parents[2]
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    start = {**recipe, **read_json(home / "run.json")["set"]}.get("start")  # older recipes do not know the key
    if start is not None:
        raise ContinualError(
            f"{home}: what `start` goes on with ({start}) is in every specialist, and would count several times"
        )


def specialists_in(folder: Path, tasks: Sequence[str]) -> list[Lora]:
    """The specialists of a run of an arm, read from their folders.

    Raises:
        ContinualError: one is missing, or cannot be merged.
    """
    from continual.lora import load

    missing = [task for task in tasks if not (folder / "specialists" / task).is_dir()]
    if missing:
        raise ContinualError(f"{folder}: there is no specialist of {', '.join(missing)}")
    return [load(folder / "specialists" / task) for task in tasks]
