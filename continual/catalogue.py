"""The methods that a recipe can name in `method:`: their arguments, sources and limits, without importing any.

The code of a method is `continual/methods/<module>.py`, whose `build(arguments, lesson)` returns its plugin. To add
one, write that file and one `Method` here. Why Avalanche's other strategies are not here stands in
`avalanche_settings.REFUSED`.
"""

from dataclasses import dataclass
from typing import Literal

from continual import avalanche_settings as avalanche
from continual.avalanche_settings import REFUSED
from continual.settings_base import Settings

__all__ = ["METHODS", "REFUSED", "Method", "NoArguments"]


class NoArguments(Settings):
    """A method without arguments."""


@dataclass(frozen=True)
class Method:
    """What is known about a method before it is used."""

    module: str
    """Under `continual.methods`."""
    summary: str
    source: str
    """The paper."""
    arguments: type[Settings] = NoArguments
    """The model that `method_args` is checked against."""
    adapter: Literal["needed", "refused"] | None = None
    """Whether it works only on LoRA adapters, or only on whole models."""
    keeps_rows: bool = False
    """Whether it stores real rows of earlier tasks."""


AVALANCHE: dict[str, Method] = {
    "ewc": Method(
        "ewc",
        "holds weights that matter for each earlier task near their values then",
        "arXiv 1612.00796",
        avalanche.Ewc,
    ),
    "ewc_online": Method(
        "ewc", "the same with one penalty for all earlier tasks", "arXiv 1805.06370", avalanche.OnlineEwc
    ),
    "si": Method(
        "si",
        "holds weights that have lowered the loss on their way",
        "arXiv 1703.04200",
        avalanche.SynapticIntelligence,
    ),
    "mas": Method("mas", "holds weights that the size of the logits depends on", "arXiv 1711.09601", avalanche.Mas),
    "rwalk": Method(
        "rwalk",
        "holds weights by squared gradients and by what they did for the loss",
        "arXiv 1801.10112",
        avalanche.RWalk,
    ),
    "lwf": Method(
        "lwf", "the model before each task teaches on the rows of the new one", "arXiv 1606.09282", avalanche.Lwf
    ),
    "agem": Method(
        "agem",
        "turns a gradient that would raise the loss on stored real rows",
        "arXiv 1812.00420",
        avalanche.Agem,
        keeps_rows=True,
    ),
    "replay": Method(
        "replay",
        "mixes stored real rows, a random sample of all earlier ones, into each task",
        "arXiv 1811.11682",
        avalanche.Replay,
        keeps_rows=True,
    ),
}
"""Avalanche's own plugins, wired."""

METHODS: dict[str, Method] = {**AVALANCHE}
