"""General ability: what a model can do beside the tasks that it is taught, and how that changed; pure functions."""

from collections.abc import Sequence
from typing import Any

from continual.forgetting import Cell

Measured = dict[str, Any]
"""After one row of R: `perplexity` of neutral text or None, and `scores` of tasks that are never taught."""


def told(after: Sequence[str], measured: Sequence[Measured | None]) -> list[dict[str, Any]]:
    """What was measured after each row of R, with its change against row 0; empty where nothing was asked.

    Args:
        after: what each row of R stands after.
        measured: one for each row; None where it is not defined (specialists are several models).
    """
    if not any(measured):
        return []
    base = measured[0] or {"perplexity": None, "scores": {}}
    rows = []
    for name, row in zip(after, measured, strict=False):
        row = row or {"perplexity": None, "scores": {}}
        rows.append(
            {
                "after": name,
                **row,
                "perplexity_change": _minus(row["perplexity"], base["perplexity"]),
                "delta": delta(row["scores"], base["scores"]),
            }
        )
    return rows


def delta(scores: dict[str, Cell], base: dict[str, Cell]) -> Cell:
    """1/M · Σ_i (R^G[t][i] − R^G[0][i]) over the M tasks that are never taught (Wang et al. 2023, TRACE)."""
    changes = [_minus(scores.get(task), base[task]) for task in base]
    known = [change for change in changes if change is not None]
    return sum(known) / len(known) if known and len(known) == len(changes) else None


def _minus(a: Cell, b: Cell) -> Cell:
    return None if a is None or b is None else a - b
