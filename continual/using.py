"""The commands that use what was taught: ask, serve, route, merge, export."""

import os
from pathlib import Path
from typing import Annotated

import typer

from continual.arguments import Adapter, DataRoot, RunArgument, Source, Tasks, Trust, make_console
from continual.errors import ContinualError
from continual.portable import Form, Reader

app = typer.Typer()
API_KEY = "CONTINUAL_API_KEY"
"""The environment variable with what clients of a server must send."""


@app.command()
def ask(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    adapter: Adapter = None,
    trust_remote_code: Trust = False,
) -> None:
    """Print one answer of a taught model."""
    from continual import talk
    from continual.listing import find_run

    print(talk.ask(find_run(run), prompt, adapter, trust_remote_code))


@app.command()
def chat(run: RunArgument, adapter: Adapter = None, trust_remote_code: Trust = False) -> None:
    """Talk to a taught model; /adapter NAME swaps its adapter."""
    from continual import talk
    from continual.listing import find_run
    from continual.runs import Run

    folder = find_run(run)
    with Run(folder).used():
        talk.chat(folder, adapter, make_console(), trust_remote_code)


@app.command()
def serve(
    run: RunArgument,
    modules: Annotated[list[str] | None, typer.Argument(help="Further adapters.", metavar="[NAME=PATH]…")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; only this machine's own by default.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="The port.", min=0, max=65535)] = 8000,
    api_key: Annotated[str | None, typer.Option(help="What clients must send.", envvar=API_KEY)] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name by which clients may address it.", metavar="NAME")
    ] = None,
    lora_modules: Annotated[list[str] | None, typer.Option(help="A further adapter.", metavar="NAME=PATH")] = None,
    allow_load: Annotated[
        list[Path] | None, typer.Option(help="A folder whose adapters may be loaded over HTTP.", metavar="DIR")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="The most answers that wait.", min=0)] = 256,
    max_rows: Annotated[int, typer.Option(help="The most answers written at once.", min=1)] = 64,
    memory: Annotated[int | None, typer.Option(help="MiB that adapters may take.", min=1)] = None,
    model: Annotated[
        str | None, typer.Option(help="The one to serve where models are whole ones.", metavar="NAME")
    ] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Serve a run's models over HTTP, as OpenAI's clients ask, and a page to try them."""
    from continual.listing import find_run
    from continual.runs import Run
    from continual.serve import server

    settings = server.Settings(
        host,
        port,
        # An empty variable is no option to typer, but whoever set it wanted a key.
        os.environ.get(API_KEY) if api_key is None else api_key,
        (*(lora_modules or ()), *(modules or ())),
        tuple(allow_load or ()),
        max_queue,
        max_rows,
        memory and memory * 2**20,
        model,
        tuple(allowed_host or ()),
        trust_remote_code,
    )
    folder = find_run(run)
    with Run(folder).used():
        server.serve(folder, settings, make_console())


@app.command()
def route(
    run: RunArgument,
    unsure: Annotated[str, typer.Option(help="Who answers where no specialist is sure.", metavar="NAME")] = "base",
    n: Annotated[int, typer.Option("-n", help="Prompts of each task to learn from.", min=2)] = 100,
    seed: Annotated[int | None, typer.Option(help="Whose specialists.")] = None,
    split: Annotated[str, typer.Option(help="Prompts to measure on: test, dev, or none.")] = "test",
    limit: Annotated[int | None, typer.Option(help="Prompts of each task to measure on.")] = None,
    data_root: DataRoot = None,
    tasks: Tasks = None,
    trust_remote_code: Trust = False,
) -> None:
    """Let `auto` pick the specialist for a prompt: learn it from what the run's models write, and measure it."""
    from continual import routing
    from continual.listing import find_run

    routing.route(
        find_run(run), n, unsure, seed, split, limit, data_root, tasks or (), make_console(), trust_remote_code
    )


@app.command("merge-report")
def merge_report(
    run: RunArgument,
    methods: Annotated[str, typer.Option(help="Ways to merge, with commas.", metavar="NAME,…")] = "",
    scales: Annotated[str, typer.Option(help="Scales to try with each, with commas.", metavar="X,…")] = "",
    rank: Annotated[int | None, typer.Option(help="Of the merged adapters; else that of the specialists.")] = None,
    seed: Annotated[int | None, typer.Option(help="Whose specialists.")] = None,
    data_root: DataRoot = None,
    tasks: Tasks = None,
    trust_remote_code: Trust = False,
) -> None:
    """Merge a run's specialists by several methods and scales, and measure them beside what they come from."""
    from continual import mergereport
    from continual.listing import find_run

    ways, tried = mergereport.listed(methods, scales)
    mergereport.merge_report(
        find_run(run), ways, tried, rank, seed, data_root, tasks or (), make_console(), trust_remote_code
    )


@app.command()
def merge(
    sources: Annotated[
        list[str], typer.Argument(help="Adapters' folders, or runs with specialists.", metavar="RUN_OR_ADAPTER…")
    ],
    method: Annotated[str, typer.Option(help="How: see continual ls merges.", metavar="NAME")],
    out: Annotated[Path, typer.Option(help="Where the result is written.", metavar="DIR")],
    weights: Annotated[str | None, typer.Option(help="One number for each adapter, such as 0.5,0.5.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the result; the largest of the adapters' if left out.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of the values kept, where a method drops some.")] = None,
    scale: Annotated[float, typer.Option(help="What the merged change is multiplied with.")] = 1.0,
    space: Annotated[str, typer.Option(help="core or full: where values are chosen.")] = "core",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another argument of the method.", metavar="KEY=VALUE")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Write a whole model instead of an adapter.")] = False,
) -> None:
    """Merge specialists into one adapter, or one model."""
    from continual import merging

    arguments = merging.arguments(density, set_ or ())
    merging.write(
        sources,
        method,
        out,
        merging.numbers(weights),
        rank,
        scale,
        space,
        arguments,
        full=full,
        console=make_console(),
    )


@app.command()
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


@app.command()
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
