"""Rehearsal that kept too little to protect what it rehearses: how it is noticed, and what is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ENOUGH = 0.5
"""The share of the wanted samples below which a task counts as not rehearsed."""


def is_scant(entry: Mapping[str, Any]) -> bool:
    """Whether less than half of what was wanted of a task was kept."""
    return bool(entry["kept"] < ENOUGH * entry["wanted"])


def in_words(entry: Mapping[str, Any]) -> str:
    """What happened, and what helps, in one line.

    Args:
        entry: as `methods.rehearsal.summary` counts it.
    """
    reasons = ", ".join(f"{count} {reason}" for reason, count in entry["rejected"].items() if count)
    return (
        f"rehearsal kept {entry['kept']} of {entry['wanted']} samples of {entry['task']} before {entry['before']}"
        f"{f' (rejected: {reasons})' if reasons else ''}: it is hardly protected. Teach longer (num_train_epochs), or "
        "raise rehearsal.max_tries or lm_lambda; continual rehearse shows what the model writes"
    )


def of_results(document: Mapping[str, Any]) -> list[str]:
    """Where the arms of a run rehearsed too little, one line each.

    Args:
        document: results.json.
    """
    runs = ((arm, run) for arm, entry in document["arms"].items() for run in entry["runs"])
    return [f"{arm} {run['run']}: {line}" for arm, run in runs for line in found(run["rehearsed"])]


def found(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """`in_words` of every entry that is scant."""
    return [in_words(entry) for entry in entries if is_scant(entry)]
