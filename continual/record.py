"""What one arm has reached so far, at one seed and sweep point: R, intervals, costs. Kept in `run.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from continual.evaluate import Exam, Result, write_predictions
from continual.runs import Matrix, read_json, write_json, write_matrix

Interval = tuple[float, float]


@dataclass
class Cost:
    """What an arm took; see docs/reading-results.md."""

    seconds: float = 0.0
    train_tokens: int = 0
    generated_tokens: int = 0
    """Tokens generated for rehearsal; those of the evaluation, which every arm needs alike, are not
    counted."""
    peak_bytes: int = 0
    real_rows_kept: int | None = 0
    """None where tasks have no order (multitask reads all rows at once)."""
    stored_bytes: int = 0
    """Bytes of real rows kept for rehearsal."""

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what one task took; of memory the highest peak counts."""
        self.seconds += other["seconds"]
        self.train_tokens += other["train_tokens"]
        self.generated_tokens += other["generated_tokens"]
        self.peak_bytes = max(self.peak_bytes, other["peak_bytes"])


@dataclass
class Record:
    """The state of one arm's run; `save` writes all of it atomically.

    Args:
        folder: ``arms/<arm>/<run>``.
        tasks: the columns of R.
        order: the tasks as they are taught.
    """

    folder: Path
    arm: str
    teach: str
    seed: int
    set: dict[str, Any]
    order: list[str]
    tasks: list[str]
    rows: list[str] = field(default_factory=list)
    R: Matrix = field(default_factory=list)
    ci: list[list[Interval | None]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    rehearsed: list[dict[str, Any]] = field(default_factory=list)
    guard: list[dict[str, Any]] = field(default_factory=list)
    """What the guard saw after each task; see `breach.Decision`."""

    @property
    def stopped(self) -> dict[str, Any] | None:
        """The check at which the guard ended this run."""
        return next((check for check in self.guard if check["action"] == "stop"), None)

    @property
    def path(self) -> Path:
        return self.folder / "run.json"

    def load(self) -> None:
        """Take up what an earlier start of this run has saved; columns that are new since then are empty."""
        saved = read_json(self.path)
        old = {task: column for column, task in enumerate(saved["tasks"])}
        self.rows, self.rehearsed, self.cost = saved["rows"], saved["rehearsed"], Cost(**saved["cost"])
        self.guard = saved.get("guard", [])  # older runs have none
        self.R = [[row[old[t]] if t in old else None for t in self.tasks] for row in saved["R"]]
        self.ci = [[row[old[t]] if t in old else None for t in self.tasks] for row in saved["ci"]]

    def forget(self) -> None:
        """Begin anew: only the untaught base's row stays."""
        self.rows, self.R, self.ci, self.rehearsed = self.rows[:1], self.R[:1], self.ci[:1], []
        self.guard, self.cost = [], Cost()

    @property
    def content(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        return {
            "arm": self.arm,
            "teach": self.teach,
            "seed": self.seed,
            "set": self.set,
            "order": self.order,
            "tasks": self.tasks,
            "rows": self.rows,
            "R": self.R,
            "ci": self.ci,
            "cost": vars(self.cost),
            "rehearsed": self.rehearsed,
            "guard": self.guard,
            "stopped_by_guard": self.stopped,
        }

    def save(self) -> None:
        write_matrix(self.folder / "R.csv", self.tasks, self.rows, self.R)
        write_json(self.path, self.content)

    def missing(self, row: int) -> list[str]:
        """Tasks without a score in a row (all, if the row is not there yet)."""
        if row >= len(self.R):
            return list(self.tasks)
        return [task for task, cell in zip(self.tasks, self.R[row], strict=True) if cell is None]

    def put(self, row: int, name: str, exams: Mapping[str, Exam], results: Mapping[str, Result]) -> None:
        """Write scores and predictions into a row of R, the next one or one that has gaps."""
        if row == len(self.R):
            self.rows.append(name)
            self.R.append([None] * len(self.tasks))
            self.ci.append([None] * len(self.tasks))
        for task, result in results.items():
            column = self.tasks.index(task)
            self.R[row][column], self.ci[row][column] = result.score, result.interval
            write_predictions(self.folder / "predictions" / f"{row}-{task}.jsonl", exams[task], result)

    def add_rehearsed(self, told: Sequence[dict[str, Any]]) -> None:
        """Keep what was rehearsed before a task."""
        self.rehearsed += told
        if told:
            self.count_real()

    def add_check(self, check: dict[str, Any]) -> None:
        """Keep what the guard saw after a task."""
        self.guard.append(check)
        self.cost.generated_tokens += check["generated_tokens"]
        self.count_real()

    def count_real(self) -> None:
        """Real rows kept: of each task the most ever rehearsed, and the dev rows that the guard examined."""
        most_rows: dict[tuple[str, str], int] = {}
        most_bytes: dict[tuple[str, str], int] = {}

        def see(kind: str, task: str, rows: int, size: int) -> None:
            most_rows[kind, task] = max(most_rows.get((kind, task), 0), rows)
            most_bytes[kind, task] = max(most_bytes.get((kind, task), 0), size)

        for entry in self.rehearsed:
            see("train", entry["task"], entry["real_rows"], entry["real_bytes"])
        for check in self.guard:
            for task, size in check["real_bytes"].items():
                see("dev", task, check["examined"][task], size)
        self.cost.real_rows_kept, self.cost.stored_bytes = sum(most_rows.values()), sum(most_bytes.values())

    def put_base(self, scores: Sequence[float | None], intervals: Sequence[Interval | None]) -> None:
        """Row 0, which all arms share."""
        if not self.R:
            self.rows, self.R, self.ci = ["base"], [[]], [[]]
        self.R[0], self.ci[0] = list(scores), list(intervals)
