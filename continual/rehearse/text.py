"""Rehearsed samples on disk: one JSON object a line, readable, kept and rejected ones alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from continual.runs import write_text
from continual.sample import Message, Sample

SURPLUS = "surplus"
"""The reason of a valid sample beyond the wanted number; not a rejection."""


@dataclass(frozen=True)
class Stored:
    """What a real row has beside its messages: it is encoded just as when it was first learned."""

    delimiter: str
    instruction: tuple[str, str]
    tools: tuple[Mapping[str, Any], ...]

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Stored:
        """Read what `dataclasses.asdict` made plain."""
        before, after = row["instruction"]
        return cls(row["delimiter"], (before, after), tuple(row["tools"]))


@dataclass(frozen=True)
class Written:
    """One rehearsed sample, and what became of it."""

    messages: tuple[Message, ...] | None
    text: str
    reason: str | None
    """Why it was rejected; None for a kept one."""
    tokens: int
    """How many tokens were generated for it."""
    stored: Stored | None = None
    """What else is known of a real row."""


def save(path: Path, samples: Sequence[Written]) -> None:
    lines = []
    for sample in samples:
        messages = [message.to_dict() for message in sample.messages] if sample.messages is not None else None
        line: dict[str, Any] = {
            "messages": messages,
            "text": sample.text,
            "kept": sample.reason is None,
            "reason": sample.reason,
            "tokens": sample.tokens,
        }
        if sample.stored is not None:
            line["stored"] = asdict(sample.stored)
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "".join(line + "\n" for line in lines))


def load(path: Path) -> list[Written]:
    samples = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        messages = tuple(map(Message.from_dict, row["messages"])) if row["messages"] is not None else None
        stored = Stored.from_dict(row["stored"]) if "stored" in row else None
        samples.append(Written(messages, row["text"], row["reason"], row["tokens"], stored))
    return samples


def kept(task: str, samples: Sequence[Written], choices: tuple[str, ...], delimiter: str) -> list[Sample]:
    """Return the samples to train on.

    Args:
        choices: the task's label set.
        delimiter: the task's; a stored row has its own.
    """
    found = []
    for one in samples:
        if one.reason is None and one.messages is not None:
            row = one.stored or Stored(delimiter, ("", ""), ())
            found.append(
                Sample(
                    task,
                    one.messages,
                    choices,
                    (one.messages[-1].content,),
                    row.delimiter,
                    row.instruction,
                    row.tools,
                )
            )
    return found
