"""The plugins for an arm's `rehearsal`: who writes, who answers, who is distilled from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from continual import states
from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import labels_of
from continual.data import room
from continual.errors import ContinualError
from continual.material import Material
from continual.methods.base import BasePlugin
from continual.methods.distill import DistillPlugin
from continual.methods.rehearsal import RehearsalPlugin
from continual.methods.spaced import SpacedPlugin
from continual.plugin import MethodPlugin
from continual.record import Record
from continual.rehearsal_settings import Rehearsal
from continual.rehearse.base import BASE, BaseWriter, Kind
from continual.rehearse.budget import base_quota, quotas, sets
from continual.rehearse.cues import Cues
from continual.rehearse.expected import TargetStore
from continual.rehearse.frame import Frame
from continual.rehearse.likeness import Likeness
from continual.rehearse.shape import Shape, restored, shape_of
from continual.rehearse.surprise import answer_loss
from continual.rehearse.teacher import Newest, Teachers
from continual.rehearse.writer import ModelWriter, RealWriter, Writer
from continual.runs import read_json
from continual.sampling import Sampling
from continual.seeds import derive
from continual.stream import PAST


def cues_of(rehearsal: Rehearsal, material: Material, unannounced: bool = False) -> Cues:
    """The cues of every task, or of every chunk and of everything so far."""
    return Cues(rehearsal.cue, numbers_of(material, unannounced), material.label_sets)


def numbers_of(material: Material, unannounced: bool) -> dict[str, int]:
    """A number for everything that can be rehearsed."""
    numbers = labels_of(material.samples)
    return {**numbers, PAST: len(numbers)} if unannounced else numbers


def rehearsing(
    rehearsal: Rehearsal,
    cues: Cues,
    collate: Collate,
    material: Material,
    record: Record,
    specialists: Teachers | None,
    base: Kind | None,
    epochs: int,
    say: Callable[[str], None],
) -> list[MethodPlugin]:
    """The plugins for an arm's `rehearsal`.

    Args:
        specialists: of the arm that they are asked of; None where nothing asks them.
        base: what is rehearsed of the untaught model, if anything is.
        epochs: of each task.

    Raises:
        ContinualError: documents would bear no loss.
    """
    sizes, chat, labels = material.sizes, material.chat, numbers_of(material, record.chunks is not None)
    train = {task: splits["train"] for task, splits in material.samples.items()}
    # Stored rows come from known chunks. A model has one cue for everything so far.
    pool = PAST if record.chunks is not None and rehearsal.writer != "real" else None
    seen = dict(zip(record.steps, accumulate([0, *(sizes[step] for step in record.steps[:-1])]), strict=True))
    choices = {**material.label_sets, PAST: ()}
    writer: Writer = RealWriter(train, material.seed)
    frames = {} if pool else material.frames
    # For the report alone: there are none of chunks, and none of tasks whose data is gone.
    announced = material.samples if record.chunks is None else {}
    real_rows = {task: splits for task, splits in announced.items() if task not in material.remembered}
    if rehearsal.writer != "real":
        writer = model_writer(
            rehearsal,
            chat,
            cues.texts,
            choices,
            frames,
            material.max_length,
            material.batch_tokens,
            specialists,
        )
    loss_on = answer_loss(chat, material.batch_tokens, material.max_length)
    spaced = SpacedPlugin(rehearsal.day_steps) if rehearsal.schedule == "spaced" else None
    distill, targets = rehearsal.distill, None
    if distill is not None and distill.teacher == "at_writing":
        targets = TargetStore(collate, distill.temperature)
    plugins: list[MethodPlugin] = [
        RehearsalPlugin(
            order=record.steps,
            writer=writer,
            quotas=lambda new, old, risen: quotas(
                rehearsal.budget,
                rehearsal.ratio,
                rehearsal.samples,
                {**sizes, PAST: seen[new]},
                new,
                old,
                risen,
                material.quotas,
            ),
            pool=pool,
            folder=record.folder / "rehearsed",
            chat=chat,
            collate=collate,
            max_length=material.max_length,
            labels=labels,
            choices=choices,
            delimiters={**material.delimiters, PAST: material.delimiters[record.steps[0]]},
            shape_of_new=lambda task, longest: shape_of(train[task], longest),
            likeness=Likeness(real_rows, frames, choices).of,
            seed=derive(material.seed, "rehearsal"),
            stored=sizes if rehearsal.writer == "real" else None,
            sets=sets(rehearsal, epochs),
            once=rehearsal.when == "after_task",
            share=rehearsal.share,
            spaced=spaced,
            targets=targets,
            loss_on=loss_on if rehearsal.budget == "surprise" else None,
            say=say,
        )
    ]
    base_label = len(labels)
    if base is not None:
        if base == "documents" and not rehearsal.lm_lambda:
            raise ContinualError("rehearse_base: documents bear the sample loss alone, and lm_lambda is 0")
        space = room(material.max_length, collate)
        base_writer = BaseWriter(chat, base, space, rehearsal.top_up, rehearsal.max_tries, material.batch_tokens)
        plugins.append(
            BasePlugin(
                order=record.steps,
                writer=base_writer,
                wanted=base_quota(rehearsal, sizes[record.steps[0]]),
                path=record.folder / "rehearsed" / f"0-{BASE}.jsonl",
                label=base_label,
                collate=collate,
                seed=derive(material.seed, "base"),
                targets=targets,
                say=say,
            )
        )
    if distill is not None:
        asked = specialists if distill.teacher == "specialist" else None
        numbers = {base_label: BASE, **{number: task for task, number in labels.items()}}
        teachers = targets or asked or Newest()
        plugins.append(DistillPlugin(distill.weight, distill.temperature, teachers, numbers, spaced))
    return [*plugins, spaced] if spaced is not None else plugins


def shapes_of(folder: Path) -> dict[str, Shape]:
    """The shapes of the tasks that a saved model has learnt; none where it was taught before they were kept."""
    path = folder / f"{states.NAME}.json"
    return restored(read_json(path)[0].get("shapes", {})) if path.exists() else {}


def model_writer(
    rehearsal: Rehearsal,
    chat: Chat,
    cues: Mapping[str, Sequence[str]],
    labels: Mapping[str, tuple[str, ...]],
    frames: Mapping[str, Frame],
    max_length: int,
    batch_tokens: int,
    specialists: Teachers | None = None,
) -> ModelWriter:
    """The writer for `writer: model` and `writer: specialist`.

    Args:
        labels: label set of each task.
        max_length: the most tokens of a sample with its cue, as in training.
    """
    longest = max(len(chat.cue_ids(cue)) for texts in cues.values() for cue in texts)
    room = max_length - len(chat.bos_ids) - longest
    return ModelWriter(
        chat=chat,
        cues=cues,
        labels=labels,
        checks=rehearsal.checks,
        sampling=Sampling(rehearsal.temperature, rehearsal.top_k, rehearsal.top_p),
        top_up=rehearsal.top_up,
        max_tries=rehearsal.max_tries,
        max_new_tokens=min(rehearsal.max_new_tokens or room, room),
        by_shape=rehearsal.max_new_tokens is None,
        batch_tokens=batch_tokens,
        frames=frames,
        relabel=rehearsal.relabel is not None,
        writers=specialists if specialists is not None and rehearsal.writer == "specialist" else Newest(),
        answerers=specialists if specialists is not None and rehearsal.relabel == "specialist" else Newest(),
        seed_words=rehearsal.seed_words,
    )
