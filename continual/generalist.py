"""One adapter from the specialists of another arm: merged, or distilled from what they write."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from continual import lora
from continual.curriculum import labels_of
from continual.data import encode
from continual.errors import ContinualError
from continual.guard import guard
from continual.learn import Hyperparameters
from continual.lora import Lora
from continual.material import Material
from continual.merged import How, merged, put_on, specialists_in
from continual.methods.distill import DistillPlugin
from continual.methods.rehearsal import told_in_words
from continual.model import add_adapter
from continual.ownwords import ALL, kept_samples, longest_rows, own_words, shapes_of_rows, specialist_writer, told
from continual.peak_memory import peak, reset_peak
from continual.plugin import LossPlugin, MethodPlugin
from continual.progress import Teller
from continual.record import Record
from continual.rehearsal_settings import Distill, Rehearsal
from continual.rehearse.budget import quotas
from continual.rehearse.surprise import answer_loss
from continual.rehearse.teacher import Specialists
from continual.runs import write_folder, write_json
from continual.sample import Sample
from continual.seeds import derive
from continual.teach import TRAINED, Pupil, Teaching, TrainingFiles, put

guard()

from avalanche.benchmarks import benchmark_from_datasets  # noqa: E402
from avalanche.benchmarks.utils import concat_datasets  # noqa: E402

MERGE = "merge.json"
"""Beside the weights: how they were merged."""


class Spent:
    """What making an adapter takes, for `trained.json`: from its making to `told`."""

    def __init__(self) -> None:
        reset_peak()
        self.started = time.perf_counter()
        self.generated_tokens = 0
        self.rehearsed: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []

    def told(self) -> dict[str, Any]:
        return {
            "seconds": time.perf_counter() - self.started,
            "train_tokens": 0,
            "generated_tokens": self.generated_tokens,
            "peak_bytes": peak(),
            "rehearsed": self.rehearsed,
            "kept": self.kept,
        }


class Written(LossPlugin, MethodPlugin):
    """Tells the report what the specialists wrote for an arm before it learned, and counts its time."""

    def __init__(self, spent: Spent) -> None:
        super().__init__()
        self.spent, self.generated_tokens = spent, spent.generated_tokens
        self.seconds = time.perf_counter() - spent.started

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        strategy.started -= self.seconds

    @property
    def told(self) -> list[dict[str, Any]]:
        return self.spent.rehearsed

    @property
    def kept(self) -> list[dict[str, Any]]:
        return self.spent.kept


def merge_specialists(
    material: Material,
    record: Record,
    specialists: Path,
    how: How,
    trials: Callable[[Spent], Mapping[str, Sequence[Sample]]],
    teller: Teller,
) -> None:
    """The specialists merged into one adapter; row 1 of R is what it scores on every task.

    Args:
        specialists: the run of their arm.
        trials: samples of each task to tune on; only asked where `how` wants to.
    """
    folder, missing = record.folder / "after" / "1", record.missing(1)
    if not missing:
        return
    if not folder.exists():
        spent = Spent()
        made, said = merge_of(material, record.order, specialists, how, lambda: trials(spent))
        teller.say(f"    [dim]{words_of(said)}[/dim]")

        def fill(new: Path) -> None:
            lora.save(made, new)
            material.chat.save_tokenizer(new)
            write_json(new / MERGE, {"of": specialists.parent.name, "tasks": record.order, **said})
            write_json(new / TRAINED, spent.told())

        write_folder(folder, fill)
    put(record, material, 1, "merged", material.saved(folder), missing, folder, teller)


def merge_of(
    material: Material,
    tasks: Sequence[str],
    specialists: Path,
    how: How,
    trials: Callable[[], Mapping[str, Sequence[Sample]]],
) -> tuple[Lora, dict[str, Any]]:
    """The merge of some tasks' specialists, and how it was made; see `merged.merged`."""
    loras = specialists_in(specialists, tasks)
    if not isinstance(how.scale, str):
        return merged(loras, how)
    return merged(loras, how, trial_loss(material, loras, how.rank, trials()))


def trial_loss(
    material: Material, loras: Sequence[Lora], rank: int | None, samples: Mapping[str, Sequence[Sample]]
) -> Callable[[Lora], float]:
    """The loss of a merged adapter: of an answer's token, the mean over the samples of a task, then over tasks.

    Each task counts as much as any other, however long its answers are.

    Raises:
        ContinualError: there is no sample.
    """
    assert material.adapter is not None
    asked = [own for own in samples.values() if own]
    if not asked:
        raise ContinualError("scale: there is no sample to tune on; the specialists wrote none that passed the checks")
    most = rank or max(one.rank for one in loras)
    shape = {"r": most, "lora_alpha": most, "target_modules": material.adapter["target_modules"]}
    model = add_adapter(material.base(), shape, seed=0).eval()
    loss = answer_loss(material.chat, material.batch_tokens, material.max_length)

    def of(candidate: Lora) -> float:
        put_on(model, candidate)
        return sum(loss(model, own) for own in asked) / len(asked)

    return of


