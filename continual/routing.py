"""`continual route`: fits a run's router on prompts that its own models write, and measures it on real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from continual.chat import Chat
from continual.errors import ContinualError
from continual.inference import run_recipe, taught
from continual.model import load_adapter, load_model, load_tokenizer, max_positions
from continual.ownwords import own_words
from continual.problems import did_you_mean
from continual.recipe import Recipe
from continual.rehearsal_settings import Rehearsal
from continual.rehearse.cues import Cues
from continual.rehearse.frame import Frame
from continual.rehearse.shape import Shape
from continual.rehearse.teacher import Newest, Specialists, Teachers
from continual.rehearsing import model_writer, shapes_of
from continual.route import BASE, FOLDER, Router
from continual.runs import Run, write_json
from continual.seeds import derive
from continual.task import find_task

if TYPE_CHECKING:
    from rich.console import Console

WRITTEN = "written"
"""Under the router's folder: what it was fitted on."""
REPORT = "report.json"
Split = Literal["dev", "test"]


@dataclass(frozen=True)
class Source:
    """Who writes the prompts of a run's specialists."""

    arm: str
    rehearsal: Rehearsal
    model: Path
    """A folder with an adapter."""
    teachers: Teachers
    """Whose weights write each task."""
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Checked:
    """How the router does on prompts of one task that it has not seen."""

    prompts: int
    right: float
    """The share for which its specialist is nearest, sure or not."""
    sure: float
    right_when_sure: float | None
    picked: dict[str, int]
    """How often each name was picked; unsure ones are under `unsure`."""


def route(
    run_dir: Path,
    samples: int,
    unsure: str,
    seed: int | None,
    split: str,
    limit: int | None,
    data_root: Path | None,
    folders: Sequence[Path],
    console: Console,
    trust_remote_code: bool = False,
) -> None:
    """Fit a run's router, save it, and show how it does.

    Args:
        split: `test`, `dev`, or `none` to measure nothing, which needs no data.

    Raises:
        ContinualError: it cannot be fitted, or the data to measure on cannot be had; the router is saved then.
    """
    if split not in ("test", "dev", "none"):
        raise ContinualError(f"--split {split}: should be test, dev or none")
    router = fit(run_dir, samples, None if unsure == BASE else unsure, seed, console, trust_remote_code)
    console.print(f"  [dim]of their own prompts, each held out in turn, {router.held_out:.1%} are told right[/dim]")
    if split != "none":
        of: Split = "test" if split == "test" else "dev"
        found = check(router, of, limit or run_recipe(run_dir).evaluate.limit, data_root, folders)
        save_report(run_dir, router, of, found)
        show(router, of, found, console)
    console.print(f"next   continual ask {run_dir} PROMPT --adapter auto", highlight=False, soft_wrap=True)


def fit(
    run_dir: Path,
    samples: int,
    unsure: str | None,
    seed: int | None,
    console: Console,
    trust_remote_code: bool = False,
) -> Router:
    """Fit and save the router of a run.

    Args:
        samples: prompts of each specialist, written by itself, or by the arm that rehearses. Already written ones are
            used again.
        unsure: who answers where no specialist is sure; None: the base model.
        seed: whose specialists; None: those of the recipe's first seed.

    Raises:
        ContinualError: there are no specialists, nobody writes, or there is no model of the name `unsure`.
    """
    recipe, names = run_recipe(run_dir, trust_remote_code), taught(run_dir)
    if unsure is not None and unsure not in names:
        raise ContinualError(
            f"--unsure {unsure}: no such model{did_you_mean(unsure, names)}; there is {', '.join(names)}"
        )
    folder = specialists_of(run_dir, recipe, seed)
    paths = [folder / "specialists" / task for task in recipe.tasks]
    adapters = {path.name: path for path in paths if path.is_dir()}
    called = {task: next(name for name, one in names.items() if one == path) for task, path in adapters.items()}
    prompts = written_prompts(run_dir, recipe, source_of(run_dir, recipe, folder), list(adapters), samples, console)
    router = Router.fit({called[task]: own for task, own in prompts.items()}, unsure=unsure)
    router.save(run_dir / FOLDER)
    return router


def specialists_of(run_dir: Path, recipe: Recipe, seed: int | None) -> Path:
    """The run of the first arm that taught specialists.

    Raises:
        ContinualError: there is none.
    """
    wanted = recipe.seeds[0] if seed is None else seed
    arms = [name for name, arm in recipe.arms.items() if arm.teach == "specialists"]
    for folder in Run(run_dir).runs():
        of_seed = folder.name == f"seed{wanted}" or folder.name.startswith(f"seed{wanted}-")
        if folder.parent.name in arms[:1] and of_seed and (folder / "specialists").is_dir():
            return folder
    raise ContinualError(f"{run_dir}: there are no specialists of seed {wanted} (an arm with teach: specialists)")


def source_of(run_dir: Path, recipe: Recipe, specialists: Path) -> Source:
    """Who writes: the specialists where they learned to, else the first arm that rehearses in its own words.

    Raises:
        ContinualError: nobody does.
    """
    arm = specialists.parent.name
    own = recipe.arms[arm].rehearsal
    if own is not None:
        first = next(path for path in sorted((specialists / "specialists").iterdir()) if path.name in recipe.tasks)
        return Source(arm, own, first, Specialists(specialists, {}), {})
    names = taught(run_dir)
    for other, settings in recipe.arms.items():
        rehearsal, path = settings.rehearsal, names.get(other)
        writes = settings.teach == "sequential" and rehearsal is not None and rehearsal.writer == "model"
        if writes and rehearsal is not None and path is not None and recipe.stream is None:
            return Source(other, rehearsal, path, Newest(), shapes_of(path))
    raise ContinualError(
        f"{run_dir}: the router learns from prompts that the run's models write, and none of them can; give the arm "
        f"'{arm}' `rehearsal: {{}}`, or add an arm that rehearses"
    )


