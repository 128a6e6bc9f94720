"""`continual merge-report`: what becomes of a run's specialists when they are merged, by every method and scale.

Scales are compared on dev rows. What each method reaches at its best scale is then measured on the rows of R, beside
what it has to be compared with: the base, the specialists themselves, what the run's other arms reached, the routed
specialists, and random adapters merged in the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual.errors import ContinualError
from continual.evaluate import Exam, take
from continual.execute import check_data
from continual.inference import run_recipe, taught
from continual.lora import Lora, load
from continual.material import Material, gather
from continual.merge import check_arguments, merge
from continual.merged import check_start, put_on, random_like, scaled, specialists_in
from continual.merges import MERGES
from continual.model import add_adapter
from continual.recipe import Recipe
from continual.report.merges import Found, Reference, picture, table
from continual.route import has_router, load_router
from continual.routing import specialists_of
from continual.runs import Run, read_json, write_json, write_text
from continual.score import score
from continual.seeds import derive
from continual.task import TaskIndex

if TYPE_CHECKING:
    from rich.console import Console

FOLDER, REPORT, PICTURE = "merge-report", "report.json", "scales.svg"
METHODS = ("linear", "ties", "dare_ties", "tsv", "iso_c", "knots")
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass
class Examiner:
    """Measures adapters on some rows, each once: what was measured before is read from its file.

    Args:
        folder: of these files.
        exams: by task.
        rows: what tells these exams from others.
    """

    material: Material
    folder: Path
    exams: Mapping[str, Exam]
    rows: str
    _models: dict[int, Any] = field(default_factory=dict)

    def answers(self, lora: Lora | None) -> dict[str, Any]:
        """Score and predictions on every task: ``{task: {score, predictions}}``; None: of the untaught base."""
        path = self.folder / f"{digest(lora, self.rows)}.json"
        if not path.exists():
            model = self.material.untaught() if lora is None else self._wearing(lora)
            results = {
                task: take(exam, model, self.material.chat, self.material.batch_tokens)
                for task, exam in self.exams.items()
            }
            write_json(path, {t: {"score": r.score, "predictions": r.predictions} for t, r in results.items()})
        known: dict[str, Any] = read_json(path)
        return known

    def scores(self, lora: Lora | None) -> dict[str, float]:
        return {task: one["score"] for task, one in self.answers(lora).items()}

    def _wearing(self, lora: Lora) -> Any:
        """A model that makes the adapter's change; one for each rank."""
        if lora.rank not in self._models:
            assert self.material.adapter is not None
            shape = {"r": lora.rank, "lora_alpha": lora.rank}
            shape["target_modules"] = self.material.adapter["target_modules"]
            self._models[lora.rank] = add_adapter(self.material.base(), shape, seed=0).eval()
        put_on(self._models[lora.rank], lora)
        return self._models[lora.rank]


def digest(lora: Lora | None, rows: str) -> str:
    """What an adapter, measured on some rows, is known by: a hash of its numbers."""
    told = hashlib.sha256(rows.encode())
    for name, factors in sorted(lora.factors.items()) if lora is not None else ():
        told.update(name.encode())
        for matrix in factors:
            told.update(matrix.detach().cpu().contiguous().numpy().tobytes())
    return told.hexdigest()[:16]


def merge_report(
    run_dir: Path,
    methods: Sequence[str],
    scales: Sequence[float],
    rank: int | None,
    seed: int | None,
    data_root: Path | None,
    folders: Sequence[Path],
    console: Console,
    trust_remote_code: bool = False,
) -> None:
    """Measure, write report and picture into the run, and print the table.

    Args:
        methods: of `continual.merges`, with their default arguments.
        scales: tried with each.
        rank: of the merged adapters; None: that of the specialists.
        seed: whose specialists; None: the recipe's first.
        data_root, folders: where the data and the tasks are, as for the run.

    Raises:
        ContinualError: there are no specialists, they or a method cannot be used, or the data is not that of the run.
    """
    recipe = run_recipe(run_dir, trust_remote_code)
    source = specialists_of(run_dir, recipe, seed)
    check_start(source)
    told = read_json(source / "run.json")
    recipe = recipe.with_set(told["set"]) if told["set"] else recipe
    tasks = list(recipe.measured)
    for method in methods:
        most = MERGES[method].at_most
        if most is not None and len(tasks) > most:
            raise ContinualError(f"--methods {method}: it merges {most} adapters only; here are {len(tasks)}")
    loras = specialists_in(source, tasks)
    material = _material(run_dir, recipe, told["seed"], data_root, folders)
    evaluated = run_dir / FOLDER / "evaluated"
    asked = [recipe.evaluate.split, recipe.evaluate.limit, material.fingerprints]
    final = Examiner(material, evaluated, material.exams, json.dumps(asked, sort_keys=True))
    dev = {task: material.exam_on(task, material.samples[task]["dev"]) for task in tasks}
    tuning = Examiner(material, evaluated, dev, json.dumps(["dev", *asked[1:]], sort_keys=True))

    found = []
    for method in methods:
        merged = merge(loras, method, rank=rank)
        tried = {}
        for scale in scales:
            tried[scale] = tuning.scores(scaled(merged.lora, scale))
            console.print(f"  [dim]{method}, scale {scale:g}: {mean(tried[scale]):.1%} of dev rows[/dim]")
        best = max(tried, key=lambda scale: (mean(tried[scale]), -scale))
        found.append(Found(method, best, merged.kept, tried, final.scores(scaled(merged.lora, best))))
    references = list(_references(run_dir, source, tasks, loras, final))
    if found:
        top = max(found, key=lambda one: mean(one.dev[one.scale]))
        random = [
            random_like(lora, derive(told["seed"], "control", task)) for lora, task in zip(loras, tasks, strict=True)
        ]
        control = scaled(merge(random, top.method, rank=rank).lora, top.scale)
        references.append(Reference(f"random × {top.scale:g}", "control", final.scores(control)))
    lines = {
        "base": mean(tuning.scores(None)),
        "specialists": mean({t: tuning.scores(lora)[t] for t, lora in zip(tasks, loras, strict=True)}),
    }
    write_json(
        run_dir / FOLDER / REPORT,
        {
            "schema": 1,
            "of": f"{source.parent.name}/{source.name}",
            "tasks": tasks,
            "rank": rank or max(lora.rank for lora in loras),
            "scale_chosen_on": "dev",
            "scores_on": recipe.evaluate.split,
            "merged": [one.told() for one in found],
            "references": [one.told() for one in references],
            "dev": lines,
        },
    )
    write_text(run_dir / FOLDER / PICTURE, picture(found, lines).file())
    console.print(table(tasks, found, references, recipe.evaluate.split))
    console.print(f"written to {run_dir / FOLDER}: {REPORT}, {PICTURE}", highlight=False, soft_wrap=True)


