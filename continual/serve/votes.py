"""Votes of people who compared two answers without knowing whose they were, and what they come to."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from continual.runs import write_text
from continual.serve.bodies import Bounded, ChatMessage, Name

FILE = "votes.jsonl"
Z = 1.959964
"""Of a normal distribution, for 95 %."""


MAX_PROMPT = 200_000
"""Characters of what both models were asked, and of an answer."""
Conversation = Annotated[list[ChatMessage], Field(max_length=2048, fail_fast=True)]


AnswerText = Annotated[str, Field(max_length=MAX_PROMPT)]
AnswerTexts = Annotated[list[AnswerText], Field(max_length=1024, fail_fast=True)]


class Answers(Bounded):
    """The answers of both models: a text, or one for each turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    a: AnswerText | AnswerTexts = ""
    b: AnswerText | AnswerTexts = ""


class Vote(Bounded):
    """One comparison of two models."""

    model_config = ConfigDict(extra="forbid")

    a: Name
    b: Name
    winner: Literal["a", "b", "tie"]
    prompt: Conversation | Annotated[str, Field(max_length=MAX_PROMPT)] = ""
    """What both were asked: a text, or the messages that both were sent, without their own answers."""
    answers: Answers = Answers()

    @model_validator(mode="after")
    def _two(self) -> Vote:
        if self.a == self.b:
            raise ValueError("a and b must be two models")
        turns = [] if isinstance(self.prompt, str) else self.prompt
        if sum(len(turn.message.content) for turn in turns) > MAX_PROMPT:
            raise ValueError(f"prompt: more than {MAX_PROMPT} characters")
        return self


class Votes:
    """The votes of a run, one line each in its `votes.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._lock = threading.Lock()

    def _text(self) -> str:
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text().split("\n") if line]

    def add(self, vote: Vote) -> dict[str, Any]:
        """Store a vote; the results with it."""
        line = json.dumps({"time": round(time.time()), **vote.model_dump(exclude_none=True)}, ensure_ascii=False)
        with self._lock:
            write_text(self.file, self._text() + line + "\n")
        return self.results()

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
