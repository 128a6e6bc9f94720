"""What a recipe will do: its runs, and for ``--dry-run`` their data, cost and files."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual.errors import ContinualError
from continual.overrides import concerned, run_name
from continual.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from continual.estimate import ArmCost, TaskSize


TAUGHT = {
    "sequential": "in order",
    "specialists": "apart",
    "multitask": "together",
    "merge": "merged",
    "distill": "distilled",
}


@dataclass(frozen=True)
class PlannedRun:
    """One arm, taught once: with one seed, at one point of the sweep."""

    arm: str
    seed: int
    set: Mapping[str, Any]
    """Swept keys and their values here; empty without a sweep."""
    order: tuple[str, ...]
    """The tasks as they are taught."""
    run_name: str
    """Folder under ``arms/<arm>/``, see `overrides.run_name`."""
    recipe: Recipe
    """The recipe with `set` applied."""


def expand(recipe: Recipe) -> list[PlannedRun]:
    """Every run of a recipe: arms × seeds × points of the sweep, arm by arm.

    A swept key that belongs to one arm (``arms.rehearsal.…``) varies that arm only, and orders of the curriculum
    only arms that are taught in sequence.

    Raises:
        ContinualError: a point of the sweep is no valid recipe.
    """
    runs = []
    for arm in recipe.arms:
        for settings in points(recipe, arm):
            at_point = _at(recipe, settings)
            runs += [
                PlannedRun(arm, seed, settings, at_point.tasks, run_name(seed, settings), at_point)
                for seed in recipe.seeds
            ]
    return runs


def points(recipe: Recipe, arm: str) -> list[dict[str, Any]]:
    """The points of the sweep for one arm: every combination of the values of the keys that concern it."""
    keys = concerned(recipe.sweep, arm, recipe.arms[arm].teach)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(recipe.sweep[k] for k in keys))]


def describe(
    recipe: Recipe, data_root: Path | None, folders: Sequence[Path], console: "Console", typed: str = ""
) -> None:
    """Print the plan: tasks, arms with their cost, files, and what to mind. Reads data, loads no weights.

    Args:
        recipe: what would be run.
        data_root: local folder of data, see `continual.task`.
        folders: further folders of tasks.
        console: where to print.
        typed: what the user would type to run it; shown at the end.

    Raises:
        ContinualError: data are missing, or the model's configuration or tokenizer cannot be loaded.
    """
    from rich.markup import escape

    from continual import estimate

    runs = expand(recipe)
    base = estimate.look_at_model(recipe)
    sizes = estimate.look_at_tasks(recipe, base, data_root, folders)
    speed = estimate.machine_speed()

    trained = f"{base.adapter_parameters / 1e6:,.2f}M in an adapter" if recipe.adapter else "all trained"
    model = f"{escape(base.name)}, {base.parameters / 1e6:,.1f}M parameters, {trained}"
    console.print(f"[bold]{escape(recipe.name)}[/bold]: {model}")
    console.print(_task_table([sizes[task] for task in recipe.tasks]))
    if recipe.stream is not None:
        rows = sum(sizes[task].train for task in recipe.tasks)
        chunks = recipe.stream.chunks
        console.print(f"not announced: {rows:,} rows in {chunks} chunks of about {rows / chunks:,.0f}", soft_wrap=True)
    if recipe.evaluate.general:
        shown = ", ".join(f"{task} ({sizes[task].test:,} test rows)" for task in recipe.evaluate.general)
        console.print(f"examined beside them, never taught: {escape(shown)}", soft_wrap=True)
    costs: dict[str, list[ArmCost]] = {arm: [] for arm in recipe.arms}
    for run in runs:
        costs[run.arm].append(estimate.cost(run.recipe, run.arm, sizes, base))
    console.print(_arm_table(recipe, runs, costs, base.parameters, speed))
    console.print("[dim]steps: of the optimizer; written: samples to rehearse; answers: to test rows[/dim]")
    untaught = estimate.examination(sizes.values())
    total = untaught.seconds(base.parameters, speed) + sum(
        cost.seconds(base.parameters, speed) for each in costs.values() for cost in each
    )
    console.print(
        f"with {untaught.answers:,} answers of the untaught base: about {_duration(total)} on this machine "
        f"({speed / 1e9:,.0f} GFLOP/s now), give or take a factor of 2",
        soft_wrap=True,
    )
    _print_files(recipe, runs, base, console)
    for warning in estimate.warnings(recipe, sizes, base):
        console.print(f"[yellow]mind:[/yellow] {escape(warning)}")
    if typed:
        console.print(f"nothing was trained; to run it: {typed}", highlight=False, markup=False, soft_wrap=True)


def _at(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    if not settings:
        return recipe
    try:
        return recipe.with_set(settings)
    except ContinualError as error:
        shown = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise ContinualError(*(f"sweep: at {shown}: {line}" for line in error.lines)) from None


def _task_table(sizes: "Sequence[TaskSize] | Any") -> Any:
    from rich.table import Table

    table = Table(title="tasks, in the order taught", title_justify="left")
    table.add_column("task")
    for heading in ("train rows", "test rows", "tokens a row", "of them answer"):
        table.add_column(heading, justify="right")
    for size in sizes:
        used = f"{size.train:,}" + (f" of {size.train_available:,}" if size.train < size.train_available else "")
        tested = f"{size.test:,}" + (f" of {size.test_available:,}" if size.test < size.test_available else "")
        table.add_row(size.task, used, tested, f"{size.tokens:,.0f}", f"{size.answer_tokens:,.0f}")
    return table


def _arm_table(
    recipe: Recipe,
    runs: Sequence[PlannedRun],
    costs: "Mapping[str, Sequence[ArmCost]]",
    parameters: int,
    speed: float,
) -> Any:
    from rich.table import Table

    table = Table(title="arms (each number is for one run)", title_justify="left")
    table.add_column("arm", no_wrap=True)
    table.add_column("taught", no_wrap=True)
    for heading in ("runs", "steps", "tokens", "written", "answers", "minutes"):
        table.add_column(heading, justify="right")
    for arm, each in costs.items():
        settings = recipe.arms[arm]
        rehearses = settings.rehearsal is not None and settings.teach == "sequential"
        how = "rehearse" if rehearses else TAUGHT[settings.teach]
        table.add_row(
            arm,
            how,
            str(sum(run.arm == arm for run in runs)),
            _range([cost.steps for cost in each]),
            _range([cost.train_tokens for cost in each]),
            _range([cost.written for cost in each]),
            _range([cost.answers for cost in each]),
            _range([cost.seconds(parameters, speed) / 60 for cost in each], digits=1),
        )
    return table


def _print_files(recipe: Recipe, runs: Sequence[PlannedRun], base: Any, console: "Console") -> None:
    out = Path(recipe.output_dir)
    console.print(f"it writes to {out}/", highlight=False)
    console.print("  manifest.json recipe.yaml results.json report.html", highlight=False)
    for arm in recipe.arms:
        names = [run.run_name for run in runs if run.arm == arm]
        shown = " ".join(names[:4]) + (f" … ({len(names)} in all)" if len(names) > 4 else "")
        console.print(f"  arms/{arm}/ {shown}", highlight=False)
    stored = base.stored_bytes(recipe)
    models = sum(_models(run) for run in runs)
    kind = "adapters" if recipe.adapter else "models"
    console.print(f"  {models} {kind} of {stored / 1e6:,.1f} MB: {models * stored / 1e6:,.0f} MB", highlight=False)


def _models(run: PlannedRun) -> int:
    """How many models or adapters a run leaves behind."""
    teach = run.recipe.arms[run.arm].teach
    if teach == "sequential" and run.recipe.keep == "all":
        return run.recipe.stream.chunks if run.recipe.stream is not None else len(run.order)
    return len(run.order) if teach == "specialists" else 1


def _range(values: Sequence[float], digits: int = 0) -> str:
    low, high = _number(min(values), digits), _number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def _number(value: float, digits: int) -> str:
    if value >= 1e6:
        return f"{value / 1e6:,.1f}M"
    return f"{value / 1e3:.0f}k" if value >= 1e5 else f"{value:,.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
