"""The ways to merge adapters: their arguments, sources and limits, without importing any.

The code of a method is `continual/merges/<module>.py`, whose function of the method's name takes the changes of one
module, shape (n, out, in), and their weights, shape (n,), and returns one change. To add one, write that function and
one `Merge` here.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from continual.catalogue import NoArguments
from continual.settings_base import Settings

__all__ = ["MERGES", "Merge"]


class Density(Settings):
    """Of methods that keep a share of each change."""

    density: float = Field(0.2, gt=0, le=1)
    """Share of the values that is kept, in each module."""


class Drawn(Settings):
    """Of methods that drop values by chance."""

    density: float = Field(0.2, gt=0, le=1)
    """Share of the values that is kept, on average; what stays is divided by it."""

    seed: int = Field(0, ge=0)
    """Decides which."""


class Breadcrumbs(Density):
    """Of `breadcrumbs`."""

    gamma: float = Field(0.01, ge=0, lt=1)
    """Share of the values that is dropped as too large."""


class Della(Drawn):
    """Of `della`."""

    epsilon: float = Field(0.1, ge=0, lt=1)
    """Width of the window round 1 - density in which the chances of being dropped lie."""


class RegMean(Settings):
    """Of `regmean`."""

    alpha: float = Field(0.9, ge=0, lt=1)
    """What the Gram matrices are multiplied with off the diagonal."""


@dataclass(frozen=True)
class Merge:
    """What is known about a way to merge before it is used."""

    module: str
    """Under `continual.merges`."""
    summary: str
    source: str
    """The paper."""
    coordinates: Literal["any", "outputs", "chosen", "weights"]
    """Where it may work: `any` rotation of inputs and outputs gives the same result; any of `outputs` only; the result
    is another one in other coordinates, and they are `chosen` by whoever merges; on the model's own `weights` only."""
    arguments: type[Settings] = NoArguments
    """The model that its arguments are checked against."""
    weights: Literal["factors", "shares"] = "factors"
    """What weights are: factors of the changes, or shares in a mean, where only their ratios count."""
    mean: bool = False
    """Whether the weights are 1/n each if none are given, else 1."""
    random: bool = False
    """Whether it draws."""
    statistics: Literal["gram", "fisher"] | None = None
    """What it must know of each adapter's data (see `continual.statistics`)."""
    at_most: int | None = None
    """How many adapters it takes."""


MERGES: dict[str, Merge] = {
    "linear": Merge(
        "linear", "the weighted sum of the changes, their mean if no weights are given", "arXiv 2203.05482", "any",
        mean=True,
    ),
    "task_arithmetic": Merge("linear", "the sum of the changes, times a scale", "arXiv 2212.04089", "any"),
    "ties": Merge(
        "ties", "keeps the largest values of each, elects a sign, takes the mean of those that have it",
        "arXiv 2306.01708", "chosen", Density, "shares",
    ),
    "dare_linear": Merge(
        "dare", "drops values by chance, enlarges the others, and sums", "arXiv 2311.03099", "chosen", Drawn,
        random=True,
    ),
    "dare_ties": Merge(
        "dare", "drops values by chance, enlarges the others, and goes on as TIES", "arXiv 2311.03099", "chosen",
        Drawn, "shares", random=True,
    ),
    "magnitude_prune": Merge(
        "prune", "keeps the largest values of each, and sums", "arXiv 2306.01708, without its election", "chosen",
        Density,
    ),
    "breadcrumbs": Merge(
        "breadcrumbs", "drops the smallest and the very largest values of each, and sums", "arXiv 2312.06795",
        "chosen", Breadcrumbs,
    ),
    "della": Merge(
        "della", "drops by chance, small values sooner, and goes on as TIES", "arXiv 2406.11617", "chosen", Della,
        "shares", random=True,
    ),
    "slerp": Merge(
        "slerp", "goes from one change to another along a circle", "Shoemake 1985", "any", weights="shares",
        at_most=2,
    ),
    "magmax": Merge("magmax", "of each value the one that is farthest from zero", "arXiv 2407.06322", "chosen"),
    "tsv": Merge("tsv", "makes the singular vectors of all changes orthogonal, and sums", "arXiv 2412.00081", "any"),
    "iso_c": Merge("iso", "the sum with all its singular values made equal", "arXiv 2502.04959", "any"),
    "knots": Merge(
        "knots", "brings all changes to shared singular vectors, and goes on as TIES", "arXiv 2410.19735", "outputs",
        Density, "shares",
    ),
    "slao": Merge(
        "slao", "a running merge in the order given: the i-th comes in with 1/sqrt(i)", "arXiv 2512.23017", "any",
    ),
    "regmean": Merge(
        "regmean", "nearest to what each adapter puts out on its own data", "arXiv 2212.09849", "outputs", RegMean,
        "shares", statistics="gram",
    ),
    "fisher": Merge(
        "fisher", "a mean of each value, weighted by its Fisher information", "arXiv 2111.09832", "weights",
        weights="shares", statistics="fisher",
    ),
}  # fmt: skip
"""Ways to make one adapter of several. All work on the changes B A, none on the factors."""
