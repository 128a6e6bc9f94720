"""The part of a recipe that says how scores are measured."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from continual.problems import Problem, problems_error
from continual.settings_base import Settings


class Evaluate(Settings):
    """How scores are measured."""

    limit: int | None = Field(None, ge=1)
    """Rows of each test split, the same ones for every seed and arm; null: all."""

    after: Literal["every_task", "own_and_last"] = "every_task"
    """Examine every task after each one; or each right after it was taught, and all of them at the end."""

    split: Literal["test", "dev"] = "test"
    """`dev` for choosing and tuning: rows held out of train, so that the test rows stay untouched."""

    batch_tokens: int = Field(131072, ge=1)
    """Tokens decoded side by side: lower needs less memory."""

    general: tuple[str, ...] = ()
    """Tasks that are examined after each step, and never taught: general ability."""

    perplexity: str | None = None
    """A file of neutral text whose perplexity is measured after each step."""

    @field_validator("general")
    @classmethod
    def _general_tasks_exist(cls, general: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        wrong_with = (info.context or {}).get("wrong_with_task", lambda name: None)
        wrong = {n: wrong_with(task) for n, task in enumerate(general)}
        wrong |= {n: "is there twice" for n, task in enumerate(general) if task in general[:n]}
        if any(wrong.values()):
            raise problems_error([Problem((n,), message) for n, message in wrong.items() if message])
        return general

    @field_validator("perplexity")
    @classmethod
    def _neutral_text_exists(cls, file: str | None, info: ValidationInfo) -> str | None:
        # A run whose text has gone can still be talked to: only a recipe that is read from a file is checked.
        if file is not None and info.context and not Path(file).is_file():
            raise ValueError(f"there is no file {file} here")
        return file
