"""Carry out a recipe: every arm, seed and sweep point, into one run directory; or go on with one."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from continual import lineage, portable, preflight, threads
from continual.arms import check_plugins, teach_arm
from continual.errors import ContinualError
from continual.general import Measured
from continual.material import Material, gather
from continual.plan import PlannedRun, expand
from continual.progress import Teller
from continual.recipe import Recipe
from continual.record import Record
from continual.runs import Run, read_json, remove_folder, write_json, write_text
from continual.task import Task, TaskIndex

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("torch", "transformers", "peft", "avalanche-lib", "accelerate", "datasets", "tokenizers", "numpy")


def run(
    recipe: Recipe, *, data_root: Path | None, task_folders: Sequence[Path], fresh: bool, console: Console
) -> Path:
    """Teach every arm, measure it, and write the report.

    Args:
        data_root: folder of local data, see `Task.samples`.
        task_folders: searched for tasks before the shipped ones.
        fresh: throw an older run in the same directory away.

    Returns:
        The run directory.

    Raises:
        ContinualError: the directory holds another recipe's run, data or model cannot be had, the disk is
            full.
    """
    run = Run(Path(recipe.output_dir))
    _check_place(run, fresh)
    planned = expand(recipe)
    index = TaskIndex(task_folders)
    tasks = index.find_all(recipe.measured)
    old = None if fresh or not run.exists else _earlier(run, recipe)
    teller = Teller(console)
    # What cannot be had is noticed before anything is written.
    for plan in planned:
        check_plugins(plan.recipe)
    materials = _Materials(tasks, index, data_root)
    first = materials.of(planned[0])
    notices: Sequence[str] = ()
    if old is not None:
        check_data(run, old, first.fingerprints)
    else:
        notices = preflight.check(plan.recipe for plan in planned)
    for notice in (notice for task in tasks.values() for notice in task.notices(data_root)):
        teller.say(f"[yellow]mind:[/yellow] {escape(notice)}")
    with _writing(run.path), run.locked():
        if fresh:
            run.remove()
        elif old is not None:
            _drop_joint_runs(run, recipe)
        general = index.find_all(recipe.evaluate.general)
        manifest = _begin(run, recipe, tasks, general, first, old, teller)
        if recipe.adapter is not None:
            notices = [*portable.notices(recipe.adapter.model_dump()), *notices]
        for notice in notices:
            teller.say(f"[yellow]mind:[/yellow] {escape(notice)}")
        for plan in planned:
            record = _record(run, plan, recipe)
            if any(record.missing(row) for row in range(_rows(record))):
                count = f"seed {plan.seed}" + "".join(f", {k}={v}" for k, v in plan.set.items())
                teller.say(f"[bold]{escape(plan.arm)}[/bold] [dim]({escape(count)})[/dim]")
                material = materials.of(plan)
                _base_row(material, plan.recipe, record, run.path / "base", teller)
                teach_arm(plan.recipe, plan.arm, material, record, teller)
                lineage.describe(run.path)
        _finish(run, manifest, console)
    return run.path


class _Materials:
    """The newest `Material`, gathered anew only where seed or sweep point changes."""

    def __init__(self, tasks: Mapping[str, Task], index: TaskIndex, data_root: Path | None) -> None:
        self.tasks, self.index, self.data_root = tasks, index, data_root
        self._key: Any = None

    def of(self, plan: PlannedRun) -> Material:
        key = (plan.seed, plan.recipe)
        if self._key is None or self._key != key:
            general = self.index.find_all(plan.recipe.evaluate.general)
            self._key, self._material = key, gather(plan.recipe, self.tasks, plan.seed, self.data_root, general)
        return self._material


def _rows(record: Record) -> int:
    return len(record.steps) + 1 if record.teach == "sequential" else 2


def _record(run: Run, plan: PlannedRun, recipe: Recipe) -> Record:
    teach, stream = plan.recipe.arms[plan.arm].teach, plan.recipe.stream
    record = Record(
        folder=run.arm(plan.arm, plan.run_name),
        arm=plan.arm,
        teach=teach,
        seed=plan.seed,
        set={key: value for key, value in plan.set.items() if key != "curriculum"},
        order=list(plan.order),
        tasks=list(recipe.measured),
        whole=recipe.evaluate.after == "every_task",
        chunks=stream.chunks if stream is not None and teach == "sequential" else None,
    )
    if record.teach == "multitask" or plan.recipe.arms[plan.arm].plugin is not None:
        record.cost.real_rows_kept = None
    if record.path.exists():
        record.load()
    return record


def _base_row(material: Material, recipe: Recipe, record: Record, folder: Path, teller: Teller) -> None:
    """Row 0 of R, measured once for all arms, seeds and points that ask the same of the same base."""
    if record.R and not record.missing(0):
        return
    if not record.general:
        record.general = [_base_general(material, recipe, folder)]
    asked = [recipe.model_name_or_path, recipe.dtype, recipe.roles, recipe.training.max_length]
    asked += [recipe.evaluate.limit, recipe.evaluate.split, *_start(recipe)]
    path = folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]}.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    missing = [task for task in record.tasks if task not in known]
    if missing:
        results = material.examine(material.untaught(), missing)
        known |= {task: {"score": r.score, "ci": r.interval} for task, r in results.items()}
        write_json(path, known)
        shown = "  ".join(f"{task} {result.score:.0%}" for task, result in results.items())
        teller.say(f"  [dim]the untaught base[/dim]  {shown}")
    record.put_base([known[t]["score"] for t in record.tasks], [known[t]["ci"] for t in record.tasks])
    record.save()


def _start(recipe: Recipe) -> list[str]:
    """What else an untaught model is known by."""
    told = {key: value for key, value in recipe.origin.identity.items() if key != "name"}
    return [*([recipe.start] if recipe.start is not None else []), *([json.dumps(told)] if told else [])]


def _base_general(material: Material, recipe: Recipe, folder: Path) -> Measured | None:
    """General ability of the untaught base, measured once like row 0."""
    asked = [recipe.model_name_or_path, recipe.dtype, recipe.roles, recipe.training.max_length]
    asked += [recipe.evaluate.model_dump(mode="json", exclude={"batch_tokens"}), *_start(recipe)]
    path = folder / f"general-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]}.json"
    if path.exists():
        known: Measured = read_json(path)
        return known
    measured = material.general_ability(material.untaught()) if material.asks_general else None
    if measured is not None:
        write_json(path, measured)
    return measured


def _begin(
    run: Run,
    recipe: Recipe,
    tasks: Mapping[str, Task],
    general: Mapping[str, Task],
    material: Material,
    old: dict[str, Any] | None,
    teller: Teller,
) -> dict[str, Any]:
    """Write recipe and manifest; on a resume, put back what decides the last digits."""
    import torch
    import yaml

    versions = {package: version(package) for package in PACKAGES}
    if old is None:
        notice = threads.fit_to_load()
        if notice is not None:
            teller.say(f"[dim]{escape(notice)}[/dim]")
    else:
        torch.set_num_threads(old["threads"])
        for package, installed in versions.items():
            if old["versions"].get(package) != installed:
                teller.say(
                    f"[yellow]mind:[/yellow] this run began with {package} {old['versions'].get(package)}, "
                    f"now it is {installed}: its last digits may differ"
                )
    knowledge = material.knowledge
    manifest = {
        "schema": 1,
        "name": recipe.name,
        "created": old["created"] if old is not None else datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe_hash": _hash(recipe.resolved()),
        "base": recipe.origin.identity,
        "versions": versions,
        "form": material.chat.form,
        "threads": torch.get_num_threads(),
        "metrics": {name: task.metric for name, task in {**tasks, **general}.items()},
        "labels": {
            **{name: known.labels for name, known in knowledge.items()},
            **{name: task.labels for name, task in tasks.items()},
        },
        "data": material.fingerprints,
        "remembered": {name: known.model_dump(mode="json") for name, known in knowledge.items()},
        "taught_from": old.get("taught_from") if old is not None else None,
        "state": "running",
    }
    write_text(run.path / "recipe.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True))
    run.write_manifest(manifest)
    return manifest


def _finish(run: Run, manifest: dict[str, Any], console: Console) -> None:
    from continual import report
    from continual.publish import publish

    collected = publish(run.path)
    run.write_manifest({**manifest, "state": "finished"})
    report.tables(collected, console)
    report.last_words(collected, run.path, console)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _earlier(run: Run, recipe: Recipe) -> dict[str, Any]:
    """The manifest of the run that is there, if this recipe may go on with it.

    Raises:
        ContinualError: it is another recipe's; with what differs.
    """
    import yaml

    # Through Recipe, for an older run's file does not name the settings that have come since.
    before = Recipe.model_validate(yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))).resolved()
    now = recipe.resolved()
    # A longer stream would be cut at other places.
    grown = before["curriculum"] == now["curriculum"][: len(before["curriculum"])] and now["stream"] is None
    differing = [
        (key, was, new) for key, was, new in differences(before, now) if not (grown and key.startswith("curriculum"))
    ]
    if differing:
        raise ContinualError(
            f"{run.path}: holds a run of another recipe; use --fresh to start over, or another output_dir",
            *(f"  {key}: was {was}, now {new}" for key, was, new in differing),
        )
    return run.manifest()


def check_data(run: Run, old: dict[str, Any], fingerprints: dict[str, str]) -> None:
    """See that a run that is taken up again reads the rows that it began with.

    Raises:
        ContinualError: it does not.
    """
    other = [task for task, known in old["data"].items() if fingerprints[task] != known]
    if other:
        raise ContinualError(
            f"{run.path}: the rows of {', '.join(other)} are not those that this run began with (was it another "
            "--data-root?); use --fresh to start over, or another output_dir"
        )


def _check_place(run: Run, fresh: bool) -> None:
    """See that a run may be written here: into a new or empty folder, or over a run.

    Raises:
        ContinualError: the folder holds something else, which nobody asked to be mixed with a run or thrown away.
    """
    if run.path.exists() and not run.exists and not run.begun:
        held = sorted(p.name for p in run.path.iterdir())[:3] if run.path.is_dir() else ["a file"]
        if held:
            raise ContinualError(f"output_dir: {run.path} holds no run, but {', '.join(held)}; choose another folder")


def _drop_joint_runs(run: Run, recipe: Recipe) -> None:
    """What was taught all at once cannot grow by a task; in a grown curriculum it is taught anew."""
    for folder in run.runs():
        told = read_json(folder / "run.json")
        if told["teach"] in ("multitask", "merge", "distill") and len(told["tasks"]) < len(recipe.tasks):
            remove_folder(folder)


def differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Where two plain structures differ: (dotted key, old value, new value)."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in {**before, **now}:
            inner = f"{key}.{name}" if key else str(name)
            found += differences(before.get(name), now.get(name), inner)
        return found
    return [] if before == now else [(key, before, now)]


@contextmanager
def _writing(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ContinualError(f"{path}: cannot be written to ({error.strerror})") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ContinualError(
            f"{path}: the disk is full. What was finished is safe; make room and run the same command again"
        ) from error
