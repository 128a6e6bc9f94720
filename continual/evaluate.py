"""Scores of a model on the test rows of every task: one row of R.

Prompts are tokenised once and asked again after every task; never with a cue, in any arm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual.chat import Chat
from continual.decode import Decoder
from continual.forgetting import bootstrap_ci
from continual.runs import write_text
from continual.sample import Sample
from continual.score import METRICS, row_scores, score


@dataclass(frozen=True)
class Exam:
    """The test of one task, ready to be taken."""

    task: str
    metric: str
    samples: Sequence[Sample]
    prompts: Sequence[list[int]]
    max_new_tokens: int
    until: tuple[str, ...]
    choices: Sequence[list[list[int]]] | None
    """Ids of every choice and of its end, where the task is scored by log-likelihood; else None."""


@dataclass(frozen=True)
class Result:
    """How a model did in one exam."""

    score: float
    """A fraction in [0, 1]; the two correlations of GLUE reach down to -1."""
    interval: tuple[float, float]
    """Bootstrap interval of the score over test rows, 95 %."""
    predictions: list[str]
    row_scores: list[float]
    generated_tokens: int


def prepare(
    task: str,
    metric: str,
    samples: Sequence[Sample],
    chat: Chat,
    *,
    multiple_choice: bool,
    max_new_tokens: int,
    until: Sequence[str],
    max_length: int,
) -> Exam:
    """Tokenise an exam.

    Args:
        max_length: the most tokens of prompt and answer together; a longer prompt loses its middle.
    """
    choices = None
    # What stands before an answer's own words is not counted among its tokens by those who write tasks.
    max_new_tokens = min(max_new_tokens + chat.opening_tokens, max(1, max_length - 1))
    room = max_length - max_new_tokens
    if multiple_choice:
        # With what ends an answer, as it was taught: without it, a choice never loses to a longer one that begins
        # with it.
        choices = [[[*chat.answer_ids(choice, s.delimiter), *chat.end_ids] for choice in s.choices] for s in samples]
        room = max_length - max(len(ids) for row in choices for ids in row)
    prompts = [chat.prompt_ids(sample.prompt, room, sample.instruction, sample.tools) for sample in samples]
    return Exam(task, metric, samples, prompts, max_new_tokens, tuple(until), choices)


def take(exam: Exam, model: Any, chat: Chat, batch_tokens: int) -> Result:
    """Let a model answer an exam: greedily, or by the likeliest choice."""
    decoder = Decoder(model, chat.stop_ids, chat.end_id, batch_tokens, text=chat.words_so_far)
    generated = 0
    if exam.choices is not None:
        told = decoder.choice_logprobs(exam.prompts, exam.choices)
        predictions = [
            sample.choices[max(range(len(row)), key=row.__getitem__)]
            for sample, row in zip(exam.samples, told, strict=True)
        ]
    else:
        until = (*exam.until, *chat.stop_texts)
        outputs = decoder.generate(exam.prompts, exam.max_new_tokens, until=until)
        generated = sum(len(output.ids) for output in outputs)
        predictions = [cut(chat.answer_text(output.ids), exam.until) for output in outputs]
    rows = row_scores(exam.metric, predictions, list(exam.samples))
    total = score(exam.metric, predictions, list(exam.samples))
    return Result(total, _interval(exam, predictions, rows), predictions, rows, generated)


def _interval(exam: Exam, predictions: list[str], rows: list[float]) -> tuple[float, float]:
    if METRICS[exam.metric].whole is None:
        return bootstrap_ci(rows)
    # A correlation is not a mean of rows: it is resampled as a whole.
    samples = exam.samples

    def resampled(picked: Sequence[int]) -> float:
        return score(exam.metric, [predictions[i] for i in picked], [samples[i] for i in picked])

    return bootstrap_ci(rows, statistic=resampled)


def cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of some stop strings."""
    for stop in until:
        text = text.partition(stop)[0]
    return text.strip()


def write_predictions(path: Path, exam: Exam, result: Result) -> None:
    """Write one JSON object a line: prompt (a text, or a list of messages), prediction, references, score."""
    lines = []
    for sample, prediction, row in zip(exam.samples, result.predictions, result.row_scores, strict=True):
        single = len(sample.prompt) == 1
        prompt = sample.prompt[0].content if single else [m.to_dict() for m in sample.prompt]
        line = {
            "prompt": prompt,
            "prediction": prediction,
            "references": list(sample.references),
            "score": row,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "".join(line + "\n" for line in lines))
