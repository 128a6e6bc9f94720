"""The plugins for an arm's `rehearsal`: who writes, who answers, who is distilled from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from continual.batch import Collate
from continual.chat import Chat
from continual.curriculum import labels_of
from continual.data import room
from continual.errors import ContinualError
from continual.material import Material
from continual.methods.base import BasePlugin
from continual.methods.distill import DistillPlugin
from continual.methods.rehearsal import RehearsalPlugin
from continual.plugin import MethodPlugin
from continual.record import Record
from continual.rehearsal_settings import Rehearsal
from continual.rehearse.base import BASE, BaseWriter, Kind
from continual.rehearse.budget import base_quota, quotas
from continual.rehearse.cues import Cues
from continual.rehearse.frame import Frame
from continual.rehearse.surprise import answer_loss
from continual.rehearse.teacher import Newest, Teachers
from continual.rehearse.writer import ModelWriter, RealWriter, Writer
from continual.sampling import Sampling
from continual.seeds import derive


def cues_of(rehearsal: Rehearsal, material: Material) -> Cues:
    """The cues of every task."""
    return Cues(rehearsal.cue, labels_of(material.samples), material.label_sets)


def rehearsing(
    rehearsal: Rehearsal,
    cues: Cues,
    collate: Collate,
    material: Material,
    record: Record,
    specialists: Teachers | None,
    base: Kind | None,
    say: Callable[[str], None],
) -> list[MethodPlugin]:
    """The plugins for an arm's `rehearsal`.

    Args:
        specialists: of the arm that they are asked of; None where nothing asks them.
        base: what is rehearsed of the untaught model, if anything is.

    Raises:
        ContinualError: documents would bear no loss.
    """
    sizes, chat, labels = material.sizes, material.chat, labels_of(material.samples)
    writer: Writer = RealWriter({task: splits["train"] for task, splits in material.samples.items()}, material.seed)
    if rehearsal.writer != "real":
        frames = material.frames
        writer = model_writer(
            rehearsal,
            chat,
            cues.texts,
            material.label_sets,
            frames,
            material.max_length,
            material.batch_tokens,
            specialists,
        )
    plugins: list[MethodPlugin] = [
        RehearsalPlugin(
            order=record.order,
            writer=writer,
            quotas=lambda new, old, risen: quotas(
                rehearsal.budget, rehearsal.ratio, rehearsal.samples, sizes, new, old, risen
            ),
            folder=record.folder / "rehearsed",
            chat=chat,
            collate=collate,
            max_length=material.max_length,
            labels=labels,
            choices=material.label_sets,
            delimiters=material.delimiters,
            seed=derive(material.seed, "rehearsal"),
            real=rehearsal.writer == "real",
            once=rehearsal.when == "after_task",
            share=rehearsal.share,
            loss_on=answer_loss(chat, material.batch_tokens) if rehearsal.budget == "surprise" else None,
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
                order=record.order,
                writer=base_writer,
                wanted=base_quota(rehearsal, sizes[record.order[0]]),
                path=record.folder / "rehearsed" / f"0-{BASE}.jsonl",
                label=base_label,
                collate=collate,
                seed=derive(material.seed, "base"),
                say=say,
            )
        )
    if rehearsal.distill is not None:
        asked = specialists if rehearsal.distill.teacher == "specialist" else None
        numbers = {base_label: BASE, **{number: task for task, number in labels.items()}}
        distill = rehearsal.distill
        plugins.append(DistillPlugin(distill.weight, distill.temperature, asked or Newest(), numbers))
    return plugins


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
        batch_tokens=batch_tokens,
        frames=frames,
        relabel=rehearsal.relabel is not None,
        writers=specialists if specialists is not None and rehearsal.writer == "specialist" else Newest(),
        answerers=specialists if specialists is not None and rehearsal.relabel == "specialist" else Newest(),
        seed_words=rehearsal.seed_words,
    )
