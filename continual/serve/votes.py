"""Votes of people who compared two answers without knowing whose they were, and what they come to."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from continual.runs import write_text

FILE = "votes.jsonl"
Z = 1.959964
"""Of a normal distribution, for 95 %."""


class Vote(BaseModel):
    """One comparison of two models."""

    model_config = ConfigDict(extra="forbid")

    a: str
    b: str
    winner: Literal["a", "b", "tie"]
    prompt: str = Field("", max_length=20_000)
    answers: dict[Literal["a", "b"], str] = {}

    @model_validator(mode="after")
    def _two(self) -> Vote:
        if self.a == self.b:
            raise ValueError("a and b must be two models")
        return self


class Votes:
    """The votes of a run, one line each in its `votes.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE

    def _text(self) -> str:
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text().split("\n") if line]

    def add(self, vote: Vote) -> None:
        line = json.dumps({"time": round(time.time()), **vote.model_dump()}, ensure_ascii=False)
        write_text(self.file, self._text() + line + "\n")

    def results(self) -> dict[str, Any]:
        """How often each model won, over all and in each pair; a tie is half a win for both."""
        votes = self.all()
        models = sorted({vote[side] for vote in votes for side in "ab"})
        pairs = sorted({(min(vote["a"], vote["b"]), max(vote["a"], vote["b"])) for vote in votes})
        return {
            "votes": len(votes),
            "models": [{"model": model, **rate(_shares(votes, model))} for model in models],
            "pairs": [
                {"a": a, "b": b, **rate(_shares([v for v in votes if {v["a"], v["b"]} == {a, b}], a))}
                for a, b in pairs
            ],
        }


def _shares(votes: Iterable[dict[str, Any]], model: str) -> list[float]:
    """1, 1/2 or 0 for each vote on a model."""
    shares = []
    for vote in votes:
        for side in "ab":
            if vote[side] == model:
                shares.append(0.5 if vote["winner"] == "tie" else float(vote["winner"] == side))
    return shares


def rate(shares: Sequence[float]) -> dict[str, Any]:
    """Counts, the share of wins, and its 95 % interval (Wilson, 1927), a tie counted as half a win.

    Args:
        shares: of each vote; not empty.
    """
    n, mean = len(shares), sum(shares) / len(shares)
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    counts = {"wins": shares.count(1.0), "ties": shares.count(0.5), "losses": shares.count(0.0)}
    return {"votes": n, **counts, "rate": mean, "interval": [max(0.0, centre - half), min(1.0, centre + half)]}
