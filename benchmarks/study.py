"""A study: one recipe, its orders and seeds, and a grid from which each arm's hyper-parameters are chosen on dev rows.

A study file is a recipe with two more keys: `tuning`, settings of `training` with the values to try for every arm, and
`while_tuning`, overrides that hold for the trials only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from continual import overrides as overriding
from continual import yamlfile
from continual.errors import ContinualError
from continual.recipe import DEFAULT_ARMS, Recipe, load_recipe
from continual.runs import write_text

STUDIES = Path(__file__).parent / "studies"
QUICK = {"training.max_samples": 8, "evaluate.limit": 4}
Chosen = Mapping[str, Mapping[str, Any]]
"""By arm, what differs from the recipe's `training`."""


@dataclass(frozen=True)
class Study:
    """What is to be found out.

    Args:
        data: a recipe, as plain data; its output_dir is where all of the study lies.
        recipe: the same, checked.
        grid: by key of `training`, the values to try.
        while_tuning: overrides by dotted key.
        folders: of the recipe's own tasks.
    """

    name: str
    data: dict[str, Any]
    recipe: Recipe
    grid: Mapping[str, Sequence[Any]]
    while_tuning: Mapping[str, Any]
    folders: Sequence[Path]

    @property
    def out(self) -> Path:
        return Path(self.recipe.output_dir)

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values: the trials of each arm."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


@dataclass(frozen=True)
class Job:
    """One run directory, made by one process."""

    name: str
    arms: tuple[str, ...]
    """Whose scores are wanted; the first of them is the one the job is named after."""
    data: dict[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.data["output_dir"])

    @property
    def file(self) -> Path:
        """Its recipe: `continual run FILE` does the same by hand."""
        return self.folder.with_name(f"{self.folder.name}.yaml")


def load(
    name_or_path: str,
    sets: Sequence[str] = (),
    *,
    arms: Sequence[str] | None = None,
    model: str | None = None,
    out: Path | None = None,
    folders: Sequence[Path] = (),
    quick: bool = False,
) -> Study:
    """Read a study, lay overrides over it, and check all of it.

    Args:
        name_or_path: a file, or the name of one under ``benchmarks/studies``.
        sets: ``dotted.key=value``; below ``tuning`` too.
        arms: only these; all if None.
        quick: one seed, one order, one trial, a handful of rows.

    Raises:
        ContinualError: with one line for every mistake.
    """
    path = Path(name_or_path) if name_or_path.endswith(".yaml") else STUDIES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
        raise ContinualError(f"no study '{name_or_path}'; there are {known}, or give a YAML file")
    data = overriding.apply({"arms": DEFAULT_ARMS, **yamlfile.load(path).data}, overriding.parse(sets))
    if arms is not None:
        unknown = [arm for arm in arms if arm not in data["arms"]]
        if unknown:
            raise ContinualError(f"no arm {', '.join(unknown)}; the study has {', '.join(data['arms'])}")
        data["arms"] = {name: arm for name, arm in data["arms"].items() if name in arms}
    grid, while_tuning = data.pop("tuning", {}), data.pop("while_tuning", {})
    data["model_name_or_path"] = model or data["model_name_or_path"]
    data["output_dir"] = str(out or f"runs/study-{path.stem}{'-quick' if quick else ''}")
    if quick:
        data = overriding.apply(data, {**QUICK, "training.num_train_epochs": 1, "seeds": data.get("seeds", [0])[:1]})
        data["sweep"] = {key: values[:1] for key, values in data.get("sweep", {}).items()}
        grid = {key: [1] if key == "num_train_epochs" else values[:1] for key, values in grid.items()}
        while_tuning = {key: value for key, value in while_tuning.items() if key not in QUICK}
    beside = path.parent / "tasks"
    folders = [*folders, *([beside] if beside.is_dir() else [])]
    recipe = _checked(data, Path(data["output_dir"]) / "recipe.yaml", folders)
    study = Study(path.stem, data, recipe, grid, while_tuning, folders)
    for arm in recipe.arms:
        for point in study.points:
            if wrong := replace_training(study, {arm: point}).arms[arm].problems(recipe.training):
                raise ContinualError(*(f"tuning: {'.'.join(map(str, one.keys[1:]))}: {one.message}" for one in wrong))
    return study


