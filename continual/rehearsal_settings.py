"""The part of a recipe that says what is rehearsed, how, and by whom."""

from typing import Any, Literal

from pydantic import Field, model_validator

from continual.problems import Problem, problems_error
from continual.settings_base import Settings

Check = Literal[
    "eos",
    "parses",
    "non_empty",
    "wrong_task",
    "label",
    "length",
    "repeats",
    "consistent",
    "likelihood",
    "duplicate",
    "near_duplicate",
]

LAMOL: dict[str, Any] = {
    "budget": "new_task",
    "passes": "two",
    "cue": "task",
    "cue_dropout": 0.0,
    "top_up": False,
    "checks": ["parses"],
    "when": "before_task",
    "distill": None,
    "fresh": False,
}
"""What `preset: lamol` sets, after jojotenya/LAMOL: two passes, the new task's budget, one rejection rule."""


class Distill(Settings):
    """Rehearsed samples teach what their teacher would say, not only what is written."""

    weight: float = Field(1.0, gt=0, le=1)
    """Share of the teacher's distribution in the loss on rehearsed samples; the rest is cross-entropy."""

    temperature: float = Field(2.0, gt=0)
    """Both distributions are softened by it."""

    teacher: Literal["at_writing", "model", "specialist"] = "at_writing"
    """The model as it was when the samples were written, the model as it was before the task, or the specialist of
    each rehearsed task."""


class Rehearsal(Settings):
    """What is rehearsed of earlier tasks while a new one is learned."""

    preset: Literal["lamol"] | None = None
    """`lamol`: the mechanics of the paper; keys given beside it win."""

    ratio: float = Field(0.2, gt=0)
    """Rehearsed samples as a share of a task's training rows (gamma of the paper); see `budget`."""

    fresh: bool = True
    """Each epoch rehearses other samples: as many are written, or stored of real rows, as all epochs take. false: the
    same in every epoch."""

    samples: int | None = Field(None, ge=1)
    """Rehearsed samples of each earlier task; wins over `ratio`."""

    budget: Literal["old_task", "new_task", "surprise"] = "old_task"
    """old_task: ratio × rows of each old task; new_task: ratio × rows of the new one, shared by the old; surprise:
    half of old_task's sum goes where the loss has risen most."""

    rehearse_base: bool | Literal["chat", "documents"] = False
    """What the untaught model could do is rehearsed too, in its own words, from the first task on. true: conversations
    where it has a chat template, else documents."""

    base_samples: int | None = Field(None, ge=1)
    """Samples of the untaught model; null: as many as `samples` or `ratio` give for the first task."""

    share: float | None = Field(None, gt=0, lt=1)
    """Share of rehearsed rows in what is learned, by repeating or leaving out; null: each row once."""

    schedule: Literal["every", "spaced"] = "every"
    """every: mixed into every epoch of the new task; spaced: in reviews of their own, spaced by how far the model has
    moved."""

    day_steps: int = Field(24, ge=1)
    """With `spaced`: how far the model moves in so many steps of the first task is a day of the schedule."""

    when: Literal["before_task", "after_task"] = "after_task"
    """Written once, right after a task was learned, and kept as text; or anew before each task."""

    writer: Literal["model", "specialist", "real"] = "model"
    """Who writes: the model itself, the specialist of each task, or (for comparison) a memory of real rows."""

    relabel: Literal["model", "specialist"] | None = None
    """Who answers a written question again, greedily; null: the answer stays as it was drawn."""

    distill: Distill | None = Distill()
    """null: rehearsed samples are learned like real ones."""

    specialists: str | None = None
    """The arm whose specialists are meant; null: the first that teaches specialists."""

    cue: Literal["task", "shared", "label"] = "task"
    """One cue for each task, a single one for all, or one for each label of a task."""

    seed_words: int = Field(0, ge=0)
    """How many first words of an earlier sample of its own follow the cue."""

    cue_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of samples learned without a cue, so that answering does not depend on it."""

    lm_lambda: float = Field(0.25, ge=0)
    """Weight of the sample loss beside the answer loss."""

    passes: Literal["one", "two"] = "one"
    """two: each sample is learned as two rows, with and without its cue, as the paper does."""

    temperature: float = Field(1.0, gt=0)

    top_k: int = Field(20, ge=0)
    """Draw from the k likeliest tokens; 0: from all."""

    top_p: float = Field(1.0, gt=0, le=1)

    max_new_tokens: int | None = Field(None, ge=1)
    """Tokens of a written sample at most; null: those of its task's longest training row, and a quarter more."""

    top_up: bool = True
    """Write again in place of what was rejected."""

    max_tries: int = Field(4, ge=1)
    """At most this many times the wanted number is drawn."""

    checks: tuple[Check, ...] = ("eos", "parses", "non_empty", "wrong_task", "label", "duplicate")
    """Why a written sample may be rejected."""

    @property
    def asks_specialists(self) -> bool:
        """Whether specialists of another arm are needed."""
        return "specialist" in (self.writer, self.relabel, self.distill.teacher if self.distill else None)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("preset") == "lamol":
            return {**LAMOL, **data}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> "Rehearsal":
        problems = []
        if self.schedule == "spaced" and self.share is not None:
            problems.append(Problem(("share",), "with schedule: spaced nothing is mixed; take it out"))
        if self.when == "after_task" and self.budget == "surprise":
            problems.append(Problem(("budget",), "surprise writes more where it is needed; set when: before_task"))
        if self.when == "after_task" and self.seed_words:
            problems.append(Problem(("seed_words",), "are of earlier samples of a task; set when: before_task"))
        if problems:
            raise problems_error(problems)
        return self
