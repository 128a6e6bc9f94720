"""The report as one HTML page that opens anywhere, offline, and its pictures as SVG files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from continual import results as results_module
from continual import scant
from continual.card import form_words
from continual.forgetting import FORMULAE
from continual.report import curves, losses, pairs, plots, svg
from continual.report.likeness import FIGURES, Line, lines
from continual.report.numbers import COSTS, figure, from_to, percent, perplexity, points
from continual.report.rehearsed import Batch, batches
from continual.report.svg import Picture
from continual.report.views import Row, View, colours, rows_of, views_of
from continual.report.words import FOLLOWED, ending, headline
from continual.runs import Run, read_json, write_text

TABLE = ("acc", "forgetting", "bwt", "fwt", "learning_acc", "average_incremental_acc", "intransigence",
         "gap_to_multitask", "gap_to_specialists")  # fmt: skip


@dataclass(frozen=True)
class ReportedRun:
    """One run directory, ready to be shown."""

    folder: Path
    results: dict[str, Any]
    rows: list[Row]
    views: list[View]
    rehearsed: dict[str, list[tuple[str, list[Batch]]]]
    """What the first run of each rehearsing arm wrote: the batches before each new task."""
    likeness: dict[str, list[Line]]
    """How like real rows that is."""
    scant: list[str]
    """Where rehearsal kept too little."""
    guarded: list[tuple[str, list[str], list[dict[str, Any]]]]
    """Each run with a guard: its name, its tasks, and what was seen after each."""
    losses: list[tuple[Row, Picture]]
    """How the loss of the first run of each arm went, where it was kept."""
    recipe: str
    versions: str


def write(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, the plots beside it, and the results.json of each run.

    Args:
        run_dirs: One run, or several to be shown side by side.
        out: The page; by default report.html in the run directory, or here for several runs.

    Returns:
        Where the page is.
    """
    reported = _read(run_dirs, [results_module.write(run_dir) for run_dir in run_dirs])
    out = out or (run_dirs[0] / "report.html" if len(run_dirs) == 1 else Path("report.html"))
    write_text(out, _render(reported))
    for name, picture in pictures(reported).items():
        write_text(out.parent / "plots" / f"{name}.svg", picture.file())
    return out


def page(run_dirs: Sequence[Path]) -> str:
    """The whole page as text; nothing is written."""
    return _render(_read(run_dirs, [results_module.collect(run_dir) for run_dir in run_dirs]))


def pictures(reported: Sequence[ReportedRun]) -> dict[str, Picture]:
    """Every picture of the page by its file name (without .svg)."""
    rows = [row for run in reported for row in run.rows]
    if not rows:
        return {}
    found = {"kept": plots.kept(rows), "seen-so-far": _seen(reported)}
    found["costs"] = svg.grid(curves.costs(rows), 2, "What each arm costs")
    for run in reported:
        for number, view in enumerate(run.views):
            end = (f"-{run.folder.name}" if len(reported) > 1 else "") + (f"-{number}" if number else "")
            panels = [curves.task_curve(view, column) for column in range(len(view.order))]
            keys = [curves.key(matrix.row) for matrix in view.matrices]
            title = f"The score on each task after each step: {view.title}"
            found[f"tasks{end}"] = svg.grid([svg.grid(panels, 3, title), svg.grid(keys, 6, title)], 1, title)
            for matrix in view.matrices:
                found[f"R-{matrix.row.arm}{end}"] = plots.heat_map(matrix)
        end = f"-{run.folder.name}" if len(reported) > 1 else ""
        found |= {f"loss-{row.arm}{end}": picture for row, picture in run.losses}
    return found


