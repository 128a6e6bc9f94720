"""From an arm of a recipe to the lesson that it asks for: cues, losses, the rehearsal plugin, the way of teaching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import labels_of
from continual.learn import Hyperparameters
from continual.material import Material
from continual.methods.rehearsal import RehearsalPlugin
from continual.progress import Teller
from continual.recipe import Recipe
from continual.record import Record
from continual.rehearse.budget import cue_of, quotas
from continual.rehearse.writer import ModelWriter, RealWriter, Writer
from continual.sample import Sample
from continual.sampling import Sampling
from continual.seeds import derive
from continual.settings import Rehearsal, Training
from continual.teach import Teaching, multitask, sequential, specialists


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
    cues = {t: cue_of(arm.rehearsal.cue, t) for t in record.order} if arm.rehearsal is not None else {}
    labels = labels_of(material.samples)
    collate = Collate(
        material.chat.bos_ids,
        {labels[task]: material.chat.cue_ids(cue) for task, cue in cues.items()},
        material.chat.end_id,
        arm.rehearsal.passes if arm.rehearsal is not None else "one",
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
    else:
        plugin = None
        if arm.rehearsal is not None:
            plugin = rehearsal_plugin(arm.rehearsal, cues, collate, material, record, teller)
        assert recipe.keep is not None
        sequential(material, record, [own[t] for t in record.order], teaching, teller, plugin, recipe.keep)


def hyperparameters(training: Training) -> Hyperparameters:
    """The part of a recipe's `training` that the loop reads."""
    names = Hyperparameters.__dataclass_fields__
    return Hyperparameters(**{name: value for name, value in training.model_dump().items() if name in names})


def rehearsal_plugin(
    rehearsal: Rehearsal,
    cues: Mapping[str, str],
    collate: Collate,
    material: Material,
    record: Record,
    teller: Teller,
) -> RehearsalPlugin:
    """The plugin for an arm's `rehearsal`."""
    order, sizes = record.order, material.sizes
    choices = {task: label_set(splits["train"]) for task, splits in material.samples.items()}
    writer: Writer = RealWriter({task: splits["train"] for task, splits in material.samples.items()}, material.seed)
    if rehearsal.writer == "model":
        room, budget = material.max_length, material.batch_tokens
        writer = model_writer(rehearsal, material.chat, dict(cues), choices, room, budget)
    return RehearsalPlugin(
        order=order,
        writer=writer,
        quotas=lambda new, old: quotas(rehearsal.budget, rehearsal.ratio, rehearsal.samples, sizes, new, old),
        folder=record.folder / "rehearsed",
        chat=material.chat,
        collate=collate,
        max_length=material.max_length,
        labels=labels_of(material.samples),
        choices=choices,
        delimiters={task: splits["train"][0].delimiter for task, splits in material.samples.items()},
        seed=derive(material.seed, "rehearsal"),
        real=rehearsal.writer == "real",
        say=teller.say,
    )


def label_set(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The choices that all rows share; empty where each row has its own."""
    first = samples[0].choices
    return first if all(sample.choices == first for sample in samples) else ()


def model_writer(
    rehearsal: Rehearsal,
    chat: Chat,
    cues: dict[str, str],
    labels: dict[str, tuple[str, ...]],
    max_length: int,
    batch_tokens: int,
) -> ModelWriter:
    """The writer for `writer: model`.

    Args:
        labels: label set of each task.
        max_length: the most tokens of a sample with its cue, as in training.
    """
    room = max_length - len(chat.bos_ids) - max(len(chat.cue_ids(cue)) for cue in cues.values())
    return ModelWriter(
        chat=chat,
        cues=cues,
        labels=labels,
        checks=rehearsal.checks,
        sampling=Sampling(rehearsal.temperature, rehearsal.top_k, rehearsal.top_p),
        top_up=rehearsal.top_up,
        max_tries=rehearsal.max_tries,
        max_new_tokens=min(rehearsal.max_new_tokens or room, room),
        batch_tokens=batch_tokens,
    )