def words_of(said: Mapping[str, Any]) -> str:
    """How a merge was made, in one line."""
    found = f", found in {said['trials']} trials" if "trials" in said else ""
    lost = "" if said["kept"] > 0.9995 else f"; rank {said['rank']} holds {said['kept']:.1%} of it"
    return f"merged by {said['method']}, scale {said['scale']:.3g}{found}{lost}"


def dev_rows(material: Material, tasks: Sequence[str], most: int, spent: Spent) -> dict[str, list[Sample]]:
    """Real rows that no training has seen, which are kept for it."""
    rows = {task: list(material.samples[task]["dev"][:most]) for task in tasks}
    for task, own in rows.items():
        size = sum(len(json.dumps([vars(m) for m in sample.messages])) for sample in own)
        spent.kept.append({"task": task, "rows": len(own), "bytes": size})
    return rows


def written_rows(
    material: Material,
    rehearsal: Rehearsal,
    specialists: Path,
    wanted: Mapping[str, int],
    folder: Path,
    collate: Any,
    spent: Spent,
    teller: Teller,
    before: str = ALL,
) -> dict[str, list[Sample]]:
    """What the specialists write themselves.

    Args:
        rehearsal: how they write.
        folder: where the text is kept.
        spent: what this took is added to it.
        before: what the report calls that which is learned of it.
    """
    teachers = Specialists(specialists, {})
    writer = specialist_writer(rehearsal, material, teachers)
    shapes = shapes_of_rows(material, longest_rows(material, collate))
    seed = derive(material.seed, "rehearsal", "specialists")
    written = own_words(material.student(), writer, wanted, seed, folder, shapes)
    entries = told(material, wanted, written, before)
    spent.rehearsed += entries
    spent.generated_tokens += sum(sample.tokens for samples in written.values() for sample in samples)
    for entry in entries:
        teller.say(told_in_words(entry))
    return kept_samples(material, written)


def samples_wanted(rehearsal: Rehearsal, material: Material, tasks: Sequence[str]) -> dict[str, int]:
    """How many samples each specialist writes."""
    return quotas("old_task", rehearsal.ratio, rehearsal.samples, material.sizes, "", tasks, own=material.quotas)


def distill_specialists(
    material: Material,
    record: Record,
    hyperparameters: Mapping[str, Hyperparameters],
    teaching: Teaching,
    specialists: Path,
    distill: Distill | None,
    samples: Callable[[Spent], Mapping[str, Sequence[Sample]]],
    start: Callable[[Spent], Lora] | None,
    teller: Teller,
) -> None:
    """All that the specialists wrote, mixed, each sample with the distribution of its own specialist.

    No real row is read. The loss is that of `methods.distill`.

    Args:
        specialists: the run of their arm.
        distill: null: what is written is learned as it stands.
        samples: of each task.
        start: the adapter to begin with; None: a fresh one.

    Raises:
        ContinualError: there is no sample.
    """
    folder, missing = record.folder / "after" / "1", record.missing(1)
    if not missing:
        return
    if folder.exists():
        put(record, material, 1, "all", material.saved(folder), missing, folder, teller)
        return
    spent = Spent()
    model = material.student()
    if start is not None:
        put_on(model, start(spent))
    epochs = {task: hyperparameters[task].num_train_epochs for task in record.order}
    together = math.gcd(*epochs.values())
    labels, parts = labels_of(material.samples), []
    for task, own in samples(spent).items():
        if own:
            rows = encode(own, material.chat, material.max_length, labels[task], teaching.collate, rehearsed=True)
            parts += [rows] * (epochs[task] // together)
    if not parts:
        raise ContinualError("the specialists wrote no sample that passed the checks: there is nothing to distill")
    methods: list[MethodPlugin] = [Written(spent)]
    if distill is not None:
        teachers = Specialists(specialists, {})
        numbers = {number: task for task, number in labels.items()}
        methods.append(DistillPlugin(distill.weight, distill.temperature, teachers, numbers))
    lessons = benchmark_from_datasets(train=[concat_datasets(parts)]).train_stream
    shared = replace(hyperparameters[record.order[0]], num_train_epochs=together)
    seed = derive(material.seed, "train")
    pupil = Pupil(material, model, shared, seed, teaching, methods, TrainingFiles(record.folder), teller)
    pupil.learn(lessons[0], "what the specialists wrote", folder, peak_before=peak())
    put(record, material, 1, "all", model, missing, folder, teller)
