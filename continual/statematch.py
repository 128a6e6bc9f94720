"""Answers that mean the same in other words: WOZ dialogue states and WikiSQL queries."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from continual.words import canonical

_OPERATOR = re.compile(r"[=<>]")
_CONDITION = re.compile(r"(.*?)\s*([=<>])\s*(.*)")
_SELECT = re.compile(r"select\s+(?:(max|min|count|sum|avg)\s+)?(.+?)\s+from\s+table(?:\s+where\s+(.*))?")


class State(NamedTuple):
    """What a turn changes: the slots it informs and the slots it asks for."""

    inform: dict[str, str]
    request: frozenset[str]


class Query(NamedTuple):
    """A WikiSQL query."""

    aggregate: str
    column: str
    conditions: tuple[tuple[str, str, str], ...]


def joint_goal(predictions: Sequence[str], references: Sequence[str], dialogues: Sequence[str]) -> list[float]:
    """Score turns by the goals of their dialogues so far (``joint_goal_em`` of decaNLP).

    LAMOL's table has it as dsEM. A turn counts 1 where all slots informed up to it are right; what
    it asks for does not count. As in decaNLP, an answer that is no state changes nothing, nor does
    a slot without a value.

    Args:
        predictions: in the order of the turns.
        dialogues: of each turn; one without a name is a dialogue of its own.
    """
    goals: dict[str | int, tuple[dict[str, str], dict[str, str]]] = {}
    scores = []
    turns = enumerate(zip(predictions, references, dialogues, strict=True))
    for number, (prediction, reference, dialogue) in turns:
        ours, theirs = goals.setdefault(dialogue or number, ({}, {}))
        ours.update(_informed(prediction))
        theirs.update(_informed(reference))
        scores.append(float(ours == theirs))
    return scores


def turn_state(prediction: str, reference: str) -> float:
    """1 where a turn informs and asks for what the reference does, in any order of the slots.

    The form is decaNLP's: ``food: thai, area: north; phone, address``; ``None`` changes nothing.
    """
    ours = _state(prediction)
    return float(ours is not None and ours == _state(reference))


def logical_form(prediction: str, reference: str) -> float:
    """1 where both queries have the same aggregate, column and conditions (WikiSQL's).

    Conditions keep their order, case does not count, nor do spaces in values, as in LAMOL. LAMOL
    also moves a column name to the nearest one of the table; here it must be written as in the
    reference. Column names may hold ``and``, ``where`` and operators: no table is at hand to tell
    them apart, but equal queries are equal.
    """
    ours, theirs = _plain(prediction), _plain(reference)
    query = _query(ours)
    return float(ours == theirs or (query is not None and query == _query(theirs)))


def _plain(text: str) -> str:
    return " ".join(canonical(text.lower()).split())


def _informed(text: str) -> dict[str, str]:
    informed, semicolon, asked = _plain(text).partition(";")
    if not semicolon or ";" in asked:
        return {}
    pairs = (pair.split(":") for pair in informed.split(","))
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def _state(text: str) -> State | None:
    text = _plain(text)
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
    selected = _SELECT.fullmatch(text)
    if selected is None:
        return None
    aggregate, column, where = selected.groups()
    conditions = []
    for part in _conditions(where) if where is not None else []:
        condition = _CONDITION.fullmatch(part)
        if condition is None:
            return None
        name, operator, value = condition.groups()
        conditions.append((name, operator, value.replace(" ", "")))
    return Query(aggregate or "", column, tuple(conditions))


def _conditions(text: str) -> list[str]:
    """Split a where clause; an ``and`` inside a name or a value does not start a condition."""
    parts: list[str] = []
    for part in text.split(" and "):
        if parts and not (_OPERATOR.search(part) and _OPERATOR.search(parts[-1])):
            parts[-1] += f" and {part}"
        else:
            parts.append(part)
    return parts
