"""The methods that a recipe can name in `method:`: their arguments, sources and limits, without importing any.

The code of a method is `continual/methods/<module>.py`, whose `build(arguments, lesson)` returns its plugin. To add
one, write that file and one `Method` here.
"""

from dataclasses import dataclass
from typing import Literal

from continual.settings_base import Settings


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


METHODS: dict[str, Method] = {}

REFUSED: dict[str, str] = {}
"""Strategies of Avalanche that cannot teach a language model: name -> why."""
