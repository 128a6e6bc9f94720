"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

import sys
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from continual import __version__, threads, using
from continual.arguments import DataRoot, RecipeArgument, RunArgument, Tasks, Trust, make_console
from continual.errors import ContinualError
from continual.synonyms import command_for


class Commands(TyperGroup):
    """The commands by name; the hint for an unknown one knows what other tools call them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        from continual.problems import did_you_mean

        same = command_for(name)
        hint = f"; did you mean '{same}'?" if same else did_you_mean(name, self.commands)
        raise ContinualError(f"unknown command '{name}'{hint} (continual --help shows all)")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a language model task after task, and show what was learned and what was forgotten.",
    epilog="Start with: continual run quickstart",
)


class Kind(StrEnum):
    """What `continual ls` can list."""

    tasks = "tasks"
    recipes = "recipes"
    runs = "runs"
    methods = "methods"
    merges = "merges"


def main(args: Sequence[str] | None = None) -> None:
    """Run the program; a mistake that the user can mend is shown as plain lines, exit code 2."""
    warnings.formatwarning = _one_line
    threads.sleep_while_waiting()
    try:
        app(args=args, prog_name="continual")
    except ContinualError as error:
        for line in error.lines:
            print(line, file=sys.stderr)
        sys.exit(2)


def _one_line(message: Warning | str, category: type[Warning], *place: object, **line: object) -> str:
    """How a warning looks: what it says. Where it stands in the code is of no use to users."""
    return f"mind: {message}\n"


@app.callback(invoke_without_command=True)
def _program(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"continual {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as training.learning_rate=1e-4 or seed=3.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and its cost.")] = False,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with a run, or start over.")] = True,
    data_root: DataRoot = None,
    tasks: Tasks = None,
) -> None:
    """Teach a recipe's curriculum, one arm after another, and write the report.

    A run that was stopped, or whose curriculum has grown by a task, goes on where it was.
    """
    from continual.recipe import find_recipe, load_recipe, task_folders

    file = find_recipe(recipe)
    folders = task_folders(file, tasks or ())
    loaded = load_recipe(recipe, overrides or (), folders)
    sys.path.append(str(file.parent.resolve()))  # a plugin may lie beside the recipe that names it
    places = (*(("--data-root", str(data_root)) if data_root else ()), *_each("--tasks", tasks or ()))
    typed = _typed("run", recipe, *(overrides or ()), *places)
    if dry_run:
        from continual import plan

        plan.describe(loaded, data_root, folders, make_console(), typed)
        return
    try:
        from continual import execute

        execute.run(loaded, data_root=data_root, task_folders=folders, fresh=not resume, console=make_console())
    except KeyboardInterrupt:
        print(f"stopped; go on with: {typed}", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def teach(
    source: Annotated[
        str, typer.Argument(help="A run, a model's folder or Hub name, or an adapter's.", metavar="RUN_OR_MODEL")
    ],
    task: Annotated[str, typer.Argument(help="The new task, by name or file.", metavar="TASK")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value for the new task, such as num_train_epochs=2.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="The arm of the run that goes on.", metavar="NAME")] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new run, instead of runs/NAME+TASK.", metavar="DIR")] = None,
    data_root: DataRoot = None,
    tasks: Tasks = None,
    trust_remote_code: Trust = False,
) -> None:
    """Teach one more task to a finished run, or to a model whose data is gone."""
    from continual import skill
    from continual.recipe import task_folders

    folders, console = task_folders(Path("recipe.yaml"), tasks or ()), make_console()
    lesson = skill.plan(
        source,
        task,
        overrides or (),
        arm=arm,
        seed=seed,
        out=out,
        data_root=data_root,
        folders=folders,
        trust_remote_code=trust_remote_code,
    )
    for line in lesson.lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    try:
        from continual import execute

        execute.run(lesson.recipe, data_root=data_root, task_folders=lesson.folders, fresh=False, console=console)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def ls(
    what: Annotated[Kind | None, typer.Argument(help="What to list; all of them if left out.")] = None,
    tasks: Tasks = None,
) -> None:
    """List tasks, recipes, runs, methods and merges."""
    from continual import listing

    console = make_console()
    for kind in Kind if what is None else (what,):
        listing.show(kind, tasks or (), console)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A recipe or a task, by name or file.")],
    n: Annotated[int, typer.Option("-n", help="Samples of a task to show.")] = 3,
    model: Annotated[str, typer.Option(help="Whose tokenizer and chat template to use.")] = "builtin:tinyworld",
    data_root: DataRoot = None,
    tasks: Tasks = None,
) -> None:
    """Print a recipe, or rendered samples of a task with the loss-bearing tokens marked."""
    from continual import listing

    found = listing.find(name, tasks or ())
    if isinstance(found, Path):
        print(found.read_text(encoding="utf-8"), end="")
        return
    from continual.show import show_task

    show_task(found, model, n, make_console(), data_root=data_root)


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(help="Recipes, pretraining recipes or tasks.", metavar="FILE…")],
    data_root: DataRoot = None,
    tasks: Tasks = None,
) -> None:
    """Check files and print every mistake in them; of tasks, look at the first rows too."""
    from continual import listing

    wrong: list[str] = []
    for file in files:
        try:
            print(f"{file}: ok, {listing.validate(file, tasks or (), data_root)}")
        except ContinualError as error:
            wrong += error.lines
    if wrong:
        raise ContinualError(*wrong)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The task's name.", metavar="NAME")],
    file: Annotated[
        Path, typer.Argument(help="CSV, JSON, JSON Lines or Parquet; or a folder with train and test.", metavar="FILE")
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="A column of the prompt, instead of a guess.", metavar="COLUMN")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="The column of the answer, instead of a guess.", metavar="COLUMN")
    ] = None,
    tasks: Annotated[Path, typer.Option(help="Where the task file is written.", metavar="DIR")] = Path("tasks"),
    yes: Annotated[bool, typer.Option("--yes", help="Write without asking; never over a file.")] = False,
) -> None:
    """Look at a file of rows, guess its task, and write the task file."""
    from continual import new_task

    new_task.new_task(new_task.Request(name, file, tasks, tuple(prompt or ()), answer, yes), make_console())


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Runs, by folder or name; several stand side by side.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it: .html, .tex, .csv, .md or .json.", metavar="FILE")
    ] = None,
) -> None:
    """Print a run's tables and write its page, results.json and plots; or the tables alone, by the file's suffix."""
    from continual import report as reports
    from continual import results
    from continual.listing import find_run
    from continual.runs import read_json

    folders, console = [find_run(name) for name in runs], make_console()
    written = reports.write(folders, out)
    for folder in folders:
        reports.tables(read_json(folder / results.FILE), console)
    kind = "page" if written.suffix == ".html" else "report"
    console.print(f"the {kind}: {written}", highlight=False, soft_wrap=True)


@app.command()
def check(
    run: RunArgument,
    max_forgetting: Annotated[float, typer.Option(help="How far a task may fall, 0.05 is five points.", min=0)] = 0.05,
    arm: Annotated[str | None, typer.Option(help="Only this arm.", metavar="NAME")] = None,
) -> None:
    """Print what was forgotten of each task; exit code 1 if it is too much."""
    from continual import verdict
    from continual.listing import find_run

    if not verdict.show(verdict.verdicts(find_run(run), arm), max_forgetting, make_console()):
        raise typer.Exit(1)


@app.command()
def rollback(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="The task after which it shall stand.", metavar="TASK")],
    arm: Annotated[str | None, typer.Option(help="Only this arm.", metavar="NAME")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before models are deleted.")] = False,
) -> None:
    """Go back to the state after a task; what came later is removed, and `run` would teach it again."""
    from continual import rollback as rolling
    from continual.listing import find_run

    folder, selection = find_run(run), rolling.Selection(to, arm, seed)
    deleted = rolling.preview(folder, selection)
    for line in deleted:
        print(line)
    if deleted and not yes:
        if not sys.stdin.isatty():
            raise ContinualError("nothing was changed: give --yes to delete them, --arm NAME for one arm alone")
        if not typer.confirm("Delete them?"):
            raise typer.Exit(1)
    rolling.rollback(folder, selection, make_console())


@app.command()
def rehearse(
    run: RunArgument,
    task: Annotated[str, typer.Option(help="The task to rehearse.", metavar="TASK")],
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 10,
    trust_remote_code: Trust = False,
) -> None:
    """Let a taught model write samples of a task, and look at them."""
    from continual import talk
    from continual.listing import find_run

    talk.rehearse(find_run(run), task, n, make_console(), trust_remote_code)


@app.command()
def pretrain(
    recipe: RecipeArgument,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as pretrain.tokens=1000000.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the model is written, instead of output_dir.", metavar="DIR")
    ] = None,
) -> None:
    """Make a small base model from raw text, as the embedded one was made; on the GPU if there is one."""
    from continual import pretrain as pretraining
    from continual.recipe import find_recipe

    console = make_console()
    loaded = pretraining.load_pretrain_recipe(find_recipe(recipe), overrides or ())
    notice = threads.fit_to_load()
    if notice is not None:
        console.print(notice, style="dim", highlight=False, markup=False, soft_wrap=True)
    pretraining.pretrain(loaded, out, console)


app.add_typer(using.app)


def _each(option: str, values: Sequence[Path]) -> list[str]:
    return [word for value in values for word in (option, str(value))]


def _typed(*words: str) -> str:
    import shlex

    return shlex.join(("continual", *words))
