"""From an arm of a recipe to the lesson that it asks for: cues, losses, the methods, the way of teaching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from continual.batch import Collate
from continual.breach import Guardian
from continual.catalogue import METHODS
from continual.curriculum import labels_of
from continual.errors import ContinualError
from continual.generalist import (
    Spent,
    dev_rows,
    distill_specialists,
    merge_of,
    merge_specialists,
    samples_wanted,
    words_of,
    written_rows,
)
from continual.learn import Hyperparameters
from continual.lora import Lora
from continual.material import Material
from continual.merged import How
from continual.methods.foreign import foreign
from continual.methods.inclora import IncLoRAPlugin
from continual.methods.lesson import Lesson
from continual.methods.rehearsal import RehearsalPlugin
from continual.methods.restart import RestartPlugin
from continual.ownwords import ALL
from continual.plugin import MethodPlugin, Stateful
from continual.progress import Teller
from continual.recipe import Recipe
from continual.record import Record
from continual.rehearsal_settings import Rehearsal
from continual.rehearse.base import BASE, CUE, base_cue, kind_of
from continual.rehearse.shape import Shape
from continual.rehearse.teacher import Specialists, weights_of
from continual.rehearse.writer import ModelWriter
from continual.rehearsing import cues_of, rehearsing
from continual.sample import Sample
from continual.seeds import derive
from continual.settings import Arm, Training
from continual.stream import spans
from continual.teach import Teaching, multitask, sequential, specialists
from continual.tuning import BEFORE


def teach_arm(recipe: Recipe, name: str, material: Material, record: Record, teller: Teller) -> None:
    """Teach one arm of a recipe to its end; what its record already holds is not done again.

    Args:
        recipe: at its sweep point.
        name: of the arm.
        material: what all arms share.
        record: of this arm; filled.
        teller: told what happens.
    """
    arm, training = recipe.arms[name], recipe.training_of(name)
    own = {task: hyperparameters(recipe.training_of(name, task)) for task in record.order}
    chunks = record.chunks
    taught = material
    if chunks is not None:
        record.spans = spans([material.sizes[task] for task in record.order], chunks)
        taught = material.in_chunks(record.order, chunks)
    cues = cues_of(arm.rehearsal, taught, chunks is not None) if arm.rehearsal is not None else None
    base = kind_of(arm.rehearsal.rehearse_base, material.chat) if arm.rehearsal is not None else None
    own_words = {CUE: base_cue(base, material.chat)} if base is not None else {}
    collate = Collate(
        material.chat.bos_ids,
        {**cues.ids(material.chat), **own_words} if cues is not None else {},
        material.chat.end_id,
        arm.rehearsal.passes if arm.rehearsal is not None else "one",
        cues.key if cues is not None and chunks is None else None,
        frozenset(own_words) if base == "documents" else frozenset(),
    )
    teaching = Teaching(
        collate,
        lm_lambda=arm.rehearsal.lm_lambda if arm.rehearsal is not None else 0.0,
        cue_dropout=arm.rehearsal.cue_dropout if arm.rehearsal is not None else 0.0,
        mixed_precision="bf16" if training.bf16 else "no",
        save_steps=training.save_steps,
        gradient_checkpointing=training.gradient_checkpointing,
        torch_compile=training.torch_compile,
    )
    if arm.teach == "specialists":
        specialists(material, record, own, teaching, teller)
    elif arm.teach == "multitask":
        multitask(material, record, own, teaching, teller)
    elif arm.teach in ("merge", "distill"):
        generalise(recipe, arm, material, record, own, teaching, teller)
    else:
        methods: list[MethodPlugin] = []
        if arm.rehearsal is not None and cues is not None:
            asked = None
            if arm.rehearsal.asks_specialists:
                untaught = {BASE: lambda: weights_of(material.student())}
                asked = Specialists(specialists_folder(recipe, arm, record), untaught)
            epochs = training.num_train_epochs if chunks is not None else max(own[t].num_train_epochs for t in own)
            methods += rehearsing(arm.rehearsal, cues, collate, taught, record, asked, base, epochs, teller.say)
        lesson = lesson_of(collate, taught, record, teller)
        if arm.method is not None:
            methods.append(method(arm, lesson))
        if arm.start_from != "previous":  # last: what the others see is the model of the task before
            methods.append(start(arm, lesson))
        others = [foreign(arm.plugin.class_, arm.plugin.args)] if arm.plugin is not None else []
        assert recipe.keep is not None
        each = [own[t] for t in record.order] if chunks is None else [hyperparameters(training)] * chunks
        guardian = watching(arm, material, record, methods) if arm.guard is not None else None
        sequential(taught, record, each, teaching, teller, methods, recipe.keep, others, guardian)


def generalise(
    recipe: Recipe,
    arm: Arm,
    material: Material,
    record: Record,
    own: Mapping[str, Hyperparameters],
    teaching: Teaching,
    teller: Teller,
) -> None:
    """One adapter from the specialists of another arm."""
    source = specialists_folder(recipe, arm, record)
    how = How(arm.method, arm.method_args, arm.scale, arm.rank) if arm.method is not None else None
    writing = recipe.arms[source.parent.name].rehearsal

    def trials(spent: Spent) -> Mapping[str, Sequence[Sample]]:
        """What a merge is tuned on."""
        if arm.tune_on == "dev":
            return dev_rows(material, record.order, arm.tune_samples, spent)
        assert writing is not None
        wanted = dict.fromkeys(record.order, arm.tune_samples)
        asking = writing.model_copy(update={"relabel": "specialist"})
        return written(asking, wanted, "trials", spent, BEFORE)

    def written(rehearsal: Rehearsal, wanted: Mapping[str, int], into: str, spent: Spent, before: str = ALL) -> Any:
        asking = rehearsal.model_copy(update={"writer": "specialist"})
        folder = record.folder / into
        return written_rows(material, asking, source, wanted, folder, teaching.collate, spent, teller, before)

    if arm.teach == "merge":
        assert how is not None
        merge_specialists(material, record, source, how, trials, teller)
        return
    assert arm.rehearsal is not None
    rehearsal, wanted = arm.rehearsal, samples_wanted(arm.rehearsal, material, record.order)

    def start(spent: Spent) -> Lora:
        assert how is not None
        made, said = merge_of(material, record.order, source, how, lambda: trials(spent))
        teller.say(f"    [dim]{words_of(said)}[/dim]")
        return made

    distill_specialists(
        material,
        record,
        own,
        teaching,
        source,
        rehearsal.distill,
        lambda spent: written(rehearsal, wanted, "rehearsed", spent),
        start if arm.start_from == "merged" else None,
        teller,
    )


def check_plugins(recipe: Recipe) -> None:
    """See that the foreign plugins of all arms can be made, and be taken back where a guard may do that.

    Raises:
        ContinualError: one cannot.
    """
    for name, arm in recipe.arms.items():
        if arm.plugin is None:
            continue
        plugin = foreign(arm.plugin.class_, arm.plugin.args)
        if arm.guard is not None and arm.guard.on_breach == "rollback" and not isinstance(plugin, Stateful):
            raise ContinualError(
                f"arms.{name}.guard.on_breach: rollback needs plugins with state_dict and load_state_dict; "
                f"{arm.plugin.class_} has none. Take stop or warn"
            )


def hyperparameters(training: Training) -> Hyperparameters:
    """The part of a recipe's `training` that the loop reads."""
    names = Hyperparameters.__dataclass_fields__
    return Hyperparameters(**{name: value for name, value in training.model_dump().items() if name in names})


