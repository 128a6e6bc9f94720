"""What merges reach beside what they are compared with: a table, and the scores over the scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from continual.report import svg
from continual.report.numbers import percent
from continual.report.plots import COLOURS
from continual.report.svg import Picture

Scores = Mapping[str, float]
"""By task, in [0, 1]."""


@dataclass(frozen=True)
class Found:
    """What a way to merge reaches."""

    method: str
    scale: float
    """The best of those that were tried, on dev rows."""
    kept: float
    """Share of the merged change's energy that the rank could hold."""
    dev: Mapping[float, Scores]
    """On dev rows, at each scale."""
    scores: Scores
    """At the best scale."""

    def told(self) -> dict[str, Any]:
        dev = [{"scale": scale, "mean": _mean(scores), "scores": dict(scores)} for scale, scores in self.dev.items()]
        return {**asdict(self), "mean": _mean(self.scores), "dev": dev}


@dataclass(frozen=True)
class Reference:
    """What merges are compared with."""

    name: str
    kind: str
    scores: Scores

    def told(self) -> dict[str, Any]:
        return {**asdict(self), "mean": _mean(self.scores)}


def table(tasks: Sequence[str], found: Sequence[Found], references: Sequence[Reference], split: str) -> Table:
    """Every merge at its best scale and every reference, in %."""
    title = Text(f"specialists and what is made of them, {split} rows, in %", style="bold")
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    shown.add_column("", no_wrap=True, min_width=22)
    for head in (*tasks, "mean", "held"):
        shown.add_column(Text(head), justify="right", no_wrap=True, min_width=5)
    shown.caption, shown.caption_justify = "held: the share of a merged change that its rank could hold", "left"
    for one in references:
        cells = (percent(one.scores[task]) for task in tasks)
        shown.add_row(Text(one.name), *cells, percent(_mean(one.scores)), "")
    for each in found:
        cells = (percent(each.scores[task]) for task in tasks)
        name = Text(f"merge: {each.method} × {each.scale:g}")
        shown.add_row(name, *cells, percent(_mean(each.scores)), percent(each.kept))
    return shown


def picture(found: Sequence[Found], levels: Mapping[str, float], width: float = 460) -> Picture:
    """The mean score on dev rows over the scale, a line for each method, a level one for each reference.

    Args:
        levels: scores that have no scale, by name.
    """
    scales = sorted({scale for one in found for scale in one.dev})
    left, top, height = 40.0, 12.0, 240.0
    logs = [math.log(scale) for scale in scales]

    def x(scale: float) -> float:
        span = logs[-1] - logs[0] if len(logs) > 1 else 0.0
        return left + (width * (math.log(scale) - logs[0]) / span if span else width / 2)

    def y(score: float) -> float:
        return top + height * (1 - score)

    body = []
    for score in (0, 25, 50, 75, 100):
        body.append(svg.line(left, y(score / 100), left + width, y(score / 100), "rule"))
        body.append(svg.text(left - 6, y(score / 100), str(score), anchor="end", kind="soft number", size=11))
    for scale in scales:
        mark = svg.text(x(scale), top + height + 14, f"{scale:g}", anchor="middle", kind="soft number", size=11)
        body.append(mark)
    body.append(svg.text(left + width / 2, top + height + 32, "scale", anchor="middle", kind="soft", size=11))
    ends: list[tuple[float, str, str]] = []
    for name, level in levels.items():
        body.append(svg.line(left, y(level), left + width, y(level), "axis", stroke_dasharray="4 3"))
        ends.append((y(level), name, "axis"))
    for place, one in enumerate(found):
        colour = place % COLOURS
        points = [(x(scale), y(_mean(scores))) for scale, scores in sorted(one.dev.items())]
        body.append(svg.polyline(points, f"line stroke{colour}"))
        for (px, py), (scale, scores) in zip(points, sorted(one.dev.items()), strict=True):
            words = f"{one.method}, scale {scale:g}: {percent(_mean(scores))} %"
            body.append(svg.titled(svg.marker(place, px, py, f"fill{colour}"), words))
        ends.append((points[-1][1], one.method, f"stroke{colour}"))
    body += _names(ends, left + width, top + height)
    names = max(svg.width_of(name) for _, name, _ in ends)
    title = "The mean score in % on dev rows of specialists merged by each method, over the scale"
    return Picture(left + width + 26 + names, top + height + 44, "".join(body), title)


def _names(ends: Sequence[tuple[float, str, str]], right: float, lowest: float) -> list[str]:
    """Names beside the ends of their lines, moved apart where these are close."""
    ordered = sorted(ends)
    places: list[float] = []
    for y, _, _ in ordered:
        places.append(max(y, places[-1] + 15) if places else y)
    for place in reversed(range(len(places))):
        places[place] = min(places[place], lowest)
        lowest = places[place] - 15
    marks = []
    for (y, name, kind), at in zip(ordered, places, strict=True):
        marks.append(svg.line(right + 5, y, right + 16, at, kind))
        marks.append(svg.text(right + 20, at, name))
    return marks


def _mean(scores: Scores) -> float:
    return sum(scores.values()) / len(scores)