def listed(methods: str, scales: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Methods and scales from texts with commas; the usual ones where a text is empty.

    Raises:
        ContinualError: a method needs more than adapters, or a scale is no positive number.
    """
    named = tuple(name.strip() for name in methods.split(",")) if methods else METHODS
    for name in named:
        check_arguments(name, {})
        if MERGES[name].statistics is not None:
            raise ContinualError(f"--methods {name}: it needs to see each specialist's data; use continual merge")
    try:
        tried = tuple(sorted({float(word) for word in scales.split(",")})) if scales else SCALES
    except ValueError:
        raise ContinualError(f"--scales {scales}: should be numbers with commas, such as 0.3,1,2") from None
    if min(tried) <= 0:
        raise ContinualError(f"--scales {scales}: should be larger than 0")
    return named, tried


def mean(scores: Mapping[str, float]) -> float:
    """Over tasks."""
    return sum(scores.values()) / len(scores)


def _material(run_dir: Path, recipe: Recipe, seed: int, data_root: Path | None, folders: Sequence[Path]) -> Material:
    index = TaskIndex(folders)
    tasks, general = index.find_all(recipe.measured), index.find_all(recipe.evaluate.general)
    material = gather(recipe, tasks, seed, data_root, general)
    run = Run(run_dir)
    if seed == recipe.seeds[0]:  # the manifest knows the rows as the first seed words them
        check_data(run, run.manifest(), material.fingerprints)
    return material


def _references(
    run_dir: Path, source: Path, tasks: Sequence[str], loras: Sequence[Lora], examiner: Examiner
) -> Iterator[Reference]:
    """What merged adapters are compared with."""
    yield Reference("base", "base", examiner.scores(None))
    answers = {task: examiner.answers(lora) for task, lora in zip(tasks, loras, strict=True)}
    yield Reference("specialists, own task", "bound", {task: answers[task][task]["score"] for task in tasks})
    for task in tasks:
        yield Reference(f"specialist {task}", "specialist", {other: answers[task][other]["score"] for other in tasks})
    if has_router(run_dir):
        yield Reference("auto", "routed", _routed(run_dir, tasks, examiner))
    for folder in Run(run_dir).runs():
        told = read_json(folder / "run.json")
        # Of an arm that learns task after task, killed or stopped by its guard, the last row is not its end.
        rows = 1 + (len(told["steps"]) if told["teach"] == "sequential" else 1)
        if folder.name == source.name and len(told["R"]) == rows and told["teach"] != "specialists":
            last = dict(zip(told["tasks"], told["R"][-1], strict=True))
            if all(last.get(task) is not None for task in tasks):
                yield Reference(f"arm {folder.parent.name}", told["teach"], {task: last[task] for task in tasks})


def _routed(run_dir: Path, tasks: Sequence[str], examiner: Examiner) -> dict[str, float]:
    """The scores of `auto`: for each row the answer of whom the router picks."""
    router, known = load_router(run_dir), taught(run_dir)
    answers: dict[str | None, Mapping[str, Any]] = {None: examiner.answers(None)}
    found = {}
    for task in tasks:
        exam = examiner.exams[task]
        said = []
        for n, sample in enumerate(exam.samples):
            choice = router.pick(sample.prompt[-1].content)
            who = choice.adapter
            if who is not None and who not in answers:  # a specialist, or who answers where none is sure
                path = known[who]
                answers[who] = examiner.answers(load(path) if path is not None else None)
            said.append(answers[who][task]["predictions"][n])
        found[task] = score(exam.metric, said, list(exam.samples))
    return found
