"""What the tables, the plots and the page show, computed once from results.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from continual import results as results_module
from continual.forgetting import FORMULAE, Cell, Spans, changes, in_order, seen_so_far, spans_of
from continual.report.numbers import COSTS


@dataclass(frozen=True)
class Beside:
    """General ability of one arm, the mean over its runs: each value for the untaught base, and at the end."""

    perplexity: tuple[Cell, Cell]
    scores: dict[str, tuple[Cell, Cell]]
    delta: Cell


@dataclass(frozen=True)
class Row:
    """One arm over the seeds and orders of one set: a line of the tables, a line of the curves."""

    arm: str
    teach: str
    label: str
    """The arm, after the run's name and before the swept settings where these are needed to tell it apart."""
    runs: int
    mean: dict[str, Cell]
    std: dict[str, Cell]
    cost: dict[str, Cell]
    seen: list[Cell]
    """For each step the mean score over the tasks seen so far (arms without a sequence: of their end)."""
    colour: int
    """The place of the arm's name: the same arm has the same colour everywhere."""
    dash: int
    """The place of the run and set: lines of one colour are told apart by it."""
    beside: Beside | None = None
    """None where it was not measured."""
    base: Cell = None
    """The mean score of the untaught base over all tasks."""


@dataclass(frozen=True)
class ArmMatrix:
    """R of one arm in one order, columns as taught, the mean over its seeds."""

    row: Row
    order: list[str]
    after: list[str]
    """What each row of R stands after: ``base``, then the tasks, or ``all``, or ``specialists``."""
    R: list[list[Cell]]
    std: list[list[Cell]]
    ci: list[list[Any]] | None
    """``[low, high]`` per cell; None for a mean over several runs."""
    runs: int
    spans: Spans | None
    """The first and the last row of each task, where tasks were not announced."""

    @property
    def spans_taught(self) -> Spans:
        """For each task the row in which it began and the one in which it ended; without a sequence, the last row."""
        return spans_of(self.R, self.spans) if self.sequential else [(1, 1)] * len(self.order)

    @property
    def sequential(self) -> bool:
        return self.row.teach == "sequential"

    @property
    def changes(self) -> list[Cell] | None:
        """What became of each task since it was taught; None without a sequence."""
        return changes(self.R, self.spans) if self.sequential else None


@dataclass(frozen=True)
class View:
    """The arms that can be laid side by side task by task: one set, one order."""

    title: str
    order: list[str]
    matrices: list[ArmMatrix]

    @property
    def gaps(self) -> bool:
        """Whether some cell of R is not known."""
        return any(cell is None for matrix in self.matrices for row in matrix.R for cell in row)

    @property
    def steps(self) -> list[str]:
        """What was taught one after another."""
        return next((matrix.after[1:] for matrix in self.matrices if matrix.sequential), self.order)

    @property
    def spans(self) -> Spans:
        """For each task of `order` the step in which it began and the one in which it ended, from 1."""
        taught = next((matrix.spans_taught for matrix in self.matrices if matrix.sequential), None)
        return taught or [(step, step) for step in range(1, len(self.order) + 1)]


def colours(documents: Sequence[dict[str, Any]]) -> dict[str, int]:
    """A place in the palette for each arm's name, in the order in which the names appear."""
    names = dict.fromkeys(arm for document in documents for arm in document["arms"])
    return {arm: place for place, arm in enumerate(names)}


def short_set(settings: dict[str, Any]) -> str:
    """Swept settings in few words: ``ratio=0.2, seed=1``."""
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())


def rows_of(document: dict[str, Any], palette: dict[str, int], *, prefix: str = "", first_dash: int = 0) -> list[Row]:
    """The lines of the tables for one results.json.

    Args:
        document: What `continual.results.collect` gives.
        palette: From `colours`.
        prefix: The name of the run, where several are shown.
        first_dash: How many kinds of dashes earlier runs use.
    """
    sets: list[dict[str, Any]] = []
    found = []
    for arm, entry in document["arms"].items():
        groups = results_module.by_set(entry["runs"])
        single = len(groups) == 1
        for place, (group, runs) in enumerate(groups):
            if group not in sets:
                sets.append(group)
            settings = "" if single else short_set(group)
            found.append(
                Row(
                    arm=arm,
                    teach=entry["teach"],
                    label=" · ".join(part for part in (prefix, arm, settings) if part),
                    runs=len(runs),
                    mean=_named(entry["mean"] if single else entry["mean"][place]),
                    std=_named(entry["std"] if single else entry["std"][place]),
                    cost={key: results_module.mean([run["cost"][key] for run in runs]) for key in COSTS},
                    seen=_mean_lists([_seen(run, document) for run in runs]),
                    beside=_beside([run["general"] for run in runs]),
                    base=results_module.mean([results_module.mean(run["R"][0]) for run in runs]),
                    colour=palette[arm],
                    dash=first_dash + sets.index(group),
                )
            )
    return found


