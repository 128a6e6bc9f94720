"""What a run tells while it goes: a live line in a terminal, plain lines elsewhere; and its loss curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from continual.losscurve import LossPoint, append_points, cut_points, finite
from continual.plugin import LossPlugin

LINE_SECONDS = 5.0
"""Seconds between two lines about a task, where there is no live bar."""

LINE_SHARE = 0.02
"""The same as a share of the time that a task has taken: a task of hours does not fill a log."""

KEEP_STEPS = 20
"""Steps whose losses stay on the device before they are read, for reading one waits for it."""


class TellingPlugin(LossPlugin):
    """Counts the steps of a task, its loss and its tokens per second, and shows them in a bar or in lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say
        self.bar: Progress | None = None
        self.what = ""
        self.steps, self.loss, self.speed, self.seconds = 0, float("nan"), 0.0, 0.0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.steps, self._start, self._tokens = 0, time.perf_counter(), strategy.train_tokens
        self._due = LINE_SECONDS
        if self.bar is not None:
            self._task = self.bar.add_task(
                self.what, total=strategy.steps, completed=strategy.step, epoch="1", loss="-", speed="-"
            )

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += 1
        self.seconds = time.perf_counter() - self._start
        self.speed = (strategy.train_tokens - self._tokens) / self.seconds
        due = self.bar is None and self.seconds >= self._due and strategy.step < strategy.steps
        # Reading the loss waits for the device; each tenth step is enough to look at.
        if self.steps % 10 and strategy.step < strategy.steps and not due:
            return
        self.loss = float(strategy.loss.detach())
        if self.bar is not None:
            self.bar.update(
                self._task,
                completed=strategy.step,
                epoch=f"{strategy.dataloader.epoch + 1}/{strategy.train_epochs}",
                loss=f"{self.loss:.3f}",
                speed=f"{self.speed:,.0f}",
            )
        elif due:
            self._due = self.seconds + max(LINE_SECONDS, LINE_SHARE * self.seconds)
            left = self.seconds / self.steps * (strategy.steps - strategy.step)
            self.say(
                f"  {self.what:<22} step {strategy.step}/{strategy.steps}  loss {self.loss:.3f}  "
                f"{self.speed:>7,.0f} tokens/s  {clock(left)} left"
            )


class LossCurvePlugin(LossPlugin):
    """Keeps the loss of every step of an arm in one file.

    A resume goes over the steps since the last checkpoint again: they are dropped first, so that
    no step is there twice and none is missing. It stands before the checkpoint plugin, which
    decides what a resume need not do again: by then the file must hold it.

    Args:
        path: of the file.
        save_steps: steps between two checkpoints.
    """

    def __init__(self, path: Path, save_steps: int | None) -> None:
        super().__init__()
        self.path, self.save_steps = path, save_steps
        self.task = ""
        """What is being learned; set before each experience."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._rate = 0.0
        self._waiting: list[tuple[int, int, Any, float]] = []
        self._begun = False

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if not self._begun and strategy.accelerator.is_main_process:
            cut_points(self.path, self.task, strategy.step + 1)
        self._begun = True
        self._rate = strategy.optimizer.param_groups[0]["lr"]

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        step = strategy.step
        self._waiting.append((step, strategy.train_tokens, strategy.loss.detach().sum(), self._rate))
        saved = self.save_steps is not None and step % self.save_steps == 0
        if saved or len(self._waiting) == KEEP_STEPS:
            self._write(strategy, sync=saved)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._write(strategy, sync=True)

    def _write(self, strategy: Any, sync: bool) -> None:
        if not self._waiting:
            return
        import torch

        steps, tokens, losses, rates = zip(*self._waiting, strict=True)
        # Each rank has its share of the sum, scaled so that the mean over ranks is the whole.
        values = strategy.accelerator.reduce(torch.stack(losses), "mean").tolist()
        self._waiting = []
        if strategy.accelerator.is_main_process:
            rows = zip(steps, tokens, values, rates, strict=True)
            points = [LossPoint(self.task, step, done, finite(loss), rate) for step, done, loss, rate in rows]
            append_points(self.path, points, sync)


class Teller:
    """Tells about arms, tasks and steps.

    Args:
        console: where to; live only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.plugin = TellingPlugin(self.say)

    def say(self, text: str) -> None:
        """One line that stays. Rich markup is understood; escape what users wrote."""
        self.console.print(text, highlight=False)

    @contextmanager
    def training(self, what: str) -> Iterator[None]:
        """While a task is learnt: the bar; and one line at the end."""
        plugin = self.plugin
        plugin.what = escape(what)
        if self.console.is_terminal:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(bar_width=24),
                TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
                TimeRemainingColumn(),
            )
            plugin.bar = Progress(*columns, console=self.console, transient=True)
            with plugin.bar:
                yield
            plugin.bar = None
        else:
            yield
        self.say(
            f"  {plugin.what:<22} {plugin.steps:>5} steps  loss {plugin.loss:.3f}  "
            f"{plugin.speed:>7,.0f} tokens/s  {plugin.seconds:>6.1f} s"
        )


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: ``0:09``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
