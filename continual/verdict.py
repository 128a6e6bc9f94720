"""Whether the arms of a run have forgotten more than is allowed: read from R, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from continual import scant
from continual.errors import ContinualError
from continual.forgetting import Cell, forgotten, in_order
from continual.problems import did_you_mean
from continual.report.numbers import percent
from continual.results import read_run
from continual.runs import Run, read_json

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Verdict:
    """What one run of an arm has forgotten."""

    arm: str
    run: str
    taught: list[str]
    """The tasks that have ended; fewer than planned where the run has not finished."""
    planned: int
    lost: dict[str, Cell]
    """By task, without what ended last and those that a guard took back; None where a cell of R is unknown."""

    scant: list[str]
    """Where rehearsal kept too little for what was forgotten to say anything about it."""

    def beyond(self, limit: float) -> list[str]:
        """The tasks that lost more than the limit. What cannot be known is not passed."""
        return [task for task, value in self.lost.items() if value is None or value > limit]


def verdicts(run_dir: Path, arm: str | None) -> list[Verdict]:
    """One verdict for each run of the arms that are taught in sequence.

    Args:
        arm: only this one.

    Raises:
        ContinualError: there is no such arm, or none that is taught in sequence has begun.
    """
    folders = Run(run_dir).runs()
    arms = list(dict.fromkeys(folder.parent.name for folder in folders))
    if arm is not None and arm not in arms:
        raise ContinualError(
            f"{run_dir}: there is no arm '{arm}'{did_you_mean(arm, arms)}; there is {', '.join(arms)}"
        )
    found = [_verdict(folder) for folder in folders if arm in (None, folder.parent.name) and _in_sequence(folder)]
    if not found:
        whose = f"arm '{arm}' is not" if arm else "no arm of this run is"
        raise ContinualError(f"{run_dir}: {whose} taught in sequence: nothing could be forgotten")
    return found


def show(found: list[Verdict], limit: float, console: Console) -> bool:
    """Print the verdicts; whether all are within the limit."""
    fine = True
    for verdict in found:
        beyond = verdict.beyond(limit)
        fine = fine and not beyond and not verdict.scant
        part = "" if len(verdict.taught) == verdict.planned else f" ({len(verdict.taught)} of {verdict.planned} tasks)"
        end = f"too much: {', '.join(beyond)}" if beyond else "rehearsed too little" if verdict.scant else "ok"
        console.print(f"{verdict.arm} {verdict.run}{part}: {end}", highlight=False, markup=False, soft_wrap=True)
        for line in verdict.scant:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        for task, value in verdict.lost.items():
            mark = "  <-- " + ("unknown" if value is None else "too much") if task in beyond else ""
            console.print(f"  {task:<24}{percent(value):>7}{mark}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"points forgotten by each task; at most {100 * limit:.1f} are allowed", highlight=False)
    return fine


def _in_sequence(folder: Path) -> bool:
    return bool(read_json(folder / "run.json")["teach"] == "sequential")


def _verdict(folder: Path) -> Verdict:
    run = read_run(folder)
    order, spans = run["order"], run["spans"] or [(step, step) for step in range(1, len(run["order"]) + 1)]
    ended = {task: span for task, span in zip(order, spans, strict=True) if span[1] < len(run["R"])}
    taught = list(ended)
    taken_back = {check["after"] for check in run["guard"] if check["action"] == "rollback"}
    R = in_order(run["R"], run["columns"], taught)
    lost = {taught[column]: value for column, value in forgotten(R, list(ended.values())).items()}
    return Verdict(
        arm=folder.parent.name,
        run=folder.name,
        taught=taught,
        planned=len(order),
        scant=scant.found(run["rehearsed"]),
        lost={task: value for task, value in lost.items() if task not in taken_back},
    )
