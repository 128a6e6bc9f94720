"""Answers that mean the same though they are not the same text: WOZ dialogue states and WikiSQL queries."""

import re
from typing import NamedTuple

_WHERE = re.compile(r"\s+where\s+")
_AND = re.compile(r"\s+and\s+")
_CONDITION = re.compile(r"(.+?)\s*([=<>])\s*(.*)", re.DOTALL)
_SELECT = re.compile(r"select\s+(?:(max|min|count|sum|avg)\s+)?(.+?)\s+from\s+table", re.DOTALL)


class State(NamedTuple):
    """What a turn changes: the slots it informs and the slots it asks for."""

    inform: dict[str, str]
    request: frozenset[str]


class Query(NamedTuple):
    """A WikiSQL query."""

    aggregate: str
    column: str
    conditions: tuple[tuple[str, str, str], ...]


def dialogue_state(prediction: str, reference: str) -> float:
    """1 where both turns change the state in the same way, whatever the order of the slots.

    The form is decaNLP's: ``food: thai, area: north; phone, address``; ``None`` changes nothing. A turn
    counts only if what it informs and what it asks for are both right. LAMOL's dsEM, over turns.
    """
    ours = _state(prediction)
    return float(ours is not None and ours == _state(reference))


def logical_form(prediction: str, reference: str) -> float:
    """1 where both queries have the same aggregate, column and conditions (WikiSQL's logical form).

    Conditions keep their order, case does not count, nor do spaces in values, as in LAMOL. LAMOL also
    moves a column name to the nearest one of the table; here it must be written as in the reference.
    """
    ours = _query(prediction)
    return float(ours is not None and ours == _query(reference))


def _state(text: str) -> State | None:
    text = " ".join(text.lower().split())
    if text in ("", ";", "none"):
        return State({}, frozenset())
    if text.count(";") != 1:
        return None
    informed, asked = text.split(";")
    inform: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in informed.split(","))):
        slot, colon, value = pair.partition(":")
        if not colon:
            return None
        inform[slot.strip()] = value.strip()
    return State(inform, frozenset(filter(None, (part.strip() for part in asked.split(",")))))


def _query(text: str) -> Query | None:
    head, *rest = _WHERE.split(text.strip().lower(), maxsplit=1)
    selected = _SELECT.fullmatch(head)
    if selected is None:
        return None
    conditions = []
    for part in _conditions(rest[0]) if rest else []:
        condition = _CONDITION.fullmatch(part)
        if condition is None:
            return None
        column, operator, value = condition.groups()
        conditions.append((" ".join(column.split()), operator, re.sub(r"\s", "", value)))
    return Query(selected[1] or "", " ".join(selected[2].split()), tuple(conditions))


def _conditions(text: str) -> list[str]:
    """The conditions of a query; an ``and`` inside a value does not start a new one."""
    parts: list[str] = []
    for part in _AND.split(text):
        if parts and not re.search(r"[=<>]", part):
            parts[-1] += f" and {part}"
        else:
            parts.append(part)
    return parts
