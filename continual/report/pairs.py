"""Arms against each other on the same rows, seeds and orders: what the tables show of `continual.pairing`."""

from collections.abc import Sequence
from typing import Any

from continual import results as results_module
from continual.report.numbers import UNKNOWN, points
from continual.report.views import Row


def against_multitask(document: dict[str, Any]) -> list[dict[str, Any] | None]:
    """The paired difference to the multitask arm for each line of the tables, in their order."""
    found: list[dict[str, Any] | None] = []
    for entry in document["arms"].values():
        found += entry["paired"] if isinstance(entry["paired"], list) else [entry["paired"]]
    return found


def square(document: dict[str, Any], rows: Sequence[Row]) -> list[tuple[Row, list[dict[str, Any] | None]]]:
    """Each line of the tables with its paired differences to all of them; empty where nothing is paired."""
    if not document["paired"]:
        return []
    keys = [
        (arm, group) for arm, entry in document["arms"].items() for group, _ in results_module.by_set(entry["runs"])
    ]
    told = {(_key(p["arm"], p["set"]), _key(p["against"], p["against_set"])): p for p in document["paired"]}
    names = [_key(*key) for key in keys]
    return [(row, [told.get((name, other)) for other in names]) for row, name in zip(rows, names, strict=True)]


def _key(arm: str, settings: dict[str, Any]) -> tuple[str, str]:
    return arm, repr(sorted(settings.items()))


def interval(paired: dict[str, Any] | None) -> str:
    """The interval of a paired difference, in points."""
    return UNKNOWN if paired is None else f"{points(paired['ci'][0])} to {points(paired['ci'][1])}"


def clear(paired: dict[str, Any]) -> bool:
    """Whether the interval leaves zero out."""
    low, high = paired["ci"]
    return bool(low > 0 or high < 0)


def left_out(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Tasks that no paired difference counts, their scores being no means over rows."""
    return sorted({task for document in documents for p in document["paired"] for task in p["left_out"]})


def clearly_best(document: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    """The label of the arm with the best ACC of those taught task after task, if it is one beyond doubt.

    It is where its paired interval to each of the others leaves out zero; at most one label.
    """
    taught = [(row, cells) for row, cells in square(document, rows) if row.teach == "sequential"]
    if len(taught) < 2:
        return []
    best, cells = max(taught, key=lambda pair: pair[0].mean["acc"] or 0.0)
    by_row = dict(zip([row.label for row in rows], cells, strict=True))
    others = [by_row[row.label] for row, _ in taught if row is not best]
    return [best.label] if all(other is not None and other["ci"][0] > 0 for other in others) else []
