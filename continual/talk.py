"""Talk to what a run has taught: ask, chat, and look at what it rehearses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from continual.chat import Chat
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.model import load_adapter, load_model, load_tokenizer, max_positions
from continual.problems import did_you_mean
from continual.recipe import Recipe
from continual.runs import Run, read_json
from continual.sample import Message

if TYPE_CHECKING:
    from rich.console import Console

BASE = "base"
MAX_NEW_TOKENS = 256


def run_recipe(run_dir: Path) -> Recipe:
    """The recipe of a run, as it was resolved."""
    import yaml

    return Recipe.model_validate(yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8")))


def taught(run_dir: Path) -> dict[str, Path | None]:
    """What can be asked, by name: ``base``, every arm (its first run), every specialist by its task.

    Further seeds and sweep points are ``<arm>/<run>`` and ``<task>/<run>``.
    """
    found: dict[str, Path | None] = {BASE: None}
    for folder in Run(run_dir).runs():
        arm, name = folder.parent.name, folder.name
        states = sorted((p for p in folder.glob("after/*") if p.name.isdigit()), key=lambda p: int(p.name))
        models = {arm: states[-1]} if states else {}
        models |= {p.name: p for p in sorted(folder.glob("specialists/*")) if not p.name.startswith(".")}
        for model, path in models.items():
            found.setdefault(model, path)
            found[f"{model}/{name}"] = path
    return found


def preferred(run_dir: Path) -> str:
    """Who answers when nobody is named: the first arm that rehearses, else the first that has one model."""
    recipe, names = run_recipe(run_dir), taught(run_dir)
    arms = [arm for arm in recipe.arms if arm in names]
    rehearsing = [arm for arm in arms if recipe.arms[arm].rehearsal is not None]
    for arm in rehearsing + arms:
        return arm
    raise ContinualError(f"{run_dir}: no arm has a model to ask yet; name one of {', '.join(names)}")


class Partner:
    """The models of a run, loaded when they are first asked.

    Raises:
        ContinualError: the run's base model cannot be loaded.
    """

    def __init__(self, run_dir: Path) -> None:
        self.recipe = run_recipe(run_dir)
        self.models = taught(run_dir)
        name, trusted = self.recipe.model_name_or_path, self.recipe.trust_remote_code
        self.chat = Chat(load_tokenizer(name, trusted), self.recipe.roles)
        self.room = max_positions(name, trusted)
        self._loaded: dict[str, Any] = {}

    def check(self, name: str) -> None:
        """See that there is such a model.

        Raises:
            ContinualError: there is not; with the names that there are. Never silently the base.
        """
        if name not in self.models:
            known = ", ".join(self.models)
            raise ContinualError(f"unknown adapter '{name}'{did_you_mean(name, self.models)}; there is {known}")

    def model(self, name: str) -> Any:
        """The model of that name."""
        self.check(name)
        if name not in self._loaded:
            recipe, path = self.recipe, self.models[name]
            arguments = (recipe.weights_dtype, recipe.trust_remote_code)
            if path is None:
                model = load_model(recipe.model_name_or_path, *arguments)
                if recipe.start is not None:
                    model = load_adapter(model, Path(recipe.start))
            elif recipe.adapter is None:
                model = load_model(str(path), *arguments)
            else:
                model = load_adapter(load_model(recipe.model_name_or_path, *arguments), path)
            self._loaded[name] = model
        return self._loaded[name]

    def answer(self, name: str, messages: list[Message]) -> str:
        """The greedy answer to a conversation that ends with the user."""
        decoder = Decoder(self.model(name), self.chat.stop_ids, self.chat.end_id)
        new = min(MAX_NEW_TOKENS, self.room // 2)
        prompt = self.chat.prompt_ids(messages, self.room - new)
        return self.chat.answer_text(decoder.generate([prompt], new)[0].ids)


def ask(run_dir: Path, prompt: str, adapter: str | None) -> str:
    """One answer of a taught model."""
    partner = Partner(run_dir)
    return partner.answer(adapter or preferred(run_dir), [Message("user", prompt)])


HELP = "/adapter NAME asks another one, /adapters shows all, /new forgets the conversation, /quit leaves"


def chat(run_dir: Path, adapter: str | None, console: Console) -> None:
    """A conversation in the terminal; adapters are swapped in place."""
    partner = Partner(run_dir)
    name = adapter or preferred(run_dir)
    partner.check(name)
    console.print(f"[bold]{escape(name)}[/bold] listens. {HELP}", highlight=False)
    messages: list[Message] = []
    while True:
        try:
            line = console.input(f"[bold]{escape(name)}>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return
        if command == "/adapters":
            console.print(escape(", ".join(partner.models)), highlight=False)
        elif command == "/adapter":
            try:
                partner.check(rest.strip())
                name = rest.strip()
            except ContinualError as error:
                console.print(f"[red]{escape(str(error))}[/red]", highlight=False)
        elif command == "/new":
            messages = []
        elif command.startswith("/"):
            console.print(HELP, highlight=False)
        elif line:
            messages.append(Message("user", line))
            answer = partner.answer(name, messages)
            messages.append(Message("assistant", answer))
            console.print(escape(answer), highlight=False)


def rehearse(run_dir: Path, task: str, n: int, console: Console) -> None:
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
    partner = Partner(run_dir)
    rehearsal = recipe.arms[arm].rehearsal
    assert rehearsal is not None
    labels = {task: tuple(Run(run_dir).manifest()["labels"][task])}
    writer = model_writer(
        rehearsal.model_copy(update={"relabel": rehearsal.relabel and "model"}),
        partner.chat,
        Cues(rehearsal.cue, {task: 0}, labels).texts,
        labels,
        {},
        min(partner.room, recipe.training.max_length),
        recipe.evaluate.batch_tokens,
    )
    for sample in writer.write(partner.model(arm), {task: n}, 0, shapes=shapes_of(folder))[task]:
        verdict = "[green]kept[/green]" if sample.reason is None else f"[red]rejected: {sample.reason}[/red]"
        console.print(f"[dim]{'─' * 8}[/dim] {verdict}", highlight=False)
        for message in sample.messages or ():
            console.print(f"[dim]{message.role:>9}[/dim]  {escape(message.content)}", highlight=False)
        if sample.messages is None:
            console.print(escape(sample.text), highlight=False)
