"""The loss of every optimizer step, kept in ``loss.jsonl`` beside R for the report and for other tools."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "loss.jsonl"


@dataclass(frozen=True)
class LossPoint:
    """One optimizer step of one task."""

    task: str
    step: int
    """Counted from 1 within the task."""
    tokens: int
    """Tokens trained on so far within the task."""
    loss: float | None
    """None where it was no finite number."""
    learning_rate: float


def read_points(path: Path) -> list[LossPoint]:
    """Read a loss curve, oldest step first; empty where none was kept."""
    return [point for _, point in _lines(path)] if path.exists() else []


def append_points(path: Path, points: list[LossPoint], sync: bool) -> None:
    """Add points at the end of a file.

    Args:
        sync: wait until they are on the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for point in points:
            file.write(json.dumps(asdict(point), ensure_ascii=False) + "\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())


def cut_points(path: Path, task: str, step: int = 1) -> None:
    """Drop a step of a task and all that follows it: training is about to go over it again."""
    if not path.exists():
        return
    end = 0
    for after, point in _lines(path):
        if point.task == task and point.step >= step:
            break
        end = after
    if end < path.stat().st_size:
        os.truncate(path, end)


def _lines(path: Path) -> Iterator[tuple[int, LossPoint]]:
    """Every whole line, with the number of bytes up to its end; what a kill tore off is left out."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield end, LossPoint(**json.loads(line))


def finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
