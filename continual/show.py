"""Rendered samples of a task, with the tokens that bear loss marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from continual.chat import Chat
from continual.model import load_tokenizer
from continual.rehearse.cues import Cues
from continual.task import Task

if TYPE_CHECKING:
    from rich.console import Console

LIMIT = 4096
"""Longest sample shown, in tokens."""


def show_task(task: Task, model: str, n: int, console: Console, data_root: Path | None = None) -> None:
    """Print the first training samples of a task as a model sees them.

    Args:
        model: whose tokenizer and chat template are used.
        n: how many samples.
    """
    chat = Chat(load_tokenizer(model))
    samples = [row for one in task.samples("train", data_root=data_root, limit=n) for row in chat.rows(one)]
    summary = task.metadata.get("summary", "")
    console.print(
        f"[bold]{task.task}[/bold]  {summary}  [dim]{task.output_type}, {task.metric}[/dim]", highlight=False
    )
    answer, cued = ("bold green", "underline") if console.is_terminal else ("«»", "‹›")
    legend = Text.assemble("tokens that bear loss: ", *_marked("answer", answer), ", and in arms that rehearse also ")
    console.print(legend + Text.assemble(*_marked("everything after the cue", cued)))
    for number, sample in enumerate(samples, start=1):
        encoded = chat.encode(sample, LIMIT)
        runs = _runs(chat, encoded.input_ids, encoded.answer)
        console.print(Text(f"─── {number}: answering ({len(encoded.input_ids)} tokens)", style="dim"))
        console.print(
            Text.assemble(chat.marks.bos, *(piece for text, mine in runs for piece in _piece(text, mine, answer)))
        )
    if samples:
        encoded = chat.encode(samples[0], LIMIT)
        cue = chat.text(chat.cue_ids(Cues("task", {task.task: 0}, {}).texts[task.task][0]))
        console.print(Text("─── 1: with its cue", style="dim"))
        console.print(Text.assemble(chat.marks.bos, cue, *_marked(chat.text(encoded.input_ids[encoded.lead :]), cued)))


def _runs(chat: Chat, ids: list[int], answer: list[int]) -> list[tuple[str, bool]]:
    """Text of neighbouring tokens that are alike: (text, whether it bears answer loss)."""
    runs: list[tuple[list[int], bool]] = []
    for token, mine in zip(ids, answer, strict=True):
        if runs and runs[-1][1] == bool(mine):
            runs[-1][0].append(token)
        else:
            runs.append(([token], bool(mine)))
    return [(chat.text(tokens), mine) for tokens, mine in runs]


def _piece(text: str, mine: bool, mark: str) -> list[Any]:
    return _marked(text, mark) if mine else [text]


def _marked(text: str, mark: str) -> list[Any]:
    """Coloured in a terminal, between two signs elsewhere."""
    return [mark[0], text, mark[1]] if len(mark) == 2 else [(text, mark)]
