"""Teach a language model task after task without forgetting, and show what was forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from continual.inference import Taught

__version__ = "0.1.0"


def load(run: str | Path, *, memory: int | None = None, trust_remote_code: bool = False) -> Taught:
    """Everyone who was taught in a run, ready to answer: ``continual.load("quickstart").generate(["Hello"])``.

    Args:
        run: a run's folder, or its name under ``runs/``.
        memory: the most bytes of adapters to keep in memory; None: all that were asked.
        trust_remote_code: run Python code that comes with the model, whatever the run's recipe says.

    Raises:
        ContinualError: there is no such run, or its tokenizer cannot be loaded.
    """
    from continual.inference import Taught
    from continual.listing import find_run

    return Taught(find_run(str(run)), memory=memory, trust_remote_code=trust_remote_code)
