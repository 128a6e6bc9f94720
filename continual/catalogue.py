"""The methods that a recipe can name in `method:`: their arguments, sources and limits, without importing any.

The code of a method is `continual/methods/<module>.py`, whose `build(arguments, lesson)` returns its plugin. To add
one, write that file and one `Method` here. Why Avalanche's other strategies are not here stands in
`avalanche_settings.REFUSED`.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

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
    stacks: bool = False
    """Whether it freezes earlier adapters and puts new ones on top."""
    refuses: tuple[str, ...] = ()
    """Settings of the recipe's `adapter` that it cannot do exactly."""
    beside_rehearsal: bool = True
    """Whether it goes together with `rehearsal`."""
    any_start: bool = False
    """Whether it goes together with any `start_from`: it remembers nothing that belongs to one adapter."""
    watches_steps: bool = False
    """Whether each step of a task tells it something, so that steps that are none of the task's would mislead it."""


class OLoRAArguments(Settings):
    """Of `olora`."""

    lambda_1: float = Field(0.5, ge=0)
    """Weight of the overlap with earlier adapters."""

    lambda_2: float = Field(0.0, ge=0)
    """Weight of the new adapter's norm."""


class MagMaxArguments(Settings):
    """Of `magmax`."""

    scale: float = Field(1.0, gt=0)
    """What the merged task vector is multiplied with (lambda of the paper)."""


class OSFArguments(Settings):
    """Of `osf`."""

    step: float | None = Field(None, gt=0, le=1)
    """Share of the singular directions that each earlier task adds to what is kept; null: 1 / number of tasks."""


class SDFTArguments(Settings):
    """Of `sdft`."""

    alpha: float = Field(0.02, gt=0, le=1)
    """How far the teacher's weights follow the student's in each step."""

    temperature: float = Field(1.0, gt=0)
    """Of the student's drawing."""

    max_new_tokens: int = Field(64, ge=1)
    """Length of an answer at most."""

    demonstration: str = Field(
        "{question}\n\nThis is an example for a response to the question:\n{answer}\n\n"
        "Now answer with a response of your own.",
        pattern=r"(?s)^[^{}]*\{question\}[^{}]*\{answer\}[^{}]*$",
    )
    """What the teacher is asked; the paper's words, without its \"including the thinking process\"."""


STACKS = ("use_dora", "modules_to_save", "target_parameters", "rank_pattern")
"""Settings of an adapter that cannot be stacked with another: their sum is no LoRA of one rank."""

OWN: dict[str, Method] = {
    "inclora": Method(
        "inclora",
        "a new adapter for each task, earlier ones frozen, all summed",
        "arXiv 2310.14152",
        adapter="needed",
        stacks=True,
        refuses=STACKS,
    ),
    "olora": Method(
        "olora",
        "the same, with new adapters kept orthogonal to earlier ones",
        "arXiv 2310.14152",
        OLoRAArguments,
        adapter="needed",
        stacks=True,
        refuses=STACKS,
    ),
    "slao": Method(
        "slao",
        "one adapter: starts from an orthonormal basis, merges B by 1/sqrt(i) after the i-th task",
        "arXiv 2512.23017",
        adapter="needed",
        refuses=("use_dora", "modules_to_save", "target_parameters"),
    ),
    "magmax": Method(
        "magmax",
        "of each parameter the value that is farthest from the untaught model",
        "arXiv 2407.06322",
        MagMaxArguments,
        adapter="refused",
    ),
    "osf": Method(
        "osf",
        "the largest singular directions of each matrix stay as they are",
        "arXiv 2504.07097",
        OSFArguments,
        adapter="refused",
    ),
    "sdft": Method(
        "sdft",
        "the model that sees the answer teaches the model that does not, on the latter's own answers",
        "arXiv 2601.19897",
        SDFTArguments,
        any_start=True,
        beside_rehearsal=False,
    ),
}
"""Methods of our own."""

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
        watches_steps=True,
    ),
    "mas": Method("mas", "holds weights that the size of the logits depends on", "arXiv 1711.09601", avalanche.Mas),
    "rwalk": Method(
        "rwalk",
        "holds weights by squared gradients and by what they did for the loss",
        "arXiv 1801.10112",
        avalanche.RWalk,
        watches_steps=True,
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
        any_start=True,
        watches_steps=True,
    ),
    "replay": Method(
        "replay",
        "mixes stored real rows, a random sample of all earlier ones, into each task",
        "arXiv 1811.11682",
        avalanche.Replay,
        keeps_rows=True,
        any_start=True,
    ),
}
"""Avalanche's own plugins, wired."""

METHODS: dict[str, Method] = {**AVALANCHE, **OWN}
