"""What an arm rehearsed, as far as a page shows it: counts of all, and some samples to read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual.tuning import BEFORE

SHOWN_KEPT = 12
SHOWN_REJECTED = 6


@dataclass(frozen=True)
class Shown:
    """One rehearsed sample to read."""

    messages: list[dict[str, str]]
    """Its turns; empty where the text could not be parsed into turns."""
    text: str
    """What the model wrote, raw."""
    reason: str | None
    """Why it was rejected; None for a kept one."""


@dataclass(frozen=True)
class Batch:
    """The samples of one old task, rehearsed before one new task was learned."""

    before: str
    task: str
    wanted: int
    kept: int
    drawn: int
    rejected: dict[str, int]
    samples: list[Shown]
    reviews: int | None = None
    """How often it was learned apart; None where it was mixed into what was learned."""

    @property
    def fate(self) -> str:
        """How many were wanted, kept, drawn and rejected, and for what, in words."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.items() if count)
        rejected = f"; rejected: {reasons}" if reasons else "; none rejected"
        return f"{self.kept} kept of {self.wanted} wanted, {self.drawn} drawn{rejected}"


def batches(folder: Path, run: dict[str, Any]) -> list[Batch]:
    """What one run rehearsed, in order.

    Args:
        folder: The run's directory, with ``rehearsed/<i>-<task>.jsonl``, and ``trials/`` where a merge was tuned.
        run: The run, as in results.json; its ``rehearsed`` holds the counts.
    """
    rehearsed, trials = _texts(folder / "rehearsed"), _texts(folder / "trials")
    found = []
    for entry in run["rehearsed"]:
        files = (trials if entry["before"] == BEFORE else rehearsed).get(entry["task"], [])
        # Text that was written once stands for every entry.
        samples = _read(files.pop(0) if len(files) > 1 else files[0]) if files else []
        counts = {key: entry[key] for key in _COUNTS}
        found.append(Batch(samples=samples, reviews=entry.get("reviews"), **counts))
    return found


_COUNTS = ("before", "task", "wanted", "kept", "drawn", "rejected")


def _texts(folder: Path) -> dict[str, list[Path]]:
    """The files of each task, in the order in which they were written."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: int(path.name.partition("-")[0])):
        found.setdefault(path.stem.partition("-")[2], []).append(path)
    return found


def _read(path: Path) -> list[Shown]:
    """The first few kept samples of a file, then the first few rejected ones."""
    # Not splitlines: what a model writes may hold U+2028 and its like, which JSON leaves as they are.
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    kept = [line for line in lines if line["kept"]][:SHOWN_KEPT]
    rejected = [line for line in lines if not line["kept"]][:SHOWN_REJECTED]
    return [Shown(line["messages"] or [], line["text"], line["reason"]) for line in kept + rejected]