def _checked(data: Mapping[str, Any], file: Path, folders: Sequence[Path]) -> Recipe:
    """Write a recipe, and read it as `continual run` would."""
    write_text(file, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return load_recipe(str(file), (), folders)


def replace_training(study: Study, chosen: Chosen) -> Recipe:
    """The study's recipe with chosen hyper-parameters, not checked again."""
    arms = {
        name: arm.model_copy(update={"training": {**arm.training, **chosen.get(name, {})}})
        for name, arm in study.recipe.arms.items()
    }
    return study.recipe.model_copy(update={"arms": arms})


def check(job: Job, folders: Sequence[Path]) -> Recipe:
    """Write a job's recipe and check it."""
    return _checked(job.data, job.file, folders)


def needed(recipe: Recipe, arm: str) -> tuple[str, ...]:
    """The arm whose specialists an arm asks; it must be taught in the same run."""
    rehearsal = recipe.arms[arm].rehearsal
    if rehearsal is None or not rehearsal.asks_specialists:
        return ()
    first = next(name for name, other in recipe.arms.items() if other.teach == "specialists")
    return (rehearsal.specialists or first,)


def trials(study: Study, arm: str, chosen: Chosen) -> list[Job]:
    """The runs from which an arm's hyper-parameters are chosen: first seed, first order, dev rows.

    Args:
        chosen: of the arms that this one needs.
    """
    sweep = {**study.data.get("sweep", {})}
    data = overriding.apply(study.data, {"evaluate.split": "dev", **study.while_tuning})
    if "curriculum" in sweep:
        sweep["curriculum"] = sweep["curriculum"][:1]
    jobs = []
    for point in study.points:
        arms = _arms(data, (*needed(study.recipe, arm), arm), {**chosen, arm: point})
        name = f"{arm}-{overriding.short_hash(point)}"
        jobs.append(_job(study, data, f"tune/{name}", (arm,), arms, study.recipe.seeds[:1], sweep))
    return jobs


def cells(study: Study, chosen: Chosen) -> list[Job]:
    """The runs of the table: one for each arm, seed and order; what has no order, or needs specialists, one a seed."""
    recipe, sweep = study.recipe, study.data.get("sweep", {})
    asking = {arm: needed(recipe, arm) for arm in recipe.arms}
    asked = {arm for arms in asking.values() for arm in arms}
    jobs = []
    for arm, seed in itertools.product(recipe.arms, recipe.seeds):
        if asking[arm]:
            continue
        together = (arm, *(other for other, needs in asking.items() if arm in needs))
        arms = _arms(study.data, together, chosen)
        orders = sweep.get("curriculum")
        if orders is None or arm in asked or recipe.arms[arm].teach != "sequential":
            jobs.append(_job(study, study.data, f"cells/{arm}-seed{seed}", together, arms, (seed,), sweep))
            continue
        for order in orders:
            name = f"cells/{arm}-{overriding.run_name(seed, {'curriculum': order})}"
            one_order = {**sweep, "curriculum": [order]}
            jobs.append(_job(study, study.data, name, together, arms, (seed,), one_order))
    return jobs


def _arms(data: Mapping[str, Any], names: Sequence[str], chosen: Chosen) -> dict[str, Any]:
    """Some arms of a recipe, in its order, with chosen hyper-parameters."""
    return {
        name: {**arm, "training": {**arm.get("training", {}), **chosen.get(name, {})}}
        for name, arm in data["arms"].items()
        if name in names
    }


def _job(
    study: Study,
    data: Mapping[str, Any],
    name: str,
    wanted: tuple[str, ...],
    arms: dict[str, Any],
    seeds: Sequence[int],
    sweep: Mapping[str, Any],
) -> Job:
    own = {key: values for key, values in sweep.items() if not key.startswith("arms.") or key.split(".")[1] in arms}
    changes = {"arms": arms, "seeds": list(seeds), "sweep": own, "output_dir": str(study.out / name)}
    return Job(name, wanted, {**data, **changes})


def with_chosen(study: Study, chosen: Chosen) -> Study:
    """The study with its arms' hyper-parameters set, and its recipe written."""
    data = {**study.data, "arms": _arms(study.data, list(study.recipe.arms), chosen)}
    return replace(study, data=data, recipe=_checked(data, study.out / "recipe.yaml", study.folders))