def _read(run_dirs: Sequence[Path], documents: Sequence[dict[str, Any]]) -> list[ReportedRun]:
    palette = colours(documents)
    reported: list[ReportedRun] = []
    dashes = 0
    for run_dir, document in zip(run_dirs, documents, strict=True):
        prefix = run_dir.resolve().name if len(run_dirs) > 1 else ""
        rows = rows_of(document, palette, prefix=prefix, first_dash=dashes)
        dashes = max((row.dash + 1 for row in rows), default=dashes)
        versions = read_json(run_dir / "manifest.json")["versions"]
        reported.append(
            ReportedRun(
                folder=run_dir.resolve(),
                results=document,
                rows=rows,
                views=views_of(document, rows) if rows else [],
                rehearsed=_rehearsed(run_dir, document),
                likeness={arm: lines(entry["runs"][0]["rehearsed"]) for arm, entry in document["arms"].items()},
                scant=scant.of_results(document),
                guarded=_guarded(run_dir),
                losses=_losses(run_dir, document, rows),
                recipe=(run_dir / "recipe.yaml").read_text(encoding="utf-8"),
                versions=", ".join(f"{name} {version}" for name, version in versions.items()),
            )
        )
    return reported


def _rehearsed(run_dir: Path, document: dict[str, Any]) -> dict[str, list[tuple[str, list[Batch]]]]:
    found = {}
    for arm, entry in document["arms"].items():
        first = entry["runs"][0]
        if first["rehearsed"]:
            steps = groupby(batches(run_dir / "arms" / arm / first["run"], first), lambda batch: batch.before)
            found[arm] = [(before, list(together)) for before, together in steps]
    return found


def _losses(run_dir: Path, document: dict[str, Any], rows: Sequence[Row]) -> list[tuple[Row, Picture]]:
    drawn = []
    for arm, entry in document["arms"].items():
        row = next(row for row in rows if row.arm == arm)
        picture = losses.loss_curve(row, losses.first_curve(run_dir, arm, entry["runs"][0]["run"]))
        if picture is not None:
            drawn.append((row, picture))
    return drawn


def _guarded(run_dir: Path) -> list[tuple[str, list[str], list[dict[str, Any]]]]:
    found = []
    for folder in Run(run_dir).runs():
        told = read_json(folder / "run.json")
        if told.get("guard"):
            found.append((f"{folder.parent.name} · {folder.name}", told["order"], told["guard"]))
    return found


def _formula(text: str) -> Markup:
    """A formula with its indices set low: ``Σ_j`` and ``Σ_{j<T}``."""
    return Markup(re.sub(r"_(?:\{(.+?)\}|(\w))", r"<sub>\1\2</sub>", str(escape(text))))


def _seen(reported: Sequence[ReportedRun], width: float = 520) -> Picture:
    """All arms in one plot; its steps have the tasks' names where all of them were taught in one order."""
    orders = [view.steps for run in reported for view in run.views]
    shared = orders[0] if all(order == orders[0] for order in orders) else []
    return curves.seen_so_far([row for run in reported for row in run.rows], shared, width)


def _render(reported: Sequence[ReportedRun]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup("\n".join((here / name).read_text(encoding="utf-8") for name in ("colours.css", "style.css"))),
        inline=lambda picture: Markup(picture.inline()),
        figure=figure,
        percent=percent,
        points=points,
        pairs=pairs,
        from_to=from_to,
        perplexity=perplexity,
        formula=_formula,
        headline=headline,
        ending=ending,
        FOLLOWED=FOLLOWED,
        form_words=form_words,
        heat_map=plots.heat_map,
        task_curve=curves.task_curve,
        key=curves.key,
        FORMULAE=FORMULAE,
        TABLE=TABLE,
        COSTS=COSTS,
        LIKENESS=FIGURES,
        COLOURS=plots.COLOURS,
    )
    rows = [row for run in reported for row in run.rows]
    return environment.get_template("page.html.j2").render(
        runs=reported,
        rows=rows,
        left_out=pairs.left_out([run.results for run in reported]),
        best=pairs.clearly_best(reported[0].results, rows) if len(reported) == 1 else [],
        neutral=any(row.beside and row.beside.perplexity[0] is not None for row in rows),
        general=list(dict.fromkeys(task for row in rows if row.beside for task in row.beside.scores)),
        title=" and ".join(run.results["name"] for run in reported),
        kept=[plots.kept(rows, width) for width in (560, 200)] if rows else [],
        seen=[_seen(reported, width) for width in (560, 220)] if rows else [],
        costs=curves.costs(rows),
    )
