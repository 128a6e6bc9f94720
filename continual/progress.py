"""What a run tells while it goes: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from continual.plugin import LossPlugin


class TellingPlugin(LossPlugin):
    """Counts the steps of a task, its loss and its tokens per second, and shows them in a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Progress | None = None
        self.what = ""
        self.steps, self.loss, self.speed, self.seconds = 0, float("nan"), 0.0, 0.0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.steps, self._start, self._tokens = 0, time.perf_counter(), strategy.train_tokens
        if self.bar is not None:
            self._task = self.bar.add_task(
                self.what, total=strategy.steps, completed=strategy.step, epoch="1", loss="-", speed="-"
            )

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.steps += 1
        self.seconds = time.perf_counter() - self._start
        self.speed = (strategy.train_tokens - self._tokens) / self.seconds
        # Reading the loss waits for the device; each tenth step is enough to look at.
        if self.steps % 10 and strategy.step < strategy.steps:
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


class Teller:
    """Tells about arms, tasks and steps.

    Args:
        console: where to; live only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.plugin = TellingPlugin()

    def say(self, text: str) -> None:
        """One line that stays. Rich markup is understood; escape what users wrote."""
        self.console.print(text, highlight=False)

    @contextmanager
    def training(self, what: str) -> Iterator[None]:
        """While a task is learnt: the bar; and one line at the end."""
        plugin = self.plugin
        if self.console.is_terminal:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(bar_width=24),
                TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
                TimeRemainingColumn(),
            )
            plugin.bar, plugin.what = Progress(*columns, console=self.console, transient=True), escape(what)
            with plugin.bar:
                yield
            plugin.bar = None
        else:
            yield
        self.say(
            f"  {escape(what):<22} {plugin.steps:>5} steps  loss {plugin.loss:.3f}  "
            f"{plugin.speed:>7,.0f} tokens/s  {plugin.seconds:>6.1f} s"
        )
