"""The results in a terminal: the arms side by side, R of each, and the last words of a run."""

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from continual.report.numbers import COSTS, figure, percent
from continual.report.views import ArmMatrix, colours, rows_of, views_of
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
    """Print arms × figures, arms × costs, then R of each arm in each order (bold: just taught)."""
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
    console.print(costs)
    for view in views_of(results, rows):
        for matrix in view.matrices:
            _print_matrix(matrix, console)


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
            just_taught = matrix.sequential and place == column + 1
            untaught = place <= column if matrix.sequential else place == 0
            cells.append(Text(percent(score), style="bold" if just_taught else "dim" if untaught else ""))
        table.add_row(Text(after), *cells)
    console.print(table)
