"""The results of runs as files for papers, spreadsheets and programs, in the format that a suffix names."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual import results as results_module
from continual.errors import ContinualError
from continual.forgetting import FORMULAE
from continual.problems import did_you_mean
from continual.report.numbers import COSTS, figure, percent, points
from continual.report.page import write as write_page
from continual.report.pairs import against_multitask, interval
from continual.report.tables import COLUMNS
from continual.report.views import ArmMatrix, Row, colours, rows_of, views_of
from continual.runs import write_text

PAGE_SUFFIX = ".html"

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "|": "$|$", "−": "$-$", "–": "--", "±": r"$\pm$", "→": r"$\to$"}
    | {"×": r"$\times$", "·": r"$\cdot$", "…": r"\dots{}"}
)
"""What LaTeX, with pdfTeX, does not take as it is."""
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*_`<>[]"})


@dataclass(frozen=True)
class TextTable:
    """A table of cells that are ready to be read; the first column holds names."""

    name: str
    """Short, without blanks, different from that of the other tables of a file."""
    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class NamedResults:
    """The results.json of one run, and what the run is called among others."""

    name: str
    document: dict[str, Any]


def check(out: Path) -> None:
    """Raise a ContinualError where the suffix of a file names no format."""
    if out.suffix.lower() not in (PAGE_SUFFIX, *WRITERS):
        known = ", ".join((PAGE_SUFFIX, *WRITERS))
        kind = f"'{out.suffix}' is no format of a report" if out.suffix else "a suffix tells the format"
        raise ContinualError(f"--out {out}: {kind}: {known}{did_you_mean(out.suffix.lower(), WRITERS)}")


def write(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write results.json of each run, and the report in the format that the suffix of `out` names.

    Args:
        run_dirs: one run, or several that stand side by side.
        out: the file; by default the page, see `write_page`.

    Returns:
        Where the report is.

    Raises:
        ContinualError: the suffix names no format; nothing is written.
    """
    if out is None or out.suffix.lower() == PAGE_SUFFIX:
        return write_page(run_dirs, out)
    check(out)
    documents = [results_module.write(run_dir) for run_dir in run_dirs]
    names = [run_dir.resolve().name for run_dir in run_dirs]
    runs = [NamedResults(name, document) for name, document in zip(names, documents, strict=True)]
    write_text(out, WRITERS[out.suffix.lower()](runs))
    return out


def tables_of(runs: Sequence[NamedResults]) -> list[TextTable]:
    """The tables of a report: figures, differences to multitask and costs of all arms, then R of each."""
    palette = colours([run.document for run in runs])
    rows = [(run, rows_of(run.document, palette, prefix=run.name if len(runs) > 1 else "")) for run in runs]
    everyone = [row for _, members in rows for row in members]
    tables = [
        TextTable(
            "arms",
            "The arms: scores in %, differences in points",
            ["arm", *COLUMNS.values()],
            [[_label(row), *(figure(key, row.mean[key], row.std[key]) for key in COLUMNS)] for row in everyone],
        ),
        TextTable(
            "costs",
            "What the arms cost",
            ["arm", *(title for title, _ in COSTS.values())],
            [[_label(row), *(text(row.cost[key]) for key, (_, text) in COSTS.items())] for row in everyone],
        ),
    ]
    paired = [
        [_label(row), points(entry["difference"]), interval(entry), str(entry["runs"])]
        for run, members in rows
        for row, entry in zip(members, against_multitask(run.document), strict=True)
        if entry is not None
    ]
    if paired:
        title = "ACC against multitask, in points: same test rows, seeds and orders"
        columns = ["arm", "difference", "95 % interval", "pairs"]
        tables.insert(1, TextTable("paired", title, columns, paired))
    for run, members in rows:
        for number, view in enumerate(views_of(run.document, members) if members else []):
            end = f"-{number}" if number else ""
            tables += [_matrix(matrix, f"R-{matrix.row.label}{end}") for matrix in view.matrices]
    return tables


def _label(row: Row) -> str:
    return row.label + (f" × {row.runs}" if row.runs > 1 else "")


def _matrix(matrix: ArmMatrix, name: str) -> TextTable:
    runs = f", mean of {matrix.runs} runs" if matrix.runs > 1 else ""
    title = f"R of {matrix.row.label}{runs}: the score in % on (columns) after (rows)"
    rows = [[after, *map(percent, scores)] for after, scores in zip(matrix.after, matrix.R, strict=True)]
    return TextTable(name, title, ["after", *matrix.order], rows)


def _tex(runs: Sequence[NamedResults]) -> str:
    return _rendered("tables.tex.j2", runs)


def _markdown(runs: Sequence[NamedResults]) -> str:
    return _rendered("tables.md.j2", runs)


def _rendered(template: str, runs: Sequence[NamedResults]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # the templates escape for their own formats
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tex"] = lambda text: text.translate(LATEX)
    environment.filters["markdown"] = lambda text: text.translate(MARKDOWN)
    environment.filters["key"] = lambda text: re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
    return environment.get_template(template).render(runs=runs, tables=tables_of(runs))


def _csv(runs: Sequence[NamedResults]) -> str:
    """A line for each arm of each run and set, with bare numbers; what is unknown is empty."""
    palette = colours([run.document for run in runs])
    deviations = [f"{name}_std" for name in FORMULAE]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "arm", "set", "teach", "runs", *FORMULAE, *deviations, *COSTS])
    for run in runs:
        groups = [
            group for entry in run.document["arms"].values() for group, _ in results_module.by_set(entry["runs"])
        ]
        for group, row in zip(groups, rows_of(run.document, palette), strict=True):
            settings = json.dumps(group, ensure_ascii=False) if group else ""
            figures = [*(row.mean[name] for name in FORMULAE), *(row.std[name] for name in FORMULAE)]
            costs = [row.cost[name] for name in COSTS]
            writer.writerow([run.name, row.arm, settings, row.teach, row.runs, *figures, *costs])
    return text.getvalue()


def _json(runs: Sequence[NamedResults]) -> str:
    """The results.json of one run, or a list of them."""
    documents = [run.document for run in runs]
    content = documents[0] if len(documents) == 1 else documents
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


WRITERS: dict[str, Callable[[Sequence[NamedResults]], str]] = {
    ".md": _markdown,
    ".tex": _tex,
    ".csv": _csv,
    ".json": _json,
}
"""By suffix, what gives the content of a file."""
