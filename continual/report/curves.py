"""Scores over the steps: the mean over the tasks seen so far, and each task by itself; and bars of costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from continual.forgetting import Cell
from continual.report import svg
from continual.report.numbers import COSTS, percent
from continual.report.plots import COLOURS
from continual.report.svg import Picture
from continual.report.views import Row, View

DASHES = ("none", "7 3", "2 3", "9 3 2 3")
WITHOUT_STEPS = {"multitask": "8 4", "specialists": "1.5 4", "merge": "4 2 1 2", "distill": "12 3 3 3"}
"""Arms that are not taught step by step are drawn as level lines, dashed."""


@dataclass(frozen=True)
class Frame:
    """Where a plot's axes lie: steps to the right, scores of 0 to 1 upwards."""

    left: float
    top: float
    width: float
    height: float
    first: int
    last: int

    def x(self, step: float) -> float:
        return self.left + self.width * (step - self.first) / max(self.last - self.first, 1)

    def y(self, score: float) -> float:
        return self.top + self.height * (1 - score)

    def axes(self, names: Sequence[str]) -> str:
        """Level rules at 0, 25, … 100 %, and names below the steps, as many as fit."""
        marks = []
        for score in (0, 25, 50, 75, 100):
            y = self.y(score / 100)
            marks.append(svg.line(self.left, y, self.left + self.width, y, "rule"))
            marks.append(svg.text(self.left - 6, y, str(score), anchor="end", kind="soft number", size=11))
        gap = self.width / max(len(names) - 1, 1)
        every = math.ceil(30 / gap)
        for place, name in list(enumerate(names))[::every]:
            short = svg.shorten(name, every * gap - 4, 11)
            mark = svg.text(
                self.x(self.first + place),
                self.top + self.height + 14,
                short,
                anchor="middle",
                kind="soft",
                size=11,
            )
            marks.append(svg.titled(mark, name))
        return "".join(marks)


def seen_so_far(rows: Sequence[Row], order: Sequence[str], width: float = 520) -> Picture:
    """The mean over the tasks seen so far, step after step, all arms in one plot.

    Args:
        rows: The arms.
        order: The tasks (or chunks) as taught, where all rows share them; else empty, and steps have numbers.
        width: From the first step to the last, in pixels.
    """
    steps = max(len(row.seen) for row in rows)
    labels = max(svg.width_of(row.label) for row in rows)
    frame = Frame(40, 12, width, 250, 1, max(steps, 2))
    named = order and width / steps > 70
    names = [f"+ {task}" for task in order] if named else [str(step) for step in range(1, steps + 1)]
    body = [frame.axes(names)]
    for row in rows:
        body.append(_track(frame, row, list(enumerate(row.seen, 1)), "line"))
    body.append(_end_labels(frame, [(row, row.seen[-1]) for row in rows]))
    title = "The mean score over the tasks seen so far, in %, after each step"
    return Picture(frame.left + frame.width + labels + 34, 300, "".join(body), title)


def task_curve(view: View, column: int) -> Picture:
    """The score on one task over all steps; the band is the step in which it was taught."""
    task = view.order[column]
    steps, (first, last) = len(view.steps), view.spans[column]
    frame = Frame(32, 30, 262, 128, 0, steps)
    half = 0.5 * frame.width / steps
    band_left = max(frame.x(first) - half, frame.left)
    band_right = min(frame.x(last) + half, frame.left + frame.width)
    body = [svg.rect(band_left, frame.top, band_right - band_left, frame.height, "band")]
    body.append(svg.text(frame.left, 12, svg.shorten(task, 260, 13), kind="strong", size=13))
    body.append(frame.axes(["base", *(str(step) for step in range(1, steps + 1))]))
    for matrix in view.matrices:
        if matrix.sequential:
            scores = [(step, row[column]) for step, row in enumerate(matrix.R)]
            body.append(_track(frame, matrix.row, scores[: first + 1], "line thin"))
            body.append(_track(frame, matrix.row, scores[first:], "line"))
        else:
            end = matrix.R[-1][column]
            body.append(_track(frame, matrix.row, [(0, end), (steps, end)], "line"))
    return Picture(304, 186, "".join(body), f"The score on {task} after each step, in %")


