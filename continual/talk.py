"""Talk to what a run has taught: ask, chat, and look at what it rehearses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from continual.errors import ContinualError
from continual.inference import Taught, preferred, run_recipe, taught
from continual.problems import did_you_mean
from continual.route import AUTO, BASE, Choice
from continual.runs import Run, read_json
from continual.sample import Message

if TYPE_CHECKING:
    from rich.console import Console


def ask(run_dir: Path, prompt: str, adapter: str | None, trust_remote_code: bool = False) -> str:
    """One answer of a taught model. Whom `auto` picks goes to the standard error, so that the answer stands alone."""
    known, name = Taught(run_dir, trust_remote_code=trust_remote_code), adapter or preferred(run_dir)
    if name == AUTO:
        print(told(choice := known.pick(prompt)), file=sys.stderr)
        name = choice.adapter or BASE
    return known.generate([prompt], [name])[0]


def told(choice: Choice) -> str:
    """Whom `auto` picked, and why, in one line."""
    return f"auto: {choice.adapter or BASE} ({choice.why})"


HELP = """\
/adapter NAME    another one answers, or auto; what was said before stays
/adapters        shows who can be asked
/compare [NAMES] asks several the last question again, or all
/new             forgets the conversation
/quit            leaves"""


class Conversation:
    """A chat in the terminal: who answers, and what was said."""

    def __init__(self, known: Taught, name: str, console: Console) -> None:
        self.known, self.name, self.console = known, name, console
        self.messages: list[Message] = []

    def say(self, text: str, end: str = "\n") -> None:
        self.console.print(escape(text), highlight=False, end=end, soft_wrap=True)

    def hear(self, line: str) -> None:
        """Answer a line, word by word as the answer is written; Ctrl-C ends the answer.

        Raises:
            ContinualError: nobody can answer; the conversation stays as it was.
        """
        name, pieces = self.name, list[str]()
        if name == AUTO:
            choice = self.known.pick(line)
            self.console.print(f"[dim]{escape(told(choice))}[/dim]", highlight=False)
            name = choice.adapter or BASE
        self.messages.append(Message("user", line))
        try:
            for piece in self.known.stream(self.messages, name):
                pieces.append(piece)
                self.say(piece, end="")
        except KeyboardInterrupt:
            self.say(" …", end="")
        except ContinualError:
            self.messages.pop()  # else the next line would be a second one of the user's in a row
            raise
        self.say("")
        self.messages.append(Message("assistant", "".join(pieces)))

    def adapter(self, name: str) -> None:
        """Let another one answer."""
        self.known.check(name)
        self.name = name

    def adapters(self, _: str) -> None:
        """Show who can be asked."""
        names = self.known.names()
        self.say(", ".join([*names, AUTO] if self.known.routed and AUTO not in names else names))

    def new(self, _: str) -> None:
        """Forget what was said."""
        self.messages = []

    def compare(self, names: str) -> None:
        """Show what several would say to the last question, one under the other; the conversation stays as it is.

        Args:
            names: with blanks or commas between them; all but further seeds where it is empty.
        """
        questions = [n for n, message in enumerate(self.messages) if message.role == "user"]
        if not questions:
            raise ContinualError("there is nothing to compare yet: ask something first")
        asked = names.replace(",", " ").split() or [name for name in self.known.names() if "/" not in name]
        for name in asked:
            self.known.check(name)
        until = self.messages[: questions[-1] + 1]
        answers = self.known.generate([until] * len(asked), asked)
        width = max(map(len, asked))
        for name, answer in zip(asked, answers, strict=True):
            self.console.print(f"[bold]{escape(name.ljust(width))}[/bold]  ", highlight=False, end="")
            self.say(answer.replace("\n", "\n" + " " * (width + 2)))

    def help(self, _: str) -> None:
        """Show the commands."""
        self.say(HELP)


def chat(run_dir: Path, adapter: str | None, console: Console, trust_remote_code: bool = False) -> None:
    """A conversation in the terminal; adapters are swapped in place."""
    known = Taught(run_dir, trust_remote_code=trust_remote_code)
    talking = Conversation(known, preferred(run_dir), console)
    if adapter is not None:
        talking.adapter(adapter)
    console.print(f"[bold]{escape(talking.name)}[/bold] listens; /help shows what else there is.", highlight=False)
    commands = {
        f"/{command.__name__}": command
        for command in (talking.adapter, talking.adapters, talking.compare, talking.new, talking.help)
    }
    while True:
        try:
            line = console.input(f"[bold]{escape(talking.name)}>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                commands.get(command, talking.help)(rest.strip())
            elif line:
                talking.hear(line)
        except ContinualError as error:
            console.print(f"[red]{escape(str(error))}[/red]", highlight=False)


def rehearse(run_dir: Path, task: str, n: int, console: Console, trust_remote_code: bool = False) -> None:
    """Let the newest model of the run's rehearsing arm write samples of a task, kept and rejected ones.

    Raises:
        ContinualError: no arm rehearses by its own words, or none has learnt the task.
    """
    from continual.rehearse.cues import Cues
    from continual.rehearsing import model_writer, shapes_of

    recipe, names = run_recipe(run_dir), taught(run_dir)
    writing = [a for a, arm in recipe.arms.items() if arm.rehearsal is not None and arm.rehearsal.writer == "model"]
    arm = next((a for a in writing if names.get(a) is not None), None)
    if arm is None:
        raise ContinualError(f"{run_dir}: no arm of this run writes samples itself (rehearsal: {{writer: model}})")
    folder = names[arm]
    assert folder is not None
    told = read_json(folder.parent.parent / "run.json")
    begun = [first for first, _ in told["spans"]] if told["spans"] else range(1, len(told["order"]) + 1)
    learnt = [t for t, first in zip(told["order"], begun, strict=True) if first <= int(folder.name)]
    if task not in learnt:
        raise ContinualError(
            f"'{task}' was not learnt by {arm}{did_you_mean(task, learnt)}; it knows {', '.join(learnt)}"
        )
    known = Taught(run_dir, trust_remote_code=trust_remote_code)
    rehearsal = recipe.arms[arm].rehearsal
    assert rehearsal is not None
    labels = {task: tuple(Run(run_dir).manifest()["labels"][task])}
    writer = model_writer(
        rehearsal.model_copy(update={"relabel": rehearsal.relabel and "model"}),
        known.chat,
        Cues(rehearsal.cue, {task: 0}, labels).texts,
        labels,
        {},
        min(known.room, recipe.training.max_length),
        recipe.evaluate.batch_tokens,
    )
    for sample in writer.write(known.model(arm), {task: n}, 0, shapes=shapes_of(folder))[task]:
        verdict = "[green]kept[/green]" if sample.reason is None else f"[red]rejected: {sample.reason}[/red]"
        console.print(f"[dim]{'─' * 8}[/dim] {verdict}", highlight=False)
        for message in sample.messages or ():
            console.print(f"[dim]{message.role:>9}[/dim]  {escape(message.content)}", highlight=False)
        if sample.messages is None:
            console.print(escape(sample.text), highlight=False)
