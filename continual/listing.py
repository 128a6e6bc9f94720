"""What there is to run: tasks, recipes, runs, methods and merges, found without loading any model."""

import json
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

from continual import catalogue, yamlfile
from continual.errors import ContinualError
from continual.merges import MERGES
from continual.problems import did_you_mean
from continual.recipe import find_recipe, load_recipe, shipped_recipes, task_folders
from continual.runs import Run

if TYPE_CHECKING:
    from rich.console import Console

    from continual.task import Task

RUNS = Path("runs")

LOOKED_AT = 100
"""Rows of each split that `validate` renders."""

METHODS = {
    "finetune": ("teach: sequential", "task after task, no protection: the lower bound"),
    "rehearsal": (
        "rehearsal: {ratio: 0.2}",
        "the model writes samples of earlier tasks and learns them again",
    ),
    "lamol": ("rehearsal: {preset: lamol}", "the same with the mechanics of the paper (arXiv 1909.03329)"),
    "base rehearsal": (
        "rehearsal: {rehearse_base: true}",
        "what the untaught model could do is rehearsed too, in its own words (after Magpie, arXiv 2406.08464)",
    ),
    "real replay": (
        "rehearsal: {writer: real}",
        "as many stored real rows, distilled and other ones in each epoch, like what a model writes: the bound",
    ),
    "plain replay": (
        "rehearsal: {writer: real, distill: null, fresh: false}",
        "stored real rows as the field replays them: learned plainly, the same in every epoch",
    ),
    "spaced reviews": (
        "rehearsal: {schedule: spaced}",
        "what is rehearsed comes in reviews further and further apart, by how far the model moves (arXiv 2601.03938)",
    ),
    "specialists": ("teach: specialists", "one adapter for each task, from the untaught base"),
    "merge": ("teach: merge", "the specialists of another arm merged into one adapter, by `method`"),
    "distill": ("teach: distill", "one adapter that learns what the specialists write, from their distributions"),
    "multitask": ("teach: multitask", "all tasks at once: the upper bound"),
}
"""Ways of teaching: what an arm of a recipe says, and what it does."""


def show(kind: str, folders: Sequence[Path], console: "Console") -> None:
    """Print everything of one kind: ``tasks``, ``recipes``, ``runs``, ``methods`` or ``merges``."""
    rows = {"tasks": _tasks, "recipes": _recipes, "runs": _runs, "methods": _methods, "merges": _merges}[kind]
    _print(kind, rows(folders), console)


def find(name: str, folders: Sequence[Path] = ()) -> "Path | Task":
    """A recipe's file or a task, by name or by file.

    Raises:
        ContinualError: there is neither.
    """
    from continual.task import list_tasks, read_task

    path = Path(name)
    if path.is_file():
        return read_task(path) if _kind(yamlfile.load(path)) == "task" else path
    recipes = {file.stem: file for file in shipped_recipes()}
    if name in recipes:
        return recipes[name]
    tasks = {task.task: task for task in list_tasks(folders)}
    if name in tasks:
        return tasks[name]
    raise ContinualError(f"no recipe or task is called '{name}'{did_you_mean(name, [*recipes, *tasks])}")


def find_run(name: str) -> Path:
    """The folder of a run, by path or by its name under ``runs/``.

    Raises:
        ContinualError: there is no such run.
    """
    for folder in (Path(name), RUNS / name):
        if Run(folder).exists:
            return folder
    near = did_you_mean(name, [folder.name for folder in _run_folders()])
    raise ContinualError(f"no run in {name} or {RUNS / name} (no manifest.json there){near}")


def validate(name: str, folders: Sequence[Path] = (), data_root: Path | None = None) -> str:
    """Check a recipe, a pretraining recipe or a task; say in a few words what it is.

    Of a task the first rows are looked at too, where they are on this machine.

    Raises:
        ContinualError: with every mistake.
    """
    path = find_recipe(name)
    kind = _kind(yamlfile.load(path))
    if kind == "task":
        from continual.task import read_task

        task = read_task(path)
        looked = task.check_first_rows(LOOKED_AT, data_root)
        rows = "" if looked else "; its rows are on the Hub and were not looked at"
        return f"task {task.task} ({task.output_type}, {task.metric}){rows}"
    if kind == "pretrain":
        from continual.pretrain import load_pretrain_recipe

        load_pretrain_recipe(path)
        return "pretraining recipe"
    recipe = load_recipe(str(path), folders=task_folders(path, folders))
    return f"recipe with {_count(recipe.curriculum, 'task')} and {_count(recipe.arms, 'arm')}"


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}" + ("" if len(things) == 1 else "s")


def _kind(document: yamlfile.Document) -> str:
    if isinstance(document.data, dict):
        for key in ("pretrain", "task"):
            if key in document.data:
                return key
    return "recipe"


Row = tuple[str, str, str]


def _tasks(folders: Sequence[Path]) -> Iterable[Row]:
    from continual.task import list_tasks

    for task in list_tasks(folders):
        yield task.family, task.task, task.summary


def _recipes(folders: Sequence[Path]) -> Iterable[Row]:
    for path in shipped_recipes():
        with path.open(encoding="utf-8") as lines:
            comment = next((line for line in lines if line.startswith("#")), "")
        yield "", path.stem, comment.lstrip("# ").rstrip()


def _runs(folders: Sequence[Path]) -> Iterable[Row]:
    for folder in _run_folders():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        state = manifest["state"]
        if state == "running" and not Run(folder).being_carried_out:
            state = "stopped"  # its process is gone, without a chance to say so
        yield "", str(folder), f"{state}, begun {manifest['created']}"


def _methods(folders: Sequence[Path]) -> Iterable[Row]:
    for name, (setting, summary) in METHODS.items():
        yield setting, name, summary
    for name, method in catalogue.METHODS.items():
        yield f"method: {name}", name, f"{method.summary} ({method.source})"


def _merges(folders: Sequence[Path]) -> Iterable[Row]:
    for name, known in MERGES.items():
        yield f"--method {name}", name, f"{known.summary} ({known.source})"


def _run_folders() -> list[Path]:
    return sorted(path for path in RUNS.glob("*") if Run(path).exists)


def _print(title: str, rows: Iterable[Row], console: "Console") -> None:
    """A table for people; tab-separated lines where the output goes to a file or a pipe."""
    rows = list(rows)
    if not console.is_terminal:
        for group, name, summary in rows:
            print("\t".join((title, group, name, summary)))
        return
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    last = None
    for group, name, summary in rows:
        table.add_row("" if group == last else f"[dim]{group}[/dim]", f"[bold]{name}[/bold]", summary)
        last = group
    if not rows:
        table.add_row("", "none here", "")
    console.print(table)
    console.print()
