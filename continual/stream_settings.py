"""The part of a recipe that says that tasks are not announced, and what arms can then not ask for."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from continual.problems import Problem, problems_error
from continual.settings import Arm
from continual.settings_base import Settings

TOLD = "tasks are not announced"
NEED_A_TASK = ("wrong_task", "label")
"""Checks that ask which task a sample is of."""


class Stream(Settings):
    """The curriculum without boundaries, for arms that teach in sequence."""

    chunks: int = Field(ge=1)
    """All training rows, one task after another, are cut into so many parts of equal size, learned one by one."""


def unannounced(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The arms of a stream: what was not set and needs a task's name is replaced, what was set is refused.

    Raises:
        PydanticCustomError: with every problem at its own key.
    """
    problems: list[Problem] = []
    found = {}
    for name, arm in arms.items():
        found[name] = arm
        if arm.guard is not None:
            problems.append(Problem((name, "guard"), f"{TOLD}, so that there is no task to compare with itself"))
        rehearsal = arm.rehearsal
        if arm.teach != "sequential" or rehearsal is None:
            continue
        given, fitting = rehearsal.model_fields_set, dict[str, Any]()
        wrong: dict[str, str] = {}
        if "cue" not in given:
            fitting["cue"] = "shared"
        elif rehearsal.cue != "shared":
            wrong["cue"] = f"{TOLD}, so that one cue calls for all of them; set cue: shared"
        asking = [check for check in rehearsal.checks if check in NEED_A_TASK]
        if "checks" not in given:
            fitting["checks"] = tuple(check for check in rehearsal.checks if check not in NEED_A_TASK)
        elif asking:
            wrong["checks"] = f"{TOLD}, and {' and '.join(asking)} would need the task of a sample"
        if rehearsal.budget == "surprise":
            wrong["budget"] = f"{TOLD}: there is nothing to share between; take old_task or new_task"
        if "when" not in given:
            fitting["when"] = "before_task"
        elif rehearsal.when == "after_task":
            wrong["when"] = f"{TOLD}: what was written after one chunk would be of all before it, too"
        if rehearsal.asks_specialists:
            wrong["specialists"] = f"{TOLD}: nobody knows which specialist to ask"
        problems += [Problem((name, "rehearsal", key), message) for key, message in wrong.items()]
        found[name] = arm.model_copy(update={"rehearsal": rehearsal.model_copy(update=fitting)})
    if problems:
        raise problems_error(problems)
    return found