def written_prompts(
    run_dir: Path, recipe: Recipe, source: Source, tasks: Sequence[str], samples: int, console: Console
) -> dict[str, list[str]]:
    """What users would ask, as the models of a run remember it, by task."""
    chat = Chat(load_tokenizer(recipe.origin), recipe.roles)
    room = max_positions(recipe.origin)
    manifest = Run(run_dir).manifest()
    labels = {task: tuple(manifest["labels"][task]) for task in tasks}
    known = manifest.get("remembered", {})  # older runs have none
    rehearsal = source.rehearsal.model_copy(
        update={
            "writer": "specialist",
            "relabel": None,
            "checks": tuple(c for c in source.rehearsal.checks if c in CHECKS),
        }
    )
    writer = model_writer(
        rehearsal,
        chat,
        Cues(rehearsal.cue, {task: number for number, task in enumerate(tasks)}, labels).texts,
        labels,
        {task: Frame(known[task]["before"], known[task]["after"]) for task in tasks if task in known},
        min(room, recipe.training.max_length),
        recipe.evaluate.batch_tokens,
        source.teachers,
    )
    model = load_model(recipe.origin, recipe.weights_dtype)
    model = load_adapter(model, source.model, trainable=True)
    wanted = dict.fromkeys(tasks, samples)
    folder = run_dir / FOLDER / WRITTEN / f"{source.arm}-{source.model.parent.parent.name}-{samples}"
    written = own_words(model, writer, wanted, derive(0, "router"), folder, source.shapes)
    found = {}
    for task, own in written.items():
        found[task] = [s.messages[-2].content for s in own if s.reason is None and s.messages is not None]
        console.print(f"  [dim]{escape(source.arm)} wrote {len(found[task])} prompts of {escape(task)}[/dim]")
    return found


CHECKS = ("eos", "parses", "non_empty", "wrong_task", "duplicate")
"""What a prompt must pass; whether the answer is right does not matter here."""


def check(
    router: Router, split: Split, limit: int | None, data_root: Path | None, folders: Sequence[Path]
) -> dict[str, Checked]:
    """What the router picks for real prompts of each task.

    Raises:
        ContinualError: the data of a task cannot be had.
    """
    found = {}
    for name in router.names:
        rows = find_task(name.partition("/")[0], folders).samples(split, data_root=data_root, limit=limit)
        choices = [router.pick(row.prompt[-1].content) for row in rows]
        nearest = [next(iter(choice.scores)) == name for choice in choices]
        sure = [right for right, choice in zip(nearest, choices, strict=True) if choice.sure]
        picked = [next(iter(choice.scores)) if choice.sure else "unsure" for choice in choices]
        found[name] = Checked(
            prompts=len(rows),
            right=sum(nearest) / len(rows),
            sure=len(sure) / len(rows),
            right_when_sure=sum(sure) / len(sure) if sure else None,
            picked={one: picked.count(one) for one in (*router.names, "unsure") if one in picked},
        )
    return found


def save_report(run_dir: Path, router: Router, split: Split, found: Mapping[str, Checked]) -> None:
    """Write what was measured beside the router."""
    told: dict[str, Any] = {"schema": 1, "split": split, "held_out": router.held_out, "unsure": router.unsure or BASE}
    tasks = {
        name: {**asdict(one), "threshold": float(router.thresholds[n])} for n, (name, one) in enumerate(found.items())
    }
    write_json(run_dir / FOLDER / REPORT, {**told, "tasks": tasks})


def show(router: Router, split: Split, found: Mapping[str, Checked], console: Console) -> None:
    """Print accuracy per task, and the confusion table."""
    from rich.table import Table
    from rich.text import Text

    from continual.report.numbers import percent

    table = Table(title=f"which specialist is picked, {split} prompts, in %", title_justify="left")
    table.add_column("prompts of")
    for head in ("prompts", "right", "sure", "right when sure"):
        table.add_column(head, justify="right")
    for name, one in found.items():
        shares = (percent(one.right), percent(one.sure), percent(one.right_when_sure))
        table.add_row(Text(name), str(one.prompts), *shares)
    every = sum(one.prompts for one in found.values())
    right, sure = (sum(getattr(o, key) * o.prompts for o in found.values()) / every for key in ("right", "sure"))
    fine = (
        sum((o.right_when_sure or 0) * o.sure * o.prompts for o in found.values()) / (sure * every) if sure else None
    )
    table.add_row("all", str(every), percent(right), percent(sure), percent(fine), style="bold")
    console.print(table)
    names = list(found)
    confused = Table(title="prompts of (rows) go to (columns); unsure ones to " + (router.unsure or BASE))
    confused.add_column("")
    for name in (*names, "unsure"):
        confused.add_column(Text(name), justify="right")
    for name in names:
        confused.add_row(Text(name), *(str(found[name].picked.get(one, "")) for one in (*names, "unsure")))
    console.print(confused)
