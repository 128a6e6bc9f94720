"""Several adapters of one base model made into one: an adapter of a chosen rank, or the change of every module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from pydantic import ValidationError

from continual import corespace
from continual.corespace import Changes
from continual.errors import ContinualError
from continual.lora import Factors, Lora
from continual.merges import MERGES, Merge
from continual.merges.spectrum import Spectrum
from continual.problems import did_you_mean, dotted, problems_of
from continual.seeds import derive
from continual.settings_base import Settings

Space = Literal["core", "full"]
Statistics = Mapping[str, torch.Tensor]
"""Of one adapter, by module (see `continual.statistics`)."""


@dataclass(frozen=True)
class Merged:
    """What a merge has made."""

    lora: Lora
    kept: float
    """Share of the merged change's energy (its squared Frobenius norm, over all modules) that the rank could hold."""
    modules: Mapping[str, float]
    """The same share of each module."""


def merge(
    loras: Sequence[Lora],
    method: str,
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    scale: float = 1.0,
    space: Space = "core",
    statistics: Sequence[Statistics] | None = None,
    **arguments: Any,
) -> Merged:
    """Merge adapters by a method of `continual.merges.MERGES`.

    Adapters may have different ranks, and touch different modules: one that leaves a module alone changes it by zero.

    Args:
        loras: of one base model.
        weights: one for each adapter; left out, each is 1, or 1/n with `linear`.
        rank: of the result; the largest of the adapters' if left out, for then the result costs no more to keep and
            to serve than they do. Nothing is lost from the sum of their ranks on, or, in full space, from the
            width of the model on.
        scale: what the merged change is multiplied with.
        space: where a method works whose result depends on the coordinates: on the small matrices of the core
            space, or on the weights themselves.
        statistics: what `regmean` and `fisher` know of each adapter's data.
        arguments: of the method, such as `density`.

    Raises:
        ContinualError: what was given does not fit together.
    """
    cap = max((lora.rank for lora in loras), default=0) if rank is None else rank
    if cap < 1 and loras:
        raise ContinualError(f"rank: {cap} is less than 1")
    factors: dict[str, Factors] = {}
    energies: dict[str, tuple[float, float]] = {}
    for name, matrix, where in _merged(loras, method, weights, scale, space, statistics, arguments):
        parts, energy, kept = corespace.best(matrix, cap)
        factors[name], energies[name] = corespace.factored(parts, where), (kept, energy)
    revision = next((one.revision for one in loras if one.base), None)
    lora = Lora(_base(loras), factors, _targets(loras, factors), revision)
    return Merged(lora, _share(energies.values()), {name: _share([pair]) for name, pair in energies.items()})


