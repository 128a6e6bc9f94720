"""The arms: sequential, specialists, multitask. Each fills a `Record`, and goes on where an earlier start
left off.

Order of writing: the model after a task (with what it cost), then its scores. Whatever is there is not done
again.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from continual import losscurve, states
from continual.batch import Collate
from continual.breach import Decision, Guardian
from continual.checkpoint import CheckpointPlugin
from continual.curriculum import benchmark, joint
from continual.errors import ContinualError
from continual.learn import CausalLMTemplate, Hyperparameters
from continual.material import Material
from continual.model import CausalLM, checkpoint_activations
from continual.peak_memory import peak, reset_peak
from continual.plugin import MethodPlugin, Stateful
from continual.progress import LossCurvePlugin, Teller
from continual.record import Record
from continual.runs import read_json, remove_folder, write_folder, write_json
from continual.seeds import derive

TRAINED = "trained.json"
"""Beside the weights: what the training of one task took."""


@dataclass(frozen=True)
class TrainingFiles:
    """Where the training of an arm leaves its files.

    Args:
        folder: ``arms/<arm>/<run>``.
        task: the one that is taught, where each has a model of its own.
    """

    folder: Path
    task: str | None = None

    @property
    def checkpoints(self) -> Path:
        checkpoints = self.folder / "checkpoints"
        return checkpoints / self.task if self.task is not None else checkpoints

    @property
    def losses(self) -> Path:
        return self.folder / losscurve.FILE


@dataclass(frozen=True)
class Teaching:
    """How an arm trains, apart from what."""

    collate: Collate
    lm_lambda: float = 0.0
    cue_dropout: float = 0.0
    mixed_precision: str = "no"
    save_steps: int | None = None
    gradient_checkpointing: bool = False
    torch_compile: bool = False


def sequential(
    material: Material,
    record: Record,
    hyperparameters: Sequence[Hyperparameters],
    teaching: Teaching,
    teller: Teller,
    methods: Sequence[MethodPlugin],
    keep: str,
    others: Sequence[Any] = (),
    guardian: Guardian | None = None,
) -> None:
    """One model, task after task, or chunk after chunk.

    Args:
        material: its samples are by step.
        hyperparameters: one for each of `record.steps`.
        methods: none for plain fine-tuning.
        keep: ``all`` keeps the model after every task, ``last`` the newest one.
        others: foreign plugins; where one has no state that could be kept, an arm that was stopped begins anew.
        guardian: decides after each task whether the arm goes on with the model as it is.
    """
    if record.stopped is not None:
        teller.say(f"  [yellow]{escape(Decision(**record.stopped).line)}[/yellow]")
        return
    after = record.folder / "after"
    stateful = [plugin for plugin in others if isinstance(plugin, Stateful)]
    if len(stateful) < len(others) and newest(after) < len(record.steps):
        for part in ("after", "checkpoints", "guard"):
            remove_folder(record.folder / part)
        record.forget()
    done = newest(after)
    order = record.steps
    lessons = benchmark(order, material.samples, material.chat, teaching.collate, material.max_length).train_stream
    seed = derive(material.seed, "train")
    files = TrainingFiles(record.folder)

    def pupil_of(number: int) -> Pupil:
        """The model as it was saved after a task, with its methods; 0 is the untaught one."""
        folder = after / str(number)
        model = material.saved(folder, trainable=True) if number else material.student()
        pupil = Pupil(material, model, hyperparameters, seed, teaching, methods, files, teller, others)
        if number:
            states.restore(folder, pupil.stateful, pupil.strategy.device)
        return pupil

    pupil = pupil_of(done)
    for number, task in enumerate(order, start=1):
        folder = after / str(number)
        decision = guardian.decided(number) if guardian is not None else None
        if number > done and decision is None:
            if task in material.remembered:
                raise ContinualError(f"{task}: its data is gone, and the model that had learned it is not here")
            pupil.learn(lessons[number - 1], task, folder, part=f"{number}/{len(order)} ")
        if guardian is not None and decision is None and number >= done:
            decision = guardian.decide(number, pupil.strategy.lm, read_json(folder / TRAINED))
        if decision is not None and decision.line and number >= len(record.R):
            teller.say(f"    [yellow]{escape(decision.line)}[/yellow]")
        if decision is not None and decision.action == "rollback":
            # Of what came before the newest state, nothing is left to be done.
            if number >= done and not (folder.exists() and read_json(folder / TRAINED).get("rolled_back")):
                take_back(after, number, decision.trained)
                pupil = pupil_of(number)
            for method in methods:
                method.skip(number - 1)
        missing = record.missing(number)
        if missing or number == len(record.R):  # a step of which nothing is asked has its row of R, too
            if number == newest(after):
                examined = pupil.strategy.lm
            elif folder.exists():
                examined = material.saved(folder)
            else:
                continue  # `keep: last` threw this model away: its new columns stay empty
            put(record, material, number, task, examined, missing, folder, teller, decision)
        if keep == "last":
            for old in range(1, number):
                remove_folder(after / str(old))
        if decision is not None and decision.action == "stop":
            return


def take_back(after: Path, number: int, trained: Mapping[str, Any]) -> None:
    """Put the state after the previous task in the place of the one after this.

    Args:
        after: folder of the states, by number.
        trained: what the training took that is given up; it was spent all the same.
    """

    def fill(folder: Path) -> None:
        shutil.copytree(after / str(number - 1), folder, dirs_exist_ok=True)
        write_json(folder / TRAINED, {**trained, "rolled_back": True})

    write_folder(after / str(number), fill)


def specialists(
    material: Material,
    record: Record,
    hyperparameters: Mapping[str, Hyperparameters],
    teaching: Teaching,
    teller: Teller,
) -> None:
    """One adapter per task, each from the untaught base; row 1 of R is what each scores on its own task."""
    for number, task in enumerate(record.order, start=1):
        folder = record.folder / "specialists" / task
        if task not in record.missing(1):
            continue
        if folder.exists():
            model = material.saved(folder)
        else:
            streams = benchmark([task], material.samples, material.chat, teaching.collate, material.max_length)
            model, seed = material.student(task), derive(material.seed, "train", task)
            files = TrainingFiles(record.folder, task)
            pupil = Pupil(material, model, hyperparameters[task], seed, teaching, [], files, teller)
            pupil.learn(streams.train_stream[0], task, folder, part=f"{number}/{len(record.order)} ")
        put(record, material, 1, "specialists", model, [task], folder, teller)


def multitask(
    material: Material,
    record: Record,
    hyperparameters: Mapping[str, Hyperparameters],
    teaching: Teaching,
    teller: Teller,
) -> None:
    """All tasks at once, mixed, each for as many epochs as it has in sequence."""
    folder = record.folder / "after" / "1"
    missing = record.missing(1)
    if not missing:
        return
    if folder.exists():
        model = material.saved(folder)
    else:
        epochs = {task: hyperparameters[task].num_train_epochs for task in record.order}
        together = math.gcd(*epochs.values())
        times = {task: own // together for task, own in epochs.items()}
        streams = joint(record.order, material.samples, material.chat, teaching.collate, material.max_length, times)
        model, seed = material.student(), derive(material.seed, "train")
        shared = replace(hyperparameters[record.order[0]], num_train_epochs=together)
        files = TrainingFiles(record.folder)
        pupil = Pupil(material, model, shared, seed, teaching, [], files, teller)
        pupil.learn(streams.train_stream[0], "all tasks", folder)
    put(record, material, 1, "all", model, missing, folder, teller)


class Pupil:
    """A model with the strategy that trains it, one experience at a time, each saved with what it took."""

    def __init__(
        self,
        material: Material,
        model: Any,
        hyperparameters: Hyperparameters | Sequence[Hyperparameters],
        seed: int,
        teaching: Teaching,
        methods: Sequence[MethodPlugin],
        files: TrainingFiles,
        teller: Teller,
        others: Sequence[Any] = (),
    ) -> None:
        from accelerate import Accelerator

        self.material, self.teller, self.methods = material, teller, methods
        self.stateful = [*methods, *(plugin for plugin in others if isinstance(plugin, Stateful))]
        save_steps = teaching.save_steps if len(self.stateful) == len(methods) + len(others) else None
        self.checkpoint = CheckpointPlugin(files.checkpoints, save_steps, self.stateful)
        self.curve = LossCurvePlugin(files.losses, save_steps)
        if teaching.gradient_checkpointing:
            checkpoint_activations(model)
        self.strategy = CausalLMTemplate(
            model=CausalLM(model),
            hyperparameters=hyperparameters,
            # The arm's name has no part in the seed: what differs between arms must not be the luck of the
            # draw.
            seed=seed,
            collate=teaching.collate,
            lm_lambda=teaching.lm_lambda,
            cue_dropout=teaching.cue_dropout,
            accelerator=Accelerator(mixed_precision=teaching.mixed_precision),
            plugins=[*methods, *others, self.curve, self.checkpoint, teller.plugin],
            torch_compile=teaching.torch_compile,
        )

    def _check_learned(self, what: str) -> None:
        """See that what was learned can be saved: the last step has no later loss that would show it.

        Raises:
            ContinualError: some of it is no finite number.
        """
        taught = self.strategy.model.named_parameters()
        wrong = next((name for name, p in taught if not bool(torch.isfinite(p).all())), None)
        if wrong is not None:
            raise ContinualError(
                f"{what}: training: the last step left {wrong} without finite numbers; lower training.learning_rate"
            )

    def learn(self, lesson: Any, what: str, into: Path, *, part: str = "", peak_before: int = 0) -> None:
        """Train on one experience, and save the model into a folder.

        Args:
            what: the task, or what else is learned.
            part: stands before it where people read: ``2/5 ``.
            peak_before: bytes that making the experience took at most, where that is a part of what it cost.
        """
        reset_peak()
        self.curve.task = what
        try:
            with self.teller.training(part + what):
                self.strategy.train(lesson, eval_streams=[])
        except ContinualError as error:
            raise ContinualError(*(f"{what}: {line}" for line in error.lines)) from error
        self._check_learned(what)
        self.strategy.lm.eval()
        trained = {
            "seconds": time.perf_counter() - self.strategy.started,
            "train_tokens": self.strategy.train_tokens,
            "generated_tokens": sum(method.generated_tokens for method in self.methods),
            "peak_bytes": max(peak(), peak_before),
            "rehearsed": [entry for method in self.methods for entry in method.told],
            "kept": [entry for method in self.methods for entry in method.kept],
        }

        def fill(folder: Path) -> None:
            self.strategy.lm.save_pretrained(folder)
            self.material.chat.save_tokenizer(folder)
            write_json(folder / TRAINED, trained)
            states.store(folder, self.stateful)

        write_folder(into, fill)
        self.checkpoint.clear()


def put(
    record: Record,
    material: Material,
    row: int,
    name: str,
    model: Any,
    tasks: Sequence[str],
    folder: Path,
    teller: Teller,
    decision: Decision | None = None,
) -> None:
    """Examine a model, write its scores into R, add what its training took, save, and say the scores.

    Args:
        folder: where the model was saved.
        decision: of the guard, after this task.
    """
    trained = read_json(folder / TRAINED)
    if row == len(record.R) or name == "specialists":  # else only new columns are filled in
        record.cost.add(trained)
        record.add_rehearsed(trained["rehearsed"])
        record.add_kept(trained.get("kept", []))  # older runs have none
        if decision is not None:
            record.add_check({name: value for name, value in asdict(decision).items() if name != "trained"})
    record.put(row, name, material.exams, material.examine(model, tasks))
    if row == len(record.general):
        # Specialists are several models.
        record.general.append(None if name == "specialists" else material.general_ability(model))
    record.save()
    cells = zip(record.tasks, record.R[row], strict=True)
    shown = "  ".join(f"{task} {cell:.0%}" for task, cell in cells if cell is not None and task in tasks)
    if tasks:
        teller.say(f"    [dim]scores[/dim]  {shown}")


def newest(after: Path) -> int:
    """The number of the last task after which a model was saved; 0 if none was."""
    return max((int(p.name) for p in after.glob("*") if p.name.isdigit()), default=0)