def specialists_folder(recipe: Recipe, arm: Arm, record: Record) -> Path:
    """The run of the arm whose specialists are asked, at the same seed and sweep point."""
    return record.folder.parent.parent / recipe.specialists_of(arm, record.seed, record.set)


def watching(arm: Arm, material: Material, record: Record, methods: Sequence[MethodPlugin]) -> Guardian:
    """The guardian for an arm's `guard`.

    An arm that keeps no real row has a writer. It writes what the guard examines, with the model's greedy answers.
    """
    assert arm.guard is not None
    writer: ModelWriter | None = None
    shapes: Callable[[], Mapping[str, Shape]] = dict
    if not arm.keeps_rows:
        rehearsal = next(method for method in methods if isinstance(method, RehearsalPlugin))
        assert isinstance(rehearsal.writer, ModelWriter)
        writer, shapes = replace(rehearsal.writer, relabel=True), lambda: rehearsal.shapes
    return Guardian(
        order=record.order,
        folder=record.folder / "guard",
        limit=arm.guard.max_forgetting,
        on_breach=arm.guard.on_breach,
        material=material,
        writer=writer,
        samples=arm.guard.samples,
        choices=material.label_sets,
        shapes=shapes,
        seed=derive(material.seed, "guard"),
    )


def lesson_of(collate: Collate, material: Material, record: Record, teller: Teller) -> Lesson:
    """What an arm's methods are told."""
    return Lesson(
        order=record.steps,
        labels=labels_of(material.samples),
        samples={task: splits["train"] for task, splits in material.samples.items()},
        chat=material.chat,
        collate=collate,
        max_length=material.max_length,
        adapter=material.adapter,
        folder=record.folder,
        seed=derive(material.seed, "method"),
        say=teller.say,
    )


def method(arm: Arm, lesson: Lesson) -> MethodPlugin:
    """The plugin for an arm's `method`."""
    assert arm.method is not None
    known = METHODS[arm.method]
    build: Callable[[Any, Lesson], MethodPlugin] = import_module(f"continual.methods.{known.module}").build
    return build(known.arguments.model_validate(arm.method_args), lesson)


def start(arm: Arm, lesson: Lesson) -> MethodPlugin:
    """The plugin for an arm's `start_from`, other than `previous`."""
    assert lesson.adapter is not None
    return {"base": RestartPlugin, "merged": IncLoRAPlugin}[arm.start_from](lesson.adapter, lesson.seed)