def changes(
    loras: Sequence[Lora],
    method: str,
    weights: Sequence[float] | None = None,
    *,
    scale: float = 1.0,
    space: Space = "core",
    statistics: Sequence[Statistics] | None = None,
    **arguments: Any,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same merge without a limit of rank: the whole change (out, in) of each module, one after another.

    Raises:
        ContinualError: what was given does not fit together.
    """
    for name, matrix, where in _merged(loras, method, weights, scale, space, statistics, arguments):
        yield name, corespace.dense(matrix, where)


def fold(merged: Lora, newest: Lora, n: int, *, rank: int | None = None) -> Merged:
    """Take one more adapter into a running merge (`slao`), in the memory of two adapters.

    What `merge(..., "slao")` makes of all of them at once, but that the merge so far was cut to its rank.

    Args:
        merged: the merge of n - 1 adapters.
        newest: the n-th.
        n: how many there are with it, 2 at least.
    """
    share = 1 / math.sqrt(n)
    return merge([merged, newest], "linear", [1 - share, share], rank=rank)


def check_arguments(method: str, given: Mapping[str, Any]) -> Settings:
    """A method's arguments with their defaults.

    Raises:
        ContinualError: there is no such method, or it does not take these.
    """
    if method not in MERGES:
        raise ContinualError(f"method: there is no merge '{method}'{did_you_mean(method, MERGES)}")
    kind = MERGES[method].arguments
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        wrong = problems_of(error, kind, dict(given))
        raise ContinualError(*(f"{method}: {dotted(problem.keys)}: {problem.message}" for problem in wrong)) from None


def check_weights(method: str, n: int, weights: Sequence[float] | None) -> list[float]:
    """The weight of each of n adapters.

    Raises:
        ContinualError: there are more or fewer than adapters, they are no numbers, or shares of nothing.
    """
    known = MERGES[method]
    if weights is None:
        return [1 / n if known.mean else 1.0] * n
    if len(weights) != n:
        raise ContinualError(f"weights: {len(weights)} for {n} adapters; each needs one")
    if not all(math.isfinite(weight) for weight in weights):
        raise ContinualError("weights: not all of them are finite numbers")
    if known.weights == "shares" and not any(weights):
        raise ContinualError("weights: all are 0")
    if method in ("slerp", "regmean", "fisher") and (min(weights) < 0):
        raise ContinualError(f"weights: {method} takes shares, which are not less than 0")
    return list(weights)


def _merged(
    loras: Sequence[Lora],
    method: str,
    weights: Sequence[float] | None,
    scale: float,
    space: Space,
    statistics: Sequence[Statistics] | None,
    arguments: Mapping[str, Any],
) -> Iterator[tuple[str, torch.Tensor | Spectrum, Changes]]:
    """Of each module its name, the merged change, and the coordinates that it is in."""
    given = check_arguments(method, arguments)
    known = MERGES[method]
    check(loras, known, method)
    shares = check_weights(method, len(loras), weights)
    if known.statistics is not None:
        _check_statistics(loras, known, method, statistics)
    if not math.isfinite(scale):
        raise ContinualError("scale: no finite number")
    if space not in ("core", "full"):
        raise ContinualError(f"space: '{space}' is neither core nor full")
    function: Callable[..., torch.Tensor | Spectrum]
    function = getattr(import_module(f"continual.merges.{known.module}"), method)
    extra = given.model_dump()
    seed = extra.pop("seed", 0)
    for name in sorted({name for lora in loras for name in lora.factors}):
        where = _coordinates(_of_module(loras, name), known, space)
        if known.random:
            extra["draw"] = torch.Generator().manual_seed(derive(seed, "merge", method, name))
        if statistics is not None:
            extra["statistics"] = torch.stack([own[name] for own in statistics])
        matrix = function(where.changes, torch.tensor(shares, dtype=where.changes.dtype), **extra)
        yield name, _scaled(matrix, scale), where


def _coordinates(factors: Sequence[Factors], known: Merge, space: Space) -> Changes:
    if space == "full" or known.coordinates == "weights":
        return corespace.full(factors)
    if known.coordinates == "outputs":
        return corespace.outputs(factors)
    core = corespace.core(factors)
    return corespace.axes(core) if known.coordinates == "chosen" else core


def _of_module(loras: Sequence[Lora], name: str) -> list[Factors]:
    """The factors of each adapter for a module; of rank 0 where an adapter leaves it alone."""
    a, b = next(lora.factors[name] for lora in loras if name in lora.factors)
    nothing = Factors(a[:0], b[:, :0])
    return [lora.factors.get(name, nothing) for lora in loras]


def _scaled(matrix: torch.Tensor | Spectrum, scale: float) -> torch.Tensor | Spectrum:
    if isinstance(matrix, Spectrum):
        # A negative scale turns the vectors: singular values are not less than 0.
        return Spectrum(matrix.u * math.copysign(1, scale), matrix.s * abs(scale), matrix.vh)
    return matrix * scale


def check(loras: Sequence[Lora], known: Merge, method: str) -> None:
    """See that adapters can be merged at all.

    Raises:
        ContinualError: there are too few or too many, or they belong to different models.
    """
    if not loras:
        raise ContinualError("there is no adapter to merge")
    if known.at_most is not None and len(loras) > known.at_most:
        raise ContinualError(f"{method} merges {known.at_most} adapters, not {len(loras)}")
    bases = sorted({lora.base for lora in loras if lora.base is not None})
    if len(bases) > 1:
        raise ContinualError(f"the adapters belong to different base models: {', '.join(bases)}")
    shapes: dict[str, tuple[int, int]] = {}
    for lora in loras:
        for name, (a, b) in lora.factors.items():
            shape = (b.shape[0], a.shape[1])
            if shapes.setdefault(name, shape) != shape:
                raise ContinualError(f"{name} is {shapes[name]} in one adapter and {shape} in another")


def _check_statistics(
    loras: Sequence[Lora], known: Merge, method: str, statistics: Sequence[Statistics] | None
) -> None:
    if statistics is None or len(statistics) != len(loras):
        raise ContinualError(f"{method} needs the {known.statistics} statistics of each adapter")
    for i, own in enumerate(statistics, 1):
        for lora in loras:
            for name, (a, b) in lora.factors.items():
                shape = (a.shape[1] if known.statistics == "gram" else b.shape[0], a.shape[1])
                if name not in own:
                    raise ContinualError(f"{method}: the statistics of adapter {i} know nothing of {name}")
                if tuple(own[name].shape) != shape:
                    raise ContinualError(
                        f"{method}: the statistics of adapter {i} are {tuple(own[name].shape)} for {name}, not {shape}"
                    )


def _base(loras: Sequence[Lora]) -> str | None:
    return next((lora.base for lora in loras if lora.base is not None), None)


def _targets(loras: Sequence[Lora], factors: Mapping[str, Factors]) -> str | tuple[str, ...]:
    """PEFT's `target_modules` of the result: what all say, else the modules by their full names."""
    targets = {lora.targets for lora in loras}
    return targets.pop() if len(targets) == 1 else tuple(sorted(factors))


def _share(pairs: Any) -> float:
    """Kept energy over all energy; nothing is lost of nothing."""
    kept, energy = (sum(numbers) for numbers in zip(*pairs, strict=True))
    return kept / energy if energy else 1.0
