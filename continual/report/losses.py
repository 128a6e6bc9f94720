"""The loss of an arm over its optimizer steps, task after task, on a scale of powers of ten."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from continual.losscurve import FILE, LossPoint, read_points
from continual.report import svg
from continual.report.plots import COLOURS
from continual.report.svg import Picture
from continual.report.views import Row

LEAST = 1e-4
"""Losses below are drawn here: a logarithm has no room for zero."""

PIXELS_PER_DOT = 2.5
"""So many pixels of the line are one mean over steps."""


@dataclass(frozen=True)
class Section:
    """The steps of one task."""

    task: str
    losses: list[float | None]
    """One for each step; None where it was no finite number."""


@dataclass(frozen=True)
class Axes:
    """Where the plot lies: steps to the right, powers of ten upwards."""

    left: float
    top: float
    width: float
    height: float
    steps: int
    low: int
    high: int
    """Exponents of ten at the lower and the upper edge."""

    def x(self, step: float) -> float:
        return self.left + self.width * step / self.steps

    def y(self, loss: float) -> float:
        exponent = math.log10(max(loss, LEAST))
        return self.top + self.height * (self.high - exponent) / (self.high - self.low)

    def rules(self) -> str:
        marks = []
        for exponent in range(self.low, self.high + 1):
            y = self.y(10.0**exponent)
            marks.append(svg.line(self.left, y, self.left + self.width, y, "rule"))
            marks.append(svg.text(self.left - 6, y, f"{10.0**exponent:g}", anchor="end", kind="soft number", size=11))
        bottom = self.top + self.height + 14
        right = self.left + self.width
        marks.append(svg.text(self.left, bottom, "0", anchor="middle", kind="soft number", size=11))
        marks.append(svg.text(right, bottom, f"{self.steps:,} steps", anchor="end", kind="soft number", size=11))
        return "".join(marks)


def sections(points: Sequence[LossPoint]) -> list[Section]:
    """Group a curve by task, in the order learned."""
    groups = groupby(points, lambda point: point.task)
    return [Section(task, [point.loss for point in together]) for task, together in groups]


def loss_curve(row: Row, points: Sequence[LossPoint], width: float = 380) -> Picture | None:
    """Draw the loss of one run; None where no loss was kept, or none was a number."""
    parts = sections(points)
    known = [loss for part in parts for loss in part.losses if loss is not None]
    if not known:
        return None
    low, high = math.floor(math.log10(max(min(known), LEAST))), math.ceil(math.log10(max(*known, LEAST)))
    axes = Axes(44, 26, width, 150, len(points), min(low, high - 1), high)
    colour = row.colour % COLOURS
    body, begin = [], 0
    for number, part in enumerate(parts):
        left, right = axes.x(begin), axes.x(begin + len(part.losses))
        if number % 2:
            body.append(svg.rect(left, axes.top, right - left, axes.height, "band"))
        name = svg.shorten(part.task, right - left - 4, 11)
        if len(name) > 1:
            mark = svg.text((left + right) / 2, 14, name, anchor="middle", kind="soft", size=11)
            body.append(svg.titled(mark, part.task))
        begin += len(part.losses)
    body.append(axes.rules())
    begin = 0
    for part in parts:
        words = f"{part.task}, {len(part.losses):,} steps: loss {_ends(part)}"
        dots = [(axes.x(begin + step), axes.y(loss)) for step, loss in _means(part.losses, axes)]
        body.append(svg.titled(svg.polyline(dots, f"line thin-line stroke{colour}"), words))
        begin += len(part.losses)
    title = f"The loss of {row.label} over its optimizer steps, task after task"
    return Picture(axes.left + width + 8, axes.top + axes.height + 26, "".join(body), title)


def first_curve(run_dir: Path, arm: str, run: str) -> list[LossPoint]:
    """The curve of one run of an arm; empty where none was kept."""
    return read_points(run_dir / "arms" / arm / run / FILE)


def _means(losses: Sequence[float | None], axes: Axes) -> Iterator[tuple[float, float]]:
    """The middle and the mean of so many steps as a dot of the line stands for."""
    size = max(1, round(PIXELS_PER_DOT * axes.steps / axes.width))
    for start in range(0, len(losses), size):
        chunk = losses[start : start + size]
        known = [loss for loss in chunk if loss is not None]
        if known:
            yield start + len(chunk) / 2, sum(known) / len(known)


def _ends(part: Section) -> str:
    known = [f"{loss:.3g}" for loss in part.losses if loss is not None]
    return f"{known[0]} → {known[-1]}" if known else "no number"
