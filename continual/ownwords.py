"""What specialists write of their own tasks, each by itself: prompts to tell them apart by, samples to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from continual.curriculum import rows_of
from continual.material import Material
from continual.methods.rehearsal import summary
from continual.rehearsal_settings import Rehearsal
from continual.rehearse import text
from continual.rehearse.likeness import Likeness
from continual.rehearse.shape import Shape, shape_of
from continual.rehearse.teacher import Teachers
from continual.rehearse.text import Written
from continual.rehearse.writer import ModelWriter
from continual.rehearsing import cues_of, model_writer
from continual.sample import Sample

ALL = "all tasks"
"""What stands in the place of the new task, where all tasks are written at once."""


def specialist_writer(rehearsal: Rehearsal, material: Material, specialists: Teachers) -> ModelWriter:
    """Each task is written by its specialist.

    Args:
        rehearsal: how they write; its cue is the one that they have learned.
    """
    return model_writer(
        rehearsal,
        material.chat,
        cues_of(rehearsal, material).texts,
        material.label_sets,
        material.frames,
        material.max_length,
        material.batch_tokens,
        specialists,
    )


def own_words(
    model: Any,
    writer: ModelWriter,
    wanted: Mapping[str, int],
    seed: int,
    folder: Path,
    shapes: Mapping[str, Shape] | None = None,
) -> dict[str, list[Written]]:
    """Samples of each task, kept and rejected ones; text that is there already is not written again.

    Args:
        model: with an adapter of the specialists' shape; which weights are in it does not matter.
        wanted: samples of each task.
        folder: where the text is kept, ``1-<task>.jsonl``.
    """
    paths = {task: folder / f"1-{task}.jsonl" for task in wanted}
    # What comes out of one decoding call is the same only if it is the same call.
    if not all(path.exists() for path in paths.values()):
        for task, samples in writer.write(model, wanted, seed, shapes=shapes).items():
            text.save(paths[task], samples)
    return {task: text.load(path) for task, path in paths.items()}


def shapes_of_rows(material: Material, longest: Mapping[str, int]) -> dict[str, Shape]:
    """The shape of each task's training rows.

    Args:
        longest: tokens of each task's longest row.
    """
    return {task: shape_of(material.samples[task]["train"], tokens) for task, tokens in longest.items()}


def longest_rows(material: Material, collate: Any) -> dict[str, int]:
    """Tokens of each task's longest training row."""
    train = {task: splits["train"] for task, splits in material.samples.items()}
    return {task: max(rows_of(r, material.chat, collate, material.max_length).lengths) for task, r in train.items()}


def kept_samples(material: Material, written: Mapping[str, Sequence[Written]]) -> dict[str, list[Sample]]:
    """Those samples of each task that passed every check."""
    labels, delimiters = material.label_sets, material.delimiters
    return {task: text.kept(task, samples, labels[task], delimiters[task]) for task, samples in written.items()}


def told(
    material: Material, wanted: Mapping[str, int], written: Mapping[str, Sequence[Written]], before: str = ALL
) -> list[dict[str, Any]]:
    """What was written of each task, for the report.

    Args:
        before: what stands in the place of the new task.
    """
    likeness = Likeness(material.samples, material.frames, material.label_sets)
    found = []
    for task, samples in written.items():
        kept = [s.messages for s in samples if s.reason is None and s.messages is not None]
        counts = summary(before, task, 1, wanted[task], samples, real=False)
        found.append({**counts, **likeness.of(task, kept)})
    return found
