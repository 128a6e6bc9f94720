"""The commands that hand a taught model to others: `export` and `push`."""

from pathlib import Path
from typing import Annotated

import typer

from continual.errors import ContinualError
from continual.portable import Form, Reader

Source = Annotated[
    str, typer.Argument(help="A run, or the folder of an adapter or a model.", metavar="RUN_OR_ADAPTER")
]
Adapter = Annotated[str | None, typer.Option(help="An adapter of the run.", metavar="NAME")]


def export(
    source: Source,
    adapter: Adapter = None,
    to: Annotated[Form, typer.Option(help="A plain adapter, a whole model, or llama.cpp's file.")] = Form.peft,
    out: Annotated[Path | None, typer.Option(help="The new folder, or file for gguf.", metavar="DIR")] = None,
    check: Annotated[Reader | None, typer.Option(help="Say what would not load there.")] = None,
    llama_cpp: Annotated[
        Path | None, typer.Option(help="Where llama.cpp's converters are.", metavar="DIR", envvar="LLAMA_CPP")
    ] = None,
) -> None:
    """Write an adapter as others load it; or, with --check alone, only look: exit code 1 if it would not load."""
    if out is None and check is None:
        raise ContinualError("--out: say where to write it, or --check vllm to look only")
    from continual import export as exporting
    from continual import portable

    folder = exporting.find(source, adapter)
    if out is not None:
        print(*exporting.export(folder, to, out, llama_cpp), sep="\n")
    if check is not None:
        checked = out if out is not None and to is Form.peft else folder
        faults = portable.check(checked, check)
        print(*(faults or [f"{checked}: nothing stands in the way of {check.value}"]), sep="\n")
        if faults:
            raise typer.Exit(1)


def push(
    source: Source,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.", metavar="REPO")],
    adapter: Adapter = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that is made now is private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")] = False,
) -> None:
    """Upload an adapter, with its card and manifest, to the Hugging Face Hub."""
    from continual import export as exporting
    from continual import push as pushing

    parcel = pushing.pack(exporting.find(source, adapter), repo)
    print(*parcel.lines, sep="\n")
    if not dry_run:
        print(pushing.push(parcel, private=private))