def views_of(document: dict[str, Any], rows: Sequence[Row]) -> list[View]:
    """One view for each set and order in which some arm was taught in sequence.

    Arms without a sequence stand in every view of their set; without any sequential arm there is one view.
    """
    tasks: list[str] = document["tasks"]
    waiting = iter(rows)
    groups = [
        (group, runs, next(waiting))
        for entry in document["arms"].values()
        for group, runs in results_module.by_set(entry["runs"])
    ]
    keys: list[tuple[dict[str, Any], list[str]]] = []
    for group, runs, row in groups:
        for run in runs if row.teach == "sequential" else []:
            if (group, run["order"]) not in keys:
                keys.append((group, run["order"]))
    if not keys:
        keys = [(group, runs[0]["order"]) for group, runs, _ in groups[:1]]
    found = []
    for settings, order in keys:
        matrices = []
        for group, runs, row in groups:
            fits = all(settings.get(key, value) == value for key, value in group.items())
            if row.teach == "sequential":
                members = [run for run in runs if group == settings and run["order"] == order]
            else:
                members = [run for run in runs if fits and set(run["order"]) == set(order)]
            if members:
                matrices.append(_matrix(row, members, tasks, order))
        title = " → ".join(order)
        found.append(View(f"{short_set(settings)}: {title}" if settings else title, order, matrices))
    return found


def _named(values: dict[str, Any]) -> dict[str, Cell]:
    return {name: values[name] for name in FORMULAE}


def _seen(run: dict[str, Any], document: dict[str, Any]) -> list[Cell]:
    R = in_order(run["R"], document["tasks"], run["order"])
    if run["teach"] == "sequential":
        return seen_so_far(R, run["spans"])
    # The same tasks as in the arms that are taught step by step.
    others = [other for entry in document["arms"].values() for other in entry["runs"]]
    spans = next((other["spans"] for other in others if other["spans"] and other["order"] == run["order"]), None)
    steps = max(last for _, last in spans) if spans else len(run["order"])
    return seen_so_far([R[0], *[R[-1]] * steps], spans)


def _beside(measured: Sequence[list[dict[str, Any]]]) -> Beside | None:
    if not all(measured):
        return None

    def ends(values: Sequence[list[Cell]]) -> tuple[Cell, Cell]:
        before, after = (results_module.mean([rows[place] for rows in values]) for place in (0, -1))
        return before, after

    def score(task: str) -> tuple[Cell, Cell]:
        return ends([[row["scores"].get(task) for row in rows] for rows in measured])

    return Beside(
        perplexity=ends([[row["perplexity"] for row in rows] for rows in measured]),
        scores={task: score(task) for task in measured[0][0]["scores"]},
        delta=ends([[row["delta"] for row in rows] for rows in measured])[1],
    )


def _mean_lists(lists: Sequence[Sequence[Cell]]) -> list[Cell]:
    return [results_module.mean(values) for values in zip(*lists, strict=False)]


def _matrix(row: Row, runs: list[dict[str, Any]], tasks: list[str], order: list[str]) -> ArmMatrix:
    stored = [in_order(run["R"], tasks, order) for run in runs]
    cells = [list(zip(*together, strict=True)) for together in zip(*stored, strict=True)]
    return ArmMatrix(
        row=row,
        order=order,
        after=runs[0]["after"],
        R=[[results_module.mean(values) for values in line] for line in cells],
        std=[[results_module.std(values) for values in line] for line in cells],
        ci=in_order(runs[0]["ci"], tasks, order) if len(runs) == 1 else None,
        runs=len(runs),
        spans=runs[0]["spans"],
    )
