"""Arguments and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.", metavar="RECIPE")]
RunArgument = Annotated[str, typer.Argument(help="A run's folder, or its name under runs/.", metavar="RUN")]
Source = Annotated[
    str, typer.Argument(help="A run, or the folder of an adapter or a model.", metavar="RUN_OR_ADAPTER")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Read data from DIR/<set>/<task>.<split>.jsonl.gz.", metavar="DIR", envvar="CONTINUAL_DATA"),
]
Tasks = Annotated[
    list[Path] | None, typer.Option(help="A folder of task files; win over shipped ones.", metavar="DIR")
]
Adapter = Annotated[str | None, typer.Option(help="An adapter of the run, or base.", metavar="NAME")]


Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the model; a run's own recipe cannot allow it."
    ),
]


def make_console() -> "Console":
    from rich.console import Console

    return Console()
