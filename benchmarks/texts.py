"""Rows to measure with, as token ids: a jsonl.gz file with instruction, input and output, or the embedded tasks."""

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

TASKS = ("translate", "edit", "summarize", "answer", "sentiment")


class Pair(NamedTuple):
    """A question and its answer; the answer with its end token."""

    prompt: list[int]
    answer: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer


def pairs(file: Path | None, tokenizer: Any, n: int, longest: int = 256) -> list[Pair]:
    """The first `n` rows that are not longer than `longest` tokens."""
    found: list[Pair] = []
    for prompt, answer in _read(file) if file else _embedded(n):
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        said = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        if len(ids) + len(said) <= longest:
            found.append(Pair(ids, said))
        if len(found) == n:
            break
    return found


def _read(file: Path) -> list[tuple[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(f"{row['instruction']}\n{row['input']}\nAnswer: ", row["output"]) for row in rows]


def _embedded(n: int) -> list[tuple[str, str]]:
    from continual.task import find_task

    each = -(-n // len(TASKS))
    found = []
    for name in TASKS:
        for sample in find_task(name).samples("train", limit=each):
            question, answer = (message.content for message in sample.messages)
            found.append((f"User: {question}\nAI: ", answer))
    random.Random(0).shuffle(found)
    return found


def lengths(rows: Sequence[Pair], n: int, below: int = 200) -> list[int]:
    """`n` sequence lengths as real rows have them, in no order."""
    return random.Random(0).choices([len(row.ids) for row in rows if len(row.ids) < below], k=n)
