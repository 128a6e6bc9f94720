"""One more skill, later: for a finished run, or for a model that somebody else has taught and whose data is gone.

What it learned before is rehearsed by the model alone. A run goes on as one whose curriculum has grown, in a directory
of its own, with nothing but its newest state; of a task whose data is gone the run's manifest tells enough to rehearse
it. Of a model from elsewhere nothing is known: it rehearses what it says by itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from continual import lineage, losscurve
from continual import overrides as overriding
from continual.errors import ContinualError
from continual.inference import run_recipe
from continual.listing import find_run
from continual.problems import did_you_mean, dotted, problems_of, suggestion
from continual.recipe import Recipe
from continual.runs import Run, read_json, write_folder, write_json, write_text
from continual.settings import CurriculumEntry
from continual.task import find_task, read_task

OF_ENTRY = tuple(name for name in CurriculumEntry.model_fields if name not in ("task", "remembered"))
OF_ARM = ("training", "rehearsal", "method_args", "guard")
LEARNED_WITH = ("cue", "when", "fresh", "rehearse_base", "base_samples", "preset", "schedule", "day_steps", "distill")
"""Settings of rehearsal that the earlier tasks were learned with: no other cue calls for them, no other state fits."""

ADAPTER_LEARNING_RATE, FULL_LEARNING_RATE = 2e-4, 1e-5
"""For a model from elsewhere, where nothing else is said."""


@dataclass(frozen=True)
class Lesson:
    """What is about to be taught, and to whom."""

    recipe: Recipe
    folders: list[Path]
    knows: list[str]
    """Tasks that are rehearsed by name; none where the model rehearses in its own words."""
    gone: dict[str, str]
    """Those whose data is not here: task -> why. They are rehearsed, and not measured."""

    @property
    def lines(self) -> list[str]:
        """What is about to happen, for the user."""
        task, (arm,) = self.recipe.tasks[-1], self.recipe.arms.values()
        if arm.rehearsal is None:
            what = "rehearses nothing"
        elif arm.rehearsal.writer == "real":
            what = f"stored rows of {', '.join(self.knows)}"
        elif self.knows:
            what = f"rehearses {', '.join(self.knows)} from the model alone"
        else:
            what = "rehearses in its own words what it could do before"
        lines = [f"learns {task}, and {what}; it goes to {self.recipe.output_dir}"]
        return lines + [f"mind: {name} is rehearsed, but not measured: {why}" for name, why in self.gone.items()]


def plan(
    name: str,
    task: str,
    texts: Sequence[str],
    *,
    arm: str | None = None,
    seed: int | None = None,
    out: Path | None = None,
    data_root: Path | None = None,
    folders: Sequence[Path] = (),
    trust_remote_code: bool = False,
) -> Lesson:
    """Get everything ready to teach one more task: `execute.run` on the recipe then teaches it.

    Args:
        name: a run, or a model: a folder, a name on the Hub, or the folder of a LoRA adapter.
        task: its name, or its file.
        texts: ``key=value``; for a run what differs for the new task, for a model any key of a recipe.
        arm: of the run; the first that is taught in sequence and rehearses if left out.
        seed: of the run; its first if left out.
        out: the new run directory; ``runs/<name>+<task>`` if left out.
        folders: searched for tasks.
        trust_remote_code: run Python code that comes with the model, whatever the run's recipe says.

    Raises:
        ContinualError: there is no such run or model, or it cannot be taught the task.
    """
    searched = list(folders)
    if Path(task).is_file():
        searched = [Path(task).parent, *searched]
        task = read_task(Path(task)).task
    find_task(task, searched)
    changes = overriding.parse(texts)
    source = _find(name)
    if isinstance(source, Path):
        before = run_recipe(source, trust_remote_code)
        return _of_run(source, before, task, changes, arm, seed, out, data_root, searched)
    if arm is not None or seed is not None:
        raise ContinualError(f"{name}: is a model and no run: it has no arms and seeds")
    out = out or _named(Path("runs"), Path(name).name, task, changes)
    if trust_remote_code:
        changes = {"trust_remote_code": True, **changes}
    return Lesson(_of_model(source, task, changes, out), searched, [], {})


def _find(name: str) -> Path | str:
    """The folder of a run, or the name of a model.

    Raises:
        ContinualError: there is neither.
    """
    try:
        return find_run(name)
    except ContinualError as no_run:
        if name.startswith("builtin:") or any((Path(name) / f"{c}config.json").is_file() for c in ("", "adapter_")):
            return name
        from continual.hub import check

        try:
            check(name)
        except ContinualError as no_model:
            raise ContinualError(*no_run.lines, *no_model.lines) from None
        return name


def _named(runs: Path, name: str, task: str, changes: Mapping[str, Any]) -> Path:
    """The directory of the new run; with changes it ends in their hash, as for `continual run`."""
    return runs / (f"{name}+{task}" + (f"-{overriding.short_hash(changes)}" if changes else ""))


def _of_model(name: str, task: str, changes: Mapping[str, Any], out: Path) -> Recipe:
    """An ordinary recipe for a model of which nothing is known."""
    known = Path(name) / "adapter_config.json"
    data: dict[str, Any] = {"model_name_or_path": name, "adapter": {}}
    if known.is_file():
        config = json.loads(known.read_text(encoding="utf-8"))
        if config.get("peft_type") != "LORA":
            raise ContinualError(f"{name}: a {config.get('peft_type')} adapter cannot be taught on; only LoRA can")
        same = {key: config[key] for key in ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")}
        base, targets = config["base_model_name_or_path"], config["target_modules"]
        targets = targets if isinstance(targets, str) else sorted(targets)
        data = {"model_name_or_path": base, "start": name, "adapter": {**same, "target_modules": targets}}
        told = {**lineage.manifest_of(Path(name)), "revision": config.get("revision")}
        data |= {key: told[key] for key in ("revision", "quantization") if told.get(key) is not None}
    full = changes.get("adapter", {}) is None
    data |= {
        "curriculum": [task],
        "training": {"learning_rate": FULL_LEARNING_RATE if full else ADAPTER_LEARNING_RATE},
        "arms": {"rehearsal": {"teach": "sequential", "rehearsal": {"rehearse_base": True}}},
        "output_dir": str(out),
    }
    return _checked(overriding.apply(data, changes))


def _of_run(
    run_dir: Path,
    before: Recipe,
    task: str,
    changes: Mapping[str, Any],
    arm: str | None,
    seed: int | None,
    out: Path | None,
    data_root: Path | None,
    folders: list[Path],
) -> Lesson:
    """A run that goes on: what it has is copied, its curriculum grows by one task."""
    run = Run(run_dir)
    manifest = run.manifest()
    folder = _chosen(run, before, arm, seed)
    told = read_json(folder / "run.json")
    if told["spans"] is not None:
        raise ContinualError(f"{run_dir}: its tasks are not announced; a longer stream would be cut at other places")
    number = max((int(p.name) for p in (folder / "after").glob("*") if p.name.isdigit()), default=0)
    knows = told["order"][:number]
    where = f"{run_dir}: {told['arm']} {folder.name}"
    if not knows:
        raise ContinualError(f"{where} has learned nothing yet, or its models are gone")
    if told.get("stopped_by_guard"):
        raise ContinualError(f"{where} was stopped by its guard; take it back first (continual rollback --to TASK)")
    if task in told["order"]:
        raise ContinualError(f"{where}: '{task}' is one of its tasks already")
    at_point = before.with_set(told["set"]) if told["set"] else before
    gone = {name: why for name in knows if (why := _missing(at_point, name, data_root, folders)) is not None}
    unknown = [name for name in gone if name not in manifest.get("remembered", {})]
    if gone and at_point.arms[told["arm"]].stores_rows:
        raise ContinualError(
            f"{where} replays stored rows, and those of {', '.join(gone)} are gone; take another --arm"
        )
    if unknown:
        raise ContinualError(*(f"{name}: cannot be rehearsed without its data: {gone[name]}" for name in unknown))
    out = out or _named(run_dir.parent, run_dir.resolve().name, task, changes)
    taken_back = [check["after"] for check in told.get("guard", []) if check["action"] == "rollback"]
    if taken_back and changes.get("guard", ...) is None:
        raise ContinualError(f"guard: cannot be null; {where} had {', '.join(taken_back)} taken back by its guard")
    recipe = _grown(at_point, told, task, changes, {name: manifest["remembered"][name] for name in gone}, out)
    if not Run(out).exists:
        _begin(run_dir, folder, out, recipe, number, list(gone))
    return Lesson(recipe, folders, [name for name in knows if name not in taken_back], gone)


def _chosen(run: Run, recipe: Recipe, arm: str | None, seed: int | None) -> Path:
    """The folder of the run that goes on."""
    known = [name for name, each in recipe.arms.items() if each.teach == "sequential"]
    if arm is None:
        arm = next((name for name in known if recipe.arms[name].rehearsal is not None), None)
        if arm is None:
            there = f"; --arm takes {', '.join(known)}" if known else ""
            raise ContinualError(f"{run.path}: no arm rehearses, so that what it knows would be lost{there}")
    if arm not in known:
        raise ContinualError(
            f"{run.path}: '{arm}' is no arm that is taught in sequence{did_you_mean(arm, known)}; "
            f"there is {', '.join(known) or 'none'}"
        )
    seed = recipe.seeds[0] if seed is None else seed
    found = [folder for folder in run.runs() if folder.parent.name == arm and _seed_of(folder) == seed]
    if not found:
        raise ContinualError(f"{run.path}: {arm} was not taught with seed {seed}; there are {list(recipe.seeds)}")
    return found[0]


def _seed_of(folder: Path) -> int:
    return int(read_json(folder / "run.json")["seed"])


def _missing(recipe: Recipe, name: str, data_root: Path | None, folders: Sequence[Path]) -> str | None:
    """Why the data of a task cannot be had; None if it can."""
    entry = next(entry for entry in recipe.curriculum if entry.task == name)
    if entry.remembered is not None:
        return "it was gone before"
    try:
        task = find_task(name, folders)
        for split in ("train", "dev", "test"):
            task.samples(split, data_root=data_root, limit=1)
    except ContinualError as error:
        return "; ".join(error.lines)
    return None


def _grown(
    recipe: Recipe,
    told: Mapping[str, Any],
    task: str,
    changes: Mapping[str, Any],
    remembered: Mapping[str, Any],
    out: Path,
) -> Recipe:
    """The run's recipe with one arm, one seed, and one task more.

    Raises:
        ContinualError: a change is of something that the earlier tasks were learned or measured with.
    """
    entry = {key: value for key, value in changes.items() if key in OF_ENTRY}
    of_arm = {key: value for key, value in changes.items() if key.split(".")[0] in OF_ARM}
    fixed = [key for key in of_arm if key.startswith("rehearsal.") and key.split(".")[1] in LEARNED_WITH]
    wrong = [f"{key}: the earlier tasks were learned with it; it cannot be changed now" for key in fixed]
    allowed = f"{', '.join(OF_ENTRY)}, and what is below {', '.join(OF_ARM)}"
    wrong += [
        f"{key}: cannot be changed when a run is taught one more task; only {allowed} can"
        f"{suggestion(key.split('.')[-1], None, Recipe)}"
        for key in changes
        if key not in entry and key not in of_arm
    ]
    if wrong:
        raise ContinualError(*wrong)
    data = recipe.resolved()
    entries = {one["task"]: {**one, "remembered": remembered.get(one["task"])} for one in data["curriculum"]}
    data |= {
        "curriculum": [*(entries[name] for name in told["order"] if name in entries), {"task": task, **entry}],
        "arms": {told["arm"]: data["arms"][told["arm"]]},
        "seeds": [told["seed"]],
        "sweep": {},
        "output_dir": str(out),
    }
    return _checked(overriding.apply(data, {f"arms.{told['arm']}.{key}": value for key, value in of_arm.items()}))


def _checked(data: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        wrong = problems_of(error, Recipe, data)
        raise ContinualError(*(f"{dotted(problem.keys)}: {problem.message}" for problem in wrong)) from None


def _begin(run_dir: Path, folder: Path, out: Path, recipe: Recipe, number: int, gone: Sequence[str]) -> None:
    """Make the new run directory, whole or not at all, as if the recipe had grown in the old one.

    Raises:
        ContinualError: something else lies there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ContinualError(f"--out: {out} holds no run, but something else; choose another folder")
    manifest = Run(run_dir).manifest()
    (arm,) = recipe.arms
    resolved = recipe.resolved()

    def fill(there: Path) -> None:
        if (run_dir / "base").is_dir():
            shutil.copytree(run_dir / "base", there / "base")
        new = there / "arms" / arm / f"seed{recipe.seeds[0]}"
        shutil.copytree(folder / "after" / str(number), new / "after" / str(number))
        for texts in ("rehearsed", "guard"):
            if (folder / texts).is_dir():
                shutil.copytree(folder / texts, new / texts)
        if (folder / losscurve.FILE).exists():
            shutil.copy(folder / losscurve.FILE, new / losscurve.FILE)
        order = list(recipe.tasks)
        write_json(new / "run.json", {**read_json(folder / "run.json"), "set": {}, "order": order, "steps": order})
        shutil.copy(folder / "R.csv", new / "R.csv")
        write_text(there / "recipe.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
        write_json(
            there / "manifest.json",
            {
                **manifest,
                "name": recipe.name,
                "recipe_hash": hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16],
                "data": {task: known for task, known in manifest["data"].items() if task not in gone},
                "taught_from": {"run": str(run_dir), "arm": arm, "run_name": folder.name, "after": number},
                "state": "running",
            },
        )

    out.parent.mkdir(parents=True, exist_ok=True)
    write_folder(out, fill)
