"""Rehearsed samples on disk: one JSON object a line, readable, kept and rejected ones alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from continual.runs import write_text
from continual.sample import Message, Sample

SURPLUS = "surplus"
"""The reason of a valid sample beyond the wanted number; not a rejection."""


@dataclass(frozen=True)
class Written:
    """One rehearsed sample, and what became of it."""

    messages: tuple[Message, ...] | None
    text: str
    reason: str | None
    """Why it was rejected; None for a kept one."""
    tokens: int
    """How many tokens were generated for it."""


def save(path: Path, samples: Sequence[Written]) -> None:
    lines = []
    for sample in samples:
        messages = [message.to_dict() for message in sample.messages] if sample.messages is not None else None
        line = {
            "messages": messages,
            "text": sample.text,
            "kept": sample.reason is None,
            "reason": sample.reason,
            "tokens": sample.tokens,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "".join(line + "\n" for line in lines))


def load(path: Path) -> list[Written]:
    samples = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        messages = tuple(map(Message.from_dict, row["messages"])) if row["messages"] is not None else None
        samples.append(Written(messages, row["text"], row["reason"], row["tokens"]))
    return samples


def kept(task: str, samples: Sequence[Written], choices: tuple[str, ...], delimiter: str) -> list[Sample]:
    """The samples to train on."""
    return [
        Sample(task, s.messages, choices, (s.messages[-1].content,), delimiter)
        for s in samples
        if s.reason is None and s.messages is not None
    ]
