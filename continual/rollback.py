"""Back to the state after a task: what came later is removed, and may be taught again.

Order of writing, for each run of an arm: R loses its later rows first; then, from the newest task down, what was
decided after the task, the model, the text rehearsed for it, and the predictions. A kill leaves a run that stands
after some task between the newest and the wanted one, with all that belongs to it; rows of R that are missing are
examined again when it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual import losscurve
from continual.errors import ContinualError
from continual.problems import did_you_mean
from continual.record import Record
from continual.runs import Run, read_json, remove_folder, write_json

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Selection:
    """What of a run goes back, and to where.

    Args:
        task: where tasks are not announced, a chunk: ``chunk 2``.
        arm: only this one; all if left out.
        seed: only the runs of this one; all if left out.
    """

    task: str
    arm: str | None = None
    seed: int | None = None


def preview(run_dir: Path, selection: Selection) -> list[str]:
    """Return a line for each arm whose later models a rollback would delete; nothing is changed.

    Raises:
        ContinualError: see `rollback`.
    """
    lines = []
    for record in _chosen(Run(run_dir), selection):
        number = record.steps.index(selection.task) + 1
        later = [record.steps[state - 1] for state in _states(record) if state > number]
        if later:
            lines.append(f"{record.arm} {record.folder.name}: the models after {', '.join(later)} will be deleted")
    if lines and Run(run_dir).in_use:
        lines.append(f"mind: a server or a chat is using {run_dir}; what it has not loaded yet will be gone")
    return lines


def rollback(run_dir: Path, selection: Selection, console: Console) -> None:
    """Take the sequential arms of a run back to the state after a task, and write the report anew.

    Raises:
        ContinualError: no run fits, or one has no state after that task; nothing is changed then.
    """
    from continual.publish import publish

    run, task = Run(run_dir), selection.task
    with run.locked():
        records = _chosen(run, selection)
        manifest = run.manifest()
        run.write_manifest({**manifest, "state": f"rolled back to {task}"})
        for record in records:
            number = record.steps.index(task) + 1
            gone = record.steps[number:]
            _cut(record, number)
            said = f"forgets {', '.join(gone)}" if gone else "has learned nothing since"
            console.print(
                f"{record.arm} {record.folder.name}: back after {task}, {said}", highlight=False, markup=False
            )
        publish(run_dir)


def _chosen(run: Run, selection: Selection) -> list[Record]:
    """The runs of arms that go back.

    Raises:
        ContinualError: there is none, or one has no state after that task.
    """
    records = _named(run, selection.arm, selection.seed)
    wrong = [line for record in records if (line := _missing(record, selection.task)) is not None]
    if wrong:
        raise ContinualError(*wrong)
    return records


def _named(run: Run, arm: str | None, seed: int | None) -> list[Record]:
    told = {folder: read_json(folder / "run.json") for folder in run.runs()}
    arms = list(dict.fromkeys(one["arm"] for one in told.values() if one["teach"] == "sequential"))
    if arm is not None and arm not in arms:
        known = f"those are {', '.join(arms)}" if arms else "there is none"
        raise ContinualError(
            f"{run.path}: '{arm}' is no arm that is taught in sequence{did_you_mean(arm, arms)}; {known}"
        )
    chosen = [
        _record(folder, one)
        for folder, one in told.items()
        if one["arm"] in ((arm,) if arm is not None else arms) and seed in (None, one["seed"])
    ]
    if not chosen:
        seeds = sorted({one["seed"] for one in told.values()})
        raise ContinualError(f"{run.path}: nothing was taught in sequence with seed {seed}; there are {seeds}")
    return chosen


def _record(folder: Path, told: dict[str, Any]) -> Record:
    names = ("arm", "teach", "seed", "set", "order", "tasks")
    chunks = len(told["steps"]) if told["spans"] is not None else None
    record = Record(folder=folder, chunks=chunks, **{name: told[name] for name in names})
    record.load()
    return record


def _states(record: Record) -> list[int]:
    return sorted(int(path.name) for path in (record.folder / "after").glob("*") if path.name.isdigit())


def _missing(record: Record, task: str) -> str | None:
    """Why a run cannot go back; None if it can."""
    name = f"{record.arm} {record.folder.name}"
    if record.chunks is not None and task in record.order:
        return f"{name}: its tasks are not announced, and states lie between chunks; --to takes 'chunk 1' and so on"
    if task not in record.steps:
        return f"{name}: '{task}' is none of its tasks{did_you_mean(task, record.steps)}"
    states = _states(record)
    if record.steps.index(task) + 1 in states:
        return None
    there = ", ".join(record.steps[number - 1] for number in states) or "none"
    return f"{name}: the state after {task} is not there (`keep: all` keeps them); there is: {there}"


def _cut(record: Record, number: int) -> None:
    """Remove everything that came after the task, or the chunk, of a number."""
    folder = record.folder
    remove_folder(folder / "checkpoints")
    for row in range(number + 1, len(record.R)):
        trained = read_json(folder / "after" / str(row) / "trained.json")
        for name in ("seconds", "train_tokens", "generated_tokens"):
            setattr(record.cost, name, getattr(record.cost, name) - trained[name])
        record.kept = record.kept[: len(record.kept) - len(trained.get("kept", []))]  # older runs have none
    later = record.steps[number:]
    record.cost.generated_tokens -= sum(check["generated_tokens"] for check in _of(record.guard, "after", later))
    record.rows, record.R, record.ci = record.rows[: number + 1], record.R[: number + 1], record.ci[: number + 1]
    record.general = record.general[: number + 1]
    record.rehearsed = [e for e in record.rehearsed if e not in _of(record.rehearsed, "before", later)]
    record.guard = [check for check in record.guard if check not in _of(record.guard, "after", later)]
    record.count_real()
    # run.json first: it decides what a run does that goes on, and which then writes R.csv as well.
    write_json(record.path, record.content)
    record.save()
    for late in range(len(record.steps), number, -1):
        _remove(folder / "guard", f"{late}.json", f"{late}-*.jsonl")
        remove_folder(folder / "after" / str(late))
        losscurve.cut_points(folder / losscurve.FILE, record.steps[late - 1])
        _remove(folder / "rehearsed", f"{late}-*")  # text, and what was expected of it
        _remove(folder / "predictions", f"{late}-*.jsonl")


def _of(entries: Sequence[dict[str, Any]], key: str, tasks: Sequence[str]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry[key] in tasks]


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()
