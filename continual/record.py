"""What one arm has reached so far, at one seed and sweep point: R, intervals, costs. Kept in `run.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from continual.evaluate import Exam, Result, write_predictions
from continual.general import Measured
from continual.runs import Matrix, read_json, write_json, write_matrix
from continual.stream import Span, names

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
    """None where tasks have no order (multitask reads all rows at once), and where a foreign plugin may keep any."""
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
        chunks: in how many parts, where they are not announced.
    """

    folder: Path
    arm: str
    teach: str
    seed: int
    set: dict[str, Any]
    order: list[str]
    tasks: list[str]
    whole: bool = True
    """Whether every row of R is examined in full; else only the base, each task's own cell and the last row."""
    chunks: int | None = None
    spans: list[Span] | None = None
    """The first and the last chunk of each task of `order`, from 1."""
    rows: list[str] = field(default_factory=list)
    R: Matrix = field(default_factory=list)
    ci: list[list[Interval | None]] = field(default_factory=list)
    general: list[Measured | None] = field(default_factory=list)
    """General ability after each row of R; None where it is not asked or not defined."""
    cost: Cost = field(default_factory=Cost)
    rehearsed: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Real rows that methods kept in a memory, see `MethodPlugin.kept`."""
    guard: list[dict[str, Any]] = field(default_factory=list)
    """What the guard saw after each task; see `breach.Decision`."""

    @property
    def steps(self) -> list[str]:
        """What is taught one after another: the tasks, or chunks."""
        return self.order if self.chunks is None else names(self.chunks)

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
        # Older runs have neither.
        self.kept, self.guard = saved.get("kept", []), saved.get("guard", [])
        self.R = [[row[old[t]] if t in old else None for t in self.tasks] for row in saved["R"]]
        self.ci = [[row[old[t]] if t in old else None for t in self.tasks] for row in saved["ci"]]
        self.general = saved["general"]
        self.spans = saved["spans"]

    def forget(self) -> None:
        """Begin anew: only the untaught base's row stays."""
        self.rows, self.R, self.ci = self.rows[:1], self.R[:1], self.ci[:1]
        self.rehearsed, self.kept, self.guard, self.general = [], [], [], self.general[:1]
        self.cost = Cost(real_rows_kept=None if self.cost.real_rows_kept is None else 0)

    @property
    def content(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        return {
            "arm": self.arm,
            "teach": self.teach,
            "seed": self.seed,
            "set": self.set,
            "order": self.order,
            "steps": self.steps,
            "spans": self.spans,
            "tasks": self.tasks,
            "rows": self.rows,
            "R": self.R,
            "ci": self.ci,
            "general": self.general,
            "cost": vars(self.cost),
            "rehearsed": self.rehearsed,
            "kept": self.kept,
            "guard": self.guard,
            "stopped_by_guard": self.stopped,
        }

    def save(self) -> None:
        write_matrix(self.folder / "R.csv", self.tasks, self.rows, self.R)
        write_json(self.path, self.content)

    def missing(self, row: int) -> list[str]:
        """Tasks that are to be examined for a row, and have no score in it yet."""
        last = len(self.steps) if self.teach == "sequential" else 1
        ends = [end for _, end in self.spans] if self.spans is not None else range(1, last + 1)
        own = [task for task, end in zip(self.order, ends, strict=False) if end == row]
        asked = self.tasks if self.whole or row in (0, last) else own
        known = self.R[row] if row < len(self.R) else [None] * len(self.tasks)
        return [task for task, cell in zip(self.tasks, known, strict=True) if cell is None and task in asked]

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
        self.count_real()

    def add_kept(self, kept: Sequence[dict[str, Any]]) -> None:
        """Keep how many real rows of earlier tasks lay in a memory while a task was learnt."""
        self.kept += kept
        self.count_real()

    def add_check(self, check: dict[str, Any]) -> None:
        """Keep what the guard saw after a task."""
        self.guard.append(check)
        self.cost.generated_tokens += check["generated_tokens"]
        self.count_real()

    def count_real(self) -> None:
        """Real rows kept: of each task the most ever rehearsed, the most in a memory, and the guard's dev rows."""
        if self.cost.real_rows_kept is None:
            return
        of_all = [("rehearsed", e["task"], e["real_rows"], e["real_bytes"]) for e in self.rehearsed]
        of_all += [("kept", e["task"], e["rows"], e["bytes"]) for e in self.kept]
        for check in self.guard:
            of_all += [("dev", task, check["examined"][task], size) for task, size in check["real_bytes"].items()]
        most: dict[tuple[str, str], tuple[int, int]] = {}
        for where, task, rows, size in of_all:
            before = most.get((where, task), (0, 0))
            most[where, task] = (max(before[0], rows), max(before[1], size))
        self.cost.real_rows_kept = sum(rows for rows, _ in most.values())
        self.cost.stored_bytes = sum(size for _, size in most.values())

    def put_base(self, scores: Sequence[float | None], intervals: Sequence[Interval | None]) -> None:
        """Row 0, which all arms share."""
        if not self.R:
            self.rows, self.R, self.ci = ["base"], [[]], [[]]
        self.R[0], self.ci[0] = list(scores), list(intervals)
