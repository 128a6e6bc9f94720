"""The part of a recipe that says how much an arm may forget, and what happens when it does."""

from typing import Literal

from pydantic import Field

from continual.settings_base import Settings


class Guard(Settings):
    """After every task, each earlier one is examined again."""

    max_forgetting: float = Field(0.05, ge=0, le=2)
    """How far an earlier task may fall below its best score since it was learned; 0.05 is five points."""

    on_breach: Literal["stop", "rollback", "warn"] = "stop"
    """The arm ends there; the model goes back to where it was before the task, which is skipped; or only a line."""

    samples: int = Field(100, ge=1)
    """Where no real row may be kept: how many samples of each task the model writes to be examined on."""
