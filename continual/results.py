"""From the files of a run directory to its results.json; docs/reading-results.md documents every field.

Only finished runs of an arm have figures. The others stand under ``unfinished``, and nothing is invented
for them.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from continual import general
from continual.forgetting import FORMULAE, Cell, figures
from continual.overrides import concerned
from continual.pairing import compare
from continual.runs import Run, read_json, read_matrix, write_json

SCHEMA = 1
FILE = "results.json"
ORDER = "curriculum"
"""The swept key that says in which order, not what: mean and std run over it, as over seeds."""


def collect(run_dir: Path) -> dict[str, Any]:
    """The results of a run directory, finished or not.

    Args:
        run_dir: What `continual run` writes: manifest.json, recipe.yaml and arms/<arm>/<run>/.

    Raises:
        ContinualError: `run_dir` is not a run directory.
    """
    manifest, recipe = _read_head(run_dir)
    entries = [{"task": entry} if isinstance(entry, str) else entry for entry in recipe["curriculum"]]
    tasks = [str(entry["task"]) for entry in entries if entry.get("remembered") is None]
    finished: dict[str, list[dict[str, Any]]] = {}
    unfinished: list[dict[str, Any]] = []
    for arm in recipe["arms"]:
        found = [read_run(folder) for folder in _run_folders(run_dir, arm)]
        finished[arm] = []
        for run in found:
            have, needed = _rows(run)
            if have == needed:
                finished[arm].append(run)
            else:
                stop = next((check for check in run["guard"] if check["action"] == "stop"), None)
                told = {"stopped_by_guard": stop} if stop else {}
                unfinished.append({"arm": arm, "run": run["run"], "rows": have, "of": needed, **told})
        absent = planned_runs(recipe, arm) - len(found)
        if absent > 0:
            unfinished.append({"arm": arm, "run": None, "not_begun": absent})
    everything = [run for runs in finished.values() for run in runs]
    tasks += dict.fromkeys(task for run in everything for task in run["order"] if task not in tasks)
    for run in everything:
        _align(run, tasks)
    arms: dict[str, Any] = {}
    for arm, runs in finished.items():
        for run in runs:
            run["figures"] = figures(
                run["R"],
                run["order"],
                tasks,
                _reference(everything, run, "multitask"),
                _reference(everything, run, "specialists"),
                sequential=run["teach"] == "sequential",
                spans=run["spans"],
            )
        if runs:
            arms[arm] = {"teach": runs[0]["teach"], "runs": runs, **_mean_and_std(runs)}
    groups = [(arm, group, runs) for arm, entry in arms.items() for group, runs in by_set(entry["runs"])]
    paired = compare(run_dir, groups, tasks, manifest.get("metrics", {}))
    for arm, entry in arms.items():
        entry["paired"] = _against_multitask(arm, entry, arms, paired)
    return {
        "schema": SCHEMA,
        "name": manifest["name"],
        "model": recipe["model_name_or_path"],
        "form": manifest.get("form"),
        "created": manifest["created"],
        "tasks": tasks,
        "metrics": manifest.get("metrics", {}),
        "arms": arms,
        "paired": paired,
        "unfinished": unfinished,
        "formulae": {name: vars(formula) for name, formula in FORMULAE.items()},
    }


def write(run_dir: Path) -> dict[str, Any]:
    """Collect the results and write them to results.json in `run_dir`, whole or not at all."""
    results = collect(run_dir)
    write_json(run_dir / FILE, results)
    return results


def group_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's ``set`` that is not its order: mean and std are taken within it."""
    return {key: value for key, value in settings.items() if key != ORDER}


def planned_runs(recipe: dict[str, Any], arm: str) -> int:
    """How many runs the (resolved) recipe plans for an arm: its seeds times every combination that concerns it."""
    sweep = recipe.get("sweep", {})
    keys = concerned(sweep, arm, recipe["arms"][arm]["teach"])
    return len(recipe["seeds"]) * math.prod(len(sweep[key]) for key in keys)


def _read_head(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import yaml

    manifest = Run(run_dir).manifest()
    return manifest, yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))


def _run_folders(run_dir: Path, arm: str) -> list[Path]:
    """The runs of an arm that have an R at all, seed2 before seed10."""
    folders = (run_dir / "arms" / arm).glob("*")
    begun = [folder for folder in folders if (folder / "run.json").is_file() and (folder / "R.csv").is_file()]
    return sorted(begun, key=lambda folder: (len(folder.name.partition("-")[0]), folder.name))