def key(row: Row) -> Picture:
    """Colour, dash and mark of one arm, and its name."""
    colour = row.colour % COLOURS
    body = [svg.line(0, 9, 30, 9, f"line stroke{colour}", stroke_dasharray=_dash(row))]
    if row.teach == "sequential":
        body.append(svg.marker(row.colour, 15, 9, f"fill{colour}"))
    body.append(svg.text(38, 9, row.label))
    return Picture(svg.width_of(row.label) + 42, 18, "".join(body), f"The line of {row.label}")


def costs(rows: Sequence[Row]) -> list[Picture]:
    """One picture for each cost that any arm has, a bar for each arm."""
    return [_bars(rows, key) for key in COSTS if any(row.cost[key] for row in rows)]


def _bars(rows: Sequence[Row], key: str) -> Picture:
    title, written = COSTS[key]
    left = min(150.0, max(svg.width_of(row.label) for row in rows) + 12)
    width = 330 - left - 76
    most = max(row.cost[key] or 0 for row in rows)
    body = [svg.text(0, 10, title, kind="strong", size=13)]
    for place, row in enumerate(rows):
        y, value = 26 + 24 * place, row.cost[key]
        length = width * (value or 0) / most
        bar = svg.text(left - 8, y + 8, svg.shorten(row.label, left - 10), anchor="end")
        bar += svg.rect(left, y, length, 16, f"fill{row.colour % COLOURS}", rx=2)
        bar += svg.text(left + length + 6, y + 8, written(value), kind="number", size=11)
        body.append(svg.titled(bar, f"{row.label}: {written(value)}"))
    return Picture(330, 30 + 24 * len(rows), "".join(body), f"{title}, by arm")


def _dash(row: Row) -> str:
    return WITHOUT_STEPS.get(row.teach) or DASHES[row.dash % len(DASHES)]


def _track(frame: Frame, row: Row, scores: Sequence[tuple[int, Cell]], kind: str) -> str:
    """A line through the known scores, with a mark at each for an arm that is taught step by step."""
    known = [(step, score) for step, score in scores if score is not None]
    places = [(frame.x(step), frame.y(score)) for step, score in known]
    colour = row.colour % COLOURS
    shapes = [svg.polyline(places, f"{kind} stroke{colour}", stroke_dasharray=_dash(row))] if places else []
    if row.teach == "sequential":
        for (step, score), (x, y) in zip(known, places, strict=True):
            words = (
                f"{row.label}, step {step}: {percent(score)} %" if step else f"the untaught base: {percent(score)} %"
            )
            shapes.append(svg.titled(svg.marker(row.colour, x, y, f"fill{colour}"), words))
    return "".join(shapes)


def _end_labels(frame: Frame, ends: Sequence[tuple[Row, Cell]]) -> str:
    """The arms' names beside the ends of their lines, moved apart where these are close."""
    known = sorted(((frame.y(end), row) for row, end in ends if end is not None), key=lambda pair: pair[0])
    places: list[float] = []
    for y, _ in known:
        places.append(max(y, places[-1] + 15) if places else y)
    lowest = frame.top + frame.height
    for place in reversed(range(len(places))):
        places[place] = min(places[place], lowest)
        lowest = places[place] - 15
    right = frame.left + frame.width
    labels = []
    for (y, row), label_y in zip(known, places, strict=True):
        labels.append(svg.line(right + 5, y, right + 16, label_y, f"stroke{row.colour % COLOURS}"))
        labels.append(svg.text(right + 20, label_y, row.label))
    return "".join(labels)
