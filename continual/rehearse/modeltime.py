"""Model time and its calendar: when something learnt is reviewed, by how far the model has moved since."""

from __future__ import annotations

from dataclasses import dataclass

DAYS = (1, 2, 4, 7, 15, 30, 60, 90, 120)
"""After so many days something is reviewed (Ebbinghaus)."""


def passed(days: float) -> int:
    """How many days of the schedule have come after so many days."""
    return sum(day <= days for day in DAYS)


@dataclass
class Clock:
    """Model time.

    Args:
        day_steps: so many steps of the first task make a day; of a shorter task its mean step counts.
    """

    day_steps: int
    day: float | None = None
    """How far the model moves in a day; None until it is known."""
    time: float = 0.0
    """How far it has moved in this task."""
    steps: int = 0
    """Steps of this task."""
    due: int = 0
    """Days of the schedule that have come in this task."""

    def begin(self) -> None:
        """A task begins."""
        if self.day is None and self.steps:
            self.day = self.time / self.steps * self.day_steps
        self.time, self.steps, self.due = 0.0, 0, 0

    def tick(self, moved: float) -> bool:
        """After a step that moved the model so far: whether a day of the schedule has come."""
        self.time += moved
        self.steps += 1
        if self.day is None and self.steps == self.day_steps:
            self.day = self.time
        before, self.due = self.due, passed(self.time / self.day) if self.day else 0
        return self.due > before