def read_run(folder: Path) -> dict[str, Any]:
    """One run of an arm from its files, with its columns of R; without the tasks whose data is gone."""
    stored = read_json(folder / "run.json")
    columns, after, R = read_matrix(folder / "R.csv")
    keys = ("teach", "seed", "set", "order", "steps", "spans", "ci", "cost", "rehearsed")
    run = {key: stored[key] for key in keys}
    told = general.told(after, stored["general"])
    if run["teach"] == "sequential" and run["spans"] is None:
        # What cannot be measured has neither a row nor a column.
        there = [row for row in range(len(R)) if row == 0 or run["order"][row - 1] in columns]
        after, R = [after[row] for row in there], [R[row] for row in there]
        run["ci"], told = [run["ci"][row] for row in there], [one for row, one in enumerate(told) if row in there]
        run["order"] = run["steps"] = [task for task in run["order"] if task in columns]
    run["guard"] = stored.get("guard", [])  # older runs have none
    return {"run": folder.name, **run, "columns": columns, "after": after, "R": R, "general": told}


def _align(run: dict[str, Any], tasks: list[str]) -> None:
    """Put the columns of a run's R and ci into the order of `tasks`; one that it did not have is unknown."""
    columns = run.pop("columns")
    for name in ("R", "ci"):
        named = [dict(zip(columns, row, strict=True)) for row in run[name]]
        run[name] = [[row.get(task) for task in tasks] for row in named]


def _rows(run: dict[str, Any]) -> tuple[int, int]:
    """How many rows of R a run has, and how many it needs; a last row with gaps is not there yet."""
    needed = len(run["steps"]) + 1 if run["teach"] == "sequential" else 2
    have = len(run["R"])
    if have == needed:
        last = dict(zip(run["columns"], run["R"][-1], strict=True))
        have -= any(last[task] is None for task in run["order"])
    return have, needed


def _reference(runs: list[dict[str, Any]], run: dict[str, Any], teach: str) -> list[Cell] | None:
    """The final scores of the run that `run` is compared with; None if there is none.

    It has the same seed, and the same value of each swept key that both name; one of the same order wins.
    """
    group = group_of(run["set"])
    same = [
        other
        for other in runs
        if other["teach"] == teach
        and other["seed"] == run["seed"]
        and set(other["order"]) == set(run["order"])
        and all(group.get(key, value) == value for key, value in group_of(other["set"]).items())
    ]
    if not same:
        return None
    best = next((other for other in same if other["order"] == run["order"]), same[0])
    final: list[Cell] = best["R"][-1]
    return final


def by_set(runs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The runs that share everything but seed and order, each group with what it shares, in file order."""
    groups: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for run in runs:
        group = group_of(run["set"])
        members = next((members for known, members in groups if known == group), None)
        if members is None:
            groups.append((group, [run]))
        else:
            members.append(run)
    return groups


def _mean_and_std(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """``mean`` and ``std`` over the runs of one set; lists, each with its ``set``, if there are several."""

    def over(members: list[dict[str, Any]], statistic: Callable[[list[Cell]], Cell]) -> dict[str, Cell]:
        return {name: statistic([run["figures"][name] for run in members]) for name in FORMULAE}

    groups = by_set(runs)
    if len(groups) == 1:
        return {"mean": over(runs, mean), "std": over(runs, std)}
    return {
        "mean": [{"set": group, **over(members, mean)} for group, members in groups],
        "std": [{"set": group, **over(members, std)} for group, members in groups],
    }


def _against_multitask(arm: str, entry: dict[str, Any], arms: dict[str, Any], paired: list[dict[str, Any]]) -> Any:
    """The arm's paired difference to the (first) multitask arm; a list of one for each set, if there are several."""
    bound = next((name for name, other in arms.items() if other["teach"] == "multitask"), None)
    groups = [group for group, _ in by_set(entry["runs"])]
    told = [
        next((p for p in paired if p["arm"] == arm and p["against"] == bound and p["set"] == group), None)
        for group in groups
    ]
    return told[0] if len(groups) == 1 else told


def mean(values: Sequence[Cell]) -> Cell:
    """The mean; None where one value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def std(values: Sequence[Cell]) -> Cell:
    """The sample standard deviation (n − 1 in the denominator); None for one value or an unknown one."""
    centre = mean(values)
    if centre is None or len(values) < 2:
        return None
    return math.sqrt(sum((value - centre) ** 2 for value in values if value is not None) / (len(values) - 1))
