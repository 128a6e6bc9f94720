"""How like real rows is what an arm rehearsed, as far as a table shows it: from the first time to the last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from continual.forgetting import Cell
from continual.report.numbers import UNKNOWN, percent
from continual.results import mean

Entry = dict[str, Any]
"""One entry of `rehearsed` in results.json."""


@dataclass(frozen=True)
class Figure:
    """One column."""

    title: str
    meaning: str
    of: Callable[[Entry], Cell]
    written: Callable[[Cell], str] = percent
    real: Callable[[Entry], Cell] | None = None
    """What real rows have, to compare with."""


def _part(part: str, name: str) -> Callable[[Entry], Cell]:
    return lambda entry: (entry.get(part) or {}).get(name)


def _test(name: str) -> Callable[[Entry], Cell]:
    """What a task's test rows have in common with its training rows."""
    return lambda entry: (entry.get("memorised") or {}).get("test", {}).get(name)


def _count(value: Cell) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


FIGURES = {
    "valid": Figure("valid", "of what was drawn passed every check, in %", lambda entry: entry.get("valid")),
    "labels": Figure(
        "labels off",
        "of the labels would have to be others for the balance of the real training rows (total variation), in %",
        _part("drift", "labels"),
    ),
    "words": Figure(
        "words",
        "words in a sample, the mean (of as many real training rows)",
        _part("drift", "words"),
        _count,
        _part("drift", "real_words"),
    ),
    "bigrams": Figure(
        "2-grams known",
        "of the different 2-grams stand in real test rows, in % (of as many real training rows)",
        _part("drift", "bigrams"),
        percent,
        _part("drift", "real_bigrams"),
    ),
    "run": Figure(
        "longest run",
        "words in a row that a sample shares with a real training row, the 95th percentile (that a test row shares)",
        _part("memorised", "p95"),
        _count,
        _test("p95"),
    ),
    "copied": Figure(
        "copied",
        "of the samples share 13 words in a row with a training row, or have its whole question, in % (of test rows)",
        _part("memorised", "copied"),
        percent,
        _test("copied"),
    ),
}


@dataclass(frozen=True)
class Step:
    """A cell: a figure the first time and the last time, and of real rows."""

    first: str
    last: str
    real: str

    @property
    def moved(self) -> bool:
        return self.first != self.last


@dataclass(frozen=True)
class Line:
    """One task."""

    task: str
    times: int
    """How often it was rehearsed."""
    age: int
    """How many tasks ago it was learnt, the last time."""
    steps: list[Step]
    """One for each of `FIGURES`."""


def lines(entries: Sequence[Entry]) -> list[Line]:
    """One line for each task that a run rehearsed, in the order taught; none where nothing was compared."""
    by_task: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.get("drift"):
            by_task.setdefault(entry["task"], []).append(entry)
    return [
        Line(task, len(found), found[-1]["age"], [_step(figure, found[0], found[-1]) for figure in FIGURES.values()])
        for task, found in by_task.items()
    ]


def _step(figure: Figure, first: Entry, last: Entry) -> Step:
    real = figure.real(last) if figure.real is not None else None
    return Step(
        figure.written(figure.of(first)), figure.written(figure.of(last)), "" if real is None else figure.written(real)
    )


def in_short(entries: Sequence[Entry]) -> list[str]:
    """The mean of each figure over all entries that have it, with that of real rows in brackets."""
    cells = []
    for figure in FIGURES.values():
        ours, real = (
            mean([value for value in map(of, entries) if value is not None]) if of is not None else None
            for of in (figure.of, figure.real)
        )
        cells.append(figure.written(ours) + (f" ({figure.written(real)})" if real is not None else ""))
    return cells
