"""The guard of an arm: after every task, how far each earlier one has fallen, and what follows from it.

What is examined are dev rows where the arm reads real rows again anyway; else samples that the model wrote right after
it had learned the task, and that it never learns from. What is decided is written before it is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from continual import evaluate
from continual.material import Material
from continual.rehearse import text
from continual.rehearse.shape import Shape
from continual.rehearse.writer import Writer
from continual.runs import read_json, write_json
from continual.sample import Sample
from continual.seeds import derive

Action = Literal["none", "warn", "stop", "rollback"]


@dataclass(frozen=True)
class Decision:
    """What a guard saw after one task, and what it decided."""

    after: str
    """The task that was just learned."""
    limit: float
    rows: Literal["dev", "written"]
    """What was examined: real dev rows, or samples that the model wrote."""
    examined: dict[str, int]
    """Rows of each task that was examined."""
    scores: dict[str, float]
    forgotten: dict[str, float]
    """How far each earlier task is below its best."""
    action: Action
    generated_tokens: int = 0
    """Tokens of the samples that were written to be examined on."""
    real_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes of the dev rows of each earlier task."""
    trained: dict[str, Any] = field(default_factory=dict)
    """What the training took whose weights are given up."""

    @property
    def breaches(self) -> dict[str, float]:
        """The tasks that have fallen further than the limit."""
        return {task: lost for task, lost in self.forgotten.items() if lost > self.limit}

    @property
    def unseen(self) -> list[str]:
        """Tasks of which nothing could be examined."""
        return [task for task, rows in self.examined.items() if not rows]

    @property
    def _then(self) -> str:
        return {
            "none": "this arm goes on",
            "stop": "this arm stops here",
            "rollback": f"the model goes back, and {self.after} is skipped",
            "warn": "this arm goes on",
        }[self.action]

    @property
    def line(self) -> str:
        """What it says to the user; empty where nothing is wrong."""
        if not self.breaches:
            unseen = ", ".join(self.unseen)
            why = "its data is gone" if self.rows == "dev" else "no sample written of it passed its checks"
            return f"guard: after {self.after}, {unseen} cannot be watched: {why}; {self._then}" if unseen else ""
        lost = ", ".join(f"{task} has lost {100 * lost:.1f} points" for task, lost in self.breaches.items())
        what = "its dev rows" if self.rows == "dev" else "samples written when it was learned"
        return (
            f"guard: after {self.after}, {lost} on {what} (at most {100 * self.limit:.1f} are allowed); {self._then}"
        )


def forgotten(history: Sequence[Mapping[str, float]], now: Mapping[str, float]) -> dict[str, float]:
    """f_j = max_{l<i} s[l][j] − s[i][j] for each task j that was examined before the i-th task.

    Chaudhry et al. 2018 (Riemannian Walk), before their mean over tasks. `history` begins for each task when it was
    learned, so that the maximum is over l = j..i−1.

    Args:
        history: scores by task after each earlier task.
        now: scores by task after the newest one.
    """
    known = {task for scores in history for task in scores}
    best = {task: max(scores[task] for scores in history if task in scores) for task in known}
    return {task: best[task] - score for task, score in now.items() if task in best}


class Guardian:
    """Watches one arm's run.

    Args:
        order: the tasks as they are taught; numbers below count from 1.
        folder: gets ``<i>.json``, what was decided after the i-th task, and ``<i>-<task>.jsonl``, what was written.
        limit: how far a task may fall, as a fraction.
        on_breach: what is done then.
        writer: writes samples to be examined on; None where dev rows may be read.
        samples: how many it writes of each task.
        choices: label set of each task.
        shapes: of the rows of each task, as far as they are known when it writes.
        seed: every random draw derives from it.
    """

    def __init__(
        self,
        *,
        order: Sequence[str],
        folder: Path,
        limit: float,
        on_breach: Literal["warn", "stop", "rollback"],
        material: Material,
        writer: Writer | None,
        samples: int,
        choices: Mapping[str, tuple[str, ...]],
        shapes: Callable[[], Mapping[str, Shape]],
        seed: int,
    ) -> None:
        self.order, self.folder, self.limit, self.on_breach = order, folder, limit, on_breach
        self.material, self.writer, self.samples = material, writer, samples
        self.choices, self.shapes, self.seed = choices, shapes, seed

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def decided(self, number: int) -> Decision | None:
        """What was decided after a task; None where nothing was yet."""
        path = self._path(number)
        return Decision(**read_json(path)) if path.exists() else None

    def decide(self, number: int, model: Any, trained: Mapping[str, Any]) -> Decision:
        """Examine the model after a task, and write down what is to be done.

        Args:
            model: as it is after the task.
            trained: what the training of the task took.
        """
        before = [self.decided(n) for n in range(1, number)]
        history = [decision.scores for decision in before if decision is not None and decision.action != "rollback"]
        given_up = {decision.after for decision in before if decision is not None and decision.action == "rollback"}
        learnt = [task for task in self.order[:number] if task not in given_up]
        rows, tokens = self._rows(learnt, number, model)
        scores = {task: self._score(task, samples, model) for task, samples in rows.items() if samples}
        lost = forgotten(history, scores)
        # What cannot be seen may be forgotten: a task that was learned before and has no sample counts as fallen.
        breach = any(value > self.limit for value in lost.values()) or any(not rows[task] for task in learnt[:-1])
        # A run that was taught without a guard and goes on with one: of what it is by then, nothing can be taken back.
        acts = breach and (not before or before[-1] is not None)
        earlier = learnt[:-1] if self.writer is None else []
        decision = Decision(
            after=self.order[number - 1],
            limit=self.limit,
            rows="dev" if self.writer is None else "written",
            examined={task: len(samples) for task, samples in rows.items()},
            scores=scores,
            forgotten=lost,
            action=self.on_breach if acts else "none",
            generated_tokens=tokens,
            real_bytes={task: sum(_bytes(sample) for sample in rows[task]) for task in earlier},
            trained=dict(trained) if acts and self.on_breach == "rollback" else {},
        )
        write_json(self._path(number), asdict(decision))
        return decision

    def _score(self, task: str, samples: Sequence[Sample], model: Any) -> float:
        exam = self.material.exam_on(task, samples)
        return evaluate.take(exam, model, self.material.chat, self.material.batch_tokens).score

    def _rows(self, learnt: Sequence[str], number: int, model: Any) -> tuple[dict[str, Sequence[Sample]], int]:
        """What each task is examined on, and how many tokens were written for it just now."""
        if self.writer is None:
            return {task: self.material.samples[task]["dev"] for task in learnt}, 0
        paths = {path.stem.partition("-")[2]: path for path in sorted(self.folder.glob("*-*.jsonl"))}
        wanted = {task: self.samples for task in learnt if task not in paths}
        if wanted:
            seed = derive(self.seed, number, "guard")
            for task, written in self.writer.write(model, wanted, seed, shapes=self.shapes()).items():
                paths[task] = self.folder / f"{number}-{task}.jsonl"
                text.save(paths[task], written)
        fresh = {task: text.load(paths[task]) for task in learnt}
        tokens = sum(sample.tokens for task in learnt if _number(paths[task]) == number for sample in fresh[task])
        return {task: self._samples(task, written) for task, written in fresh.items()}, tokens

    def _samples(self, task: str, written: Sequence[text.Written]) -> list[Sample]:
        return text.kept(task, written, self.choices[task], self.material.delimiters[task])


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _bytes(sample: Sample) -> int:
    return len(json.dumps([vars(message) for message in sample.messages]))
