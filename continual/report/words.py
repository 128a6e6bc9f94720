"""What happened, in sentences."""

from typing import Any

from continual.forgetting import Cell
from continual.report.numbers import percent
from continual.report.views import ArmMatrix, Row

FOLLOWED = {"none": "", "warn": "a warning", "stop": "the arm stopped", "rollback": "it was taken back and skipped"}
"""What a guard did, by the action in its check."""

FROM_SPECIALISTS = {
    "merge": "is one adapter, merged from the specialists",
    "distill": "is one adapter, taught by the specialists with what they wrote",
}

FORGETS = 0.05
"""From here on, forgetting is what the sentence begins with."""


def share_of_multitask(row: Row) -> Cell:
    """ACC as a share of what the multitask arm reaches; None where there is none, or where it reaches 0."""
    acc, gap = row.mean["acc"], row.mean["gap_to_multitask"]
    if acc is None or gap is None or acc + gap <= 0:
        return None
    return acc / (acc + gap)


def headline(row: Row) -> str:
    """One sentence about one arm, without its name: ``kept 97 % of what multitask reaches …``."""
    end = f"{percent(row.mean['acc'])} %"
    if row.teach == "multitask":
        return f"was taught everything at once and reaches {end}: the bound to measure the others by."
    if row.teach == "specialists":
        return f"learned each task alone, one adapter per task: {end}."
    if row.teach in FROM_SPECIALISTS:
        gap = row.mean["gap_to_specialists"]
        apart = "" if gap is None else f", {_points(gap)} below them" if gap > 0 else f", {_points(-gap)} above them"
        return f"{FROM_SPECIALISTS[row.teach]}: {end}{apart}."
    if _learned_nothing(row):
        taught, base = percent(row.mean["learning_acc"]), percent(row.base)
        return f"learned nothing: {taught} % right after each task was taught, {base} % before; it ends at {end}."
    forgot, of_multitask = row.mean["forgetting"], _of_multitask(row)
    if forgot is not None and forgot >= FORGETS:
        return f"forgot {_points(forgot)} and ends at {end}{f', {of_multitask}' if of_multitask else ''}."
    if forgot is None:
        memory = ""
    elif forgot > 0.0005:
        memory = f", with {_points(forgot)} forgotten"
    elif forgot >= -0.0005:
        memory = ", with 0.0 points forgotten on average"
    else:
        memory = f"; earlier tasks rose by {_points(-forgot)} on average"
    if of_multitask:
        verb = "kept" if forgot is not None else "reached"
        return f"{verb} {of_multitask}: {end}{memory}."
    return f"ends at {end}{memory}."


def _learned_nothing(row: Row) -> bool:
    """True where no task rose, on average, by being taught: then nothing could be forgotten either."""
    learned = row.mean["learning_acc"]
    return learned is not None and row.base is not None and learned - row.base < 0.0005


def _of_multitask(row: Row) -> str:
    """``97 % of what multitask reaches``; near the bound with a digit more, for 96.0 of 96.4 is not all of it."""
    share = share_of_multitask(row)
    if share is None:
        return ""
    return f"{100 * share:.{1 if 0.95 < share < 1.05 else 0}f} % of what multitask reaches"


def _points(difference: float) -> str:
    number = f"{100 * difference:.1f}" if difference < 0.1 else f"{100 * difference:.0f}"
    return f"{number} point{'' if number in ('1', '1.0') else 's'}"


def learned(matrix: ArmMatrix) -> str:
    """From where to where the tasks went by being taught: ``translate 0.0 → 93.1, …``."""
    steps = []
    for column, task in enumerate(matrix.order):
        taught = matrix.R[matrix.spans_taught[column][1]][column]
        steps.append(f"{task} {percent(matrix.R[0][column])} → {percent(taught)}")
    return ", ".join(steps)


def forgotten(matrix: ArmMatrix) -> str:
    """What became of the tasks that lost at least half a point since: ``translate −70.1, …``."""
    lost = [
        (change, task)
        for change, task in zip(matrix.changes or [], matrix.order, strict=False)
        if change is not None and change <= -0.005
    ]
    return ", ".join(f"{task} −{-100 * change:.1f}" for change, task in sorted(lost)) or "nothing"


def ending(entry: dict[str, Any]) -> str:
    """Why a run has not taught all its tasks: ``stopped by its guard after edit: translate −12.0``.

    Args:
        entry: one of ``unfinished`` in results.json.
    """
    check = entry.get("stopped_by_guard")
    if check is None:
        return f"{entry['rows']} of {entry['of']} rows of R"
    return f"stopped by its guard after {check['after']}: {breaches(check)}"


def breaches(check: dict[str, Any]) -> str:
    """The tasks that a guard found too far below their best: ``translate −12.0 (at most 5.0)``, or could not see."""
    lost = [f"{task} −{100 * v:.1f}" for task, v in check["forgotten"].items() if v > check["limit"]]
    unseen = [f"{task} unseen" for task, rows in check["examined"].items() if not rows]
    return ", ".join([*lost, *unseen]) + f" (at most {100 * check['limit']:.1f})"
