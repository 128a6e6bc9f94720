"""The results in a terminal: the arms side by side, R of each, and the last words of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continual import scant
from continual.report.likeness import FIGURES, in_short
from continual.report.numbers import COSTS, figure, from_to, percent, perplexity, points
from continual.report.pairs import against_multitask, interval, left_out
from continual.report.views import ArmMatrix, Row, colours, rows_of, views_of
from continual.report.words import ending, forgotten, headline, learned

COLUMNS = {
    "acc": "ACC",
    "forgetting": "forgetting",
    "bwt": "BWT",
    "fwt": "FWT",
    "gap_to_multitask": "gap multi.",
    "gap_to_specialists": "gap spec.",
}
"""The figures of the table, and the short titles that fit a terminal."""


def tables(results: dict[str, Any], console: Console) -> None:
    """Print figures, differences to multitask, costs, what was rehearsed, then R of each arm in each order (bold: just
    taught).
    """
    rows = rows_of(results, colours([results]))
    if not rows:
        console.print("No arm has finished yet.")
        return
    figures = _table("The arms, in % and points", list(COLUMNS.values()))
    costs = _table("What they cost", [title for title, _ in COSTS.values()])
    for row in rows:
        label = Text(row.label + (f" × {row.runs}" if row.runs > 1 else ""))
        figures.add_row(label, *(figure(name, row.mean[name], row.std[name]) for name in COLUMNS))
        costs.add_row(label, *(written(row.cost[key]) for key, (_, written) in COSTS.items()))
    console.print(figures)
    _print_paired(results, rows, console)
    console.print(costs)
    _print_likeness(results, console)
    if any(row.beside for row in rows):
        console.print(_beside(rows))
    for view in views_of(results, rows):
        for matrix in view.matrices:
            _print_matrix(matrix, console)


def _print_paired(results: dict[str, Any], rows: list[Row], console: Console) -> None:
    told = against_multitask(results)
    if not any(told):
        return
    bound = next(paired["against"] for paired in told if paired)
    table = _table(
        f"ACC against {bound}, in points: same test rows, seeds and orders", ["difference", "95 % interval", "pairs"]
    )
    for row, paired in zip(rows, told, strict=True):
        if paired is not None:
            table.add_row(Text(row.label), points(paired["difference"]), interval(paired), str(paired["runs"]))
    console.print(table)
    if tasks := left_out([results]):
        console.print(Text(f"not in it, for their scores are no means over rows: {', '.join(tasks)}"), soft_wrap=True)


def _print_likeness(results: dict[str, Any], console: Console) -> None:
    """How like real rows is what each arm rehearsed, where that was measured."""
    title = "What was rehearsed: % or words, the mean over tasks and times (of real rows)"
    table = _table(title, [figure.title for figure in FIGURES.values()])
    for arm, entry in results["arms"].items():
        entries = [one for run in entry["runs"] for one in run["rehearsed"] if one.get("drift")]
        if entries:
            table.add_row(Text(arm), *in_short(entries))
    if table.row_count:
        console.print(table)


def last_words(results: dict[str, Any], run_dir: Path, console: Console) -> None:
    """Print what was learned, what was forgotten, where the page is and what to type next."""
    rows = rows_of(results, colours([results]))
    views = views_of(results, rows) if rows else []
    first = {matrix.row.label: matrix for matrix in views[0].matrices} if views else {}
    for row in rows:
        console.print(Text.assemble((row.label, "bold"), f" {headline(row)}"), soft_wrap=True)
        if row.teach == "sequential" and row.label in first:
            console.print(Text(f"  learned    {learned(first[row.label])}"), soft_wrap=True)
            console.print(Text(f"  forgotten  {forgotten(first[row.label])}"), soft_wrap=True)
    for line in scant.of_results(results):
        console.print(Text.assemble(("mind: ", "yellow"), line), soft_wrap=True)
    for entry in results["unfinished"]:
        missing = f"{entry['not_begun']} not begun" if entry["run"] is None else f"{entry['run']}: {ending(entry)}"
        console.print(Text.assemble((entry["arm"], "bold yellow"), f" {missing}"), soft_wrap=True)
    console.print()
    console.print(Text(f"page   {run_dir}/report.html"), soft_wrap=True)
    console.print(Text(f"next   continual chat {run_dir}"), soft_wrap=True)
    console.print(Text(f"       continual report {run_dir}"), soft_wrap=True)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, header_style="")
    table.add_column("arm")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _beside(rows: Sequence[Row]) -> Table:
    tasks = dict.fromkeys(task for row in rows if row.beside for task in row.beside.scores)
    text = any(row.beside and row.beside.perplexity[0] is not None for row in rows)
    table = _table("General ability, base → end", [*["perplexity"] * text, *["Δ"] * bool(tasks), *tasks])
    for row in rows:
        if row.beside is not None:
            cells = [perplexity(*row.beside.perplexity)] * text + [points(row.beside.delta)] * bool(tasks)
            scores = [from_to(*row.beside.scores.get(task, (None, None))) for task in tasks]
            table.add_row(Text(row.label), *cells, *scores)
    return table


def _print_matrix(matrix: ArmMatrix, console: Console) -> None:
    runs = f", mean of {matrix.runs} runs" if matrix.runs > 1 else ""
    title = ("R of ", (matrix.row.label, "bold"), f"{runs}: the score in % on (columns) after (rows)")
    console.print()
    console.print(Text.assemble(*title))
    table = Table(box=None, padding=(0, 1), header_style="")
    table.add_column("")
    for task in matrix.order:
        table.add_column(Text(task), justify="right")
    for place, (after, scores) in enumerate(zip(matrix.after, matrix.R, strict=True)):
        cells = []
        for column, score in enumerate(scores):
            first, last = matrix.spans_taught[column]
            just_taught, untaught = matrix.sequential and place == last, place < first
            cells.append(Text(percent(score), style="bold" if just_taught else "dim" if untaught else ""))
        table.add_row(Text(after), *cells)
    console.print(table)
