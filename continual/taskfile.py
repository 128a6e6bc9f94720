"""What a task file may say, and the checks that need no data.

The keys are those of lm-evaluation-harness, so that a file which uses only these can be exchanged with it.
What that harness has no key for stands under ``metadata``.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Required, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from continual.problems import Key, Problem, did_you_mean, problems_error, problems_of
from continual.score import METRICS
from continual.wording import Wording, WordingError
from continual.yamlfile import Document

UNSUPPORTED = frozenset(
    (
        *("aggregate_metric_list", "custom_dataset", "description", "doc_to_audio", "doc_to_image"),
        *(
            "doc_to_decontamination_query",
            "fewshot_config",
            "fewshot_delimiter",
            "fewshot_split",
            "filter_list",
        ),
        *("gen_prefix", "group", "group_alias", "include", "num_fewshot", "process_docs", "process_results"),
        *("repeats", "should_decontaminate", "task_alias", "unsafe_code", "use_prompt"),
    )
)
"""Keys of lm-evaluation-harness that mean nothing, or something else, when a task is taught."""


# Told apart by hand, so that a mistake in a list is not also reported as "not a text".
Choices = Annotated[
    Annotated[tuple[str, ...], Tag("list")] | Annotated[str, Tag("text")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "text"),
]


class Generation(BaseModel):
    """``generation_kwargs``: when an answer ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    until: tuple[str, ...] = ()
    """Texts at which an answer is cut, beside the end-of-text token."""
    max_gen_toks: int = Field(default=256, gt=0)
    """The longest answer, in tokens."""

    @field_validator("until", mode="before")
    @classmethod
    def _one(cls, until: Any) -> Any:
        return (until,) if isinstance(until, str) else until


class Metric(BaseModel):
    """An entry of ``metric_list``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: str
    """The name of a metric in `continual.score.METRICS`."""
    aggregation: Literal["mean"] | None = None
    """As lm-evaluation-harness writes it. How rows become a score is the metric's own affair."""
    higher_is_better: Literal[True] = True
    """As lm-evaluation-harness writes it. Every metric here is better when higher."""

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"unknown metric '{metric}'{did_you_mean(metric, METRICS)}")
        return metric


@with_config(ConfigDict(extra="forbid"))
class Local(TypedDict, total=False):
    """A local copy of the data, with the columns task, instruction, input, output, choices, references."""

    path: Required[str]
    """``<data root>/<path>.<split>.jsonl.gz`` is the copy."""
    columns: dict[str, str]
    """Templates that make the data set's columns from those of the copy, so that the prompts are the same."""
    doc_to_text: str | list[str]
    """As ``doc_to_text``, for the copy; as many wordings."""
    doc_to_target: str
    """As ``doc_to_target``, for the copy."""
    references: str
    """As ``metadata.references``, for the copy."""
    dialogue: str
    """As ``metadata.dialogue``, for the copy."""
    where: str
    """As ``metadata.where``, for the copy."""


@with_config(ConfigDict(extra="allow"))
class Metadata(TypedDict, total=False):
    """What lm-evaluation-harness has no key for. Other keys may stand here too; nobody reads them."""

    version: Any
    """The version of the task file."""
    summary: str
    """One line for people."""
    labels: tuple[str, ...]
    """All answers there are, for a generate_until task that has no ``doc_to_choice``."""
    references: str
    """A list column, or a template that renders a list: every answer that counts as right."""
    dialogue: str
    """A column or template that names the dialogue of which a row is a turn: dsem goes by dialogues."""
    where: str
    """A template that renders True for the rows to keep, e.g. to leave out rows without a label."""
    explode: str
    """A column that holds a list of rows: each becomes a row of its own, with the other columns beside it."""
    deduplicate: bool
    """Drop rows of train that say the same as an earlier one."""
    local: Local
    """Where a local copy of the data lies."""


class TaskFile(BaseModel):
    """The keys of a task file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The name."""
    tag: tuple[str, ...] = ()
    """The clusters it belongs to."""
    dataset_path: str
    """A name on the Hub, a folder, json, csv, parquet, or python."""
    dataset_name: str | None = None
    """The configuration of the data set."""
    dataset_kwargs: dict[str, Any] = {}
    """``data_files`` for files; ``file``, ``function`` and its arguments for python; else load_dataset's."""
    training_split: str = "train"
    """What the data set calls its training split."""
    validation_split: str | None = None
    """The split for choices and tuning; null: a tenth of the training split."""
    test_split: str | None = None
    """The split for scores; null: the validation split, as in lm-evaluation-harness."""
    output_type: Literal["generate_until", "multiple_choice"] = "generate_until"
    """Whether the answer is written, or chosen by likelihood."""
    doc_to_text: tuple[str, ...] = ()
    """The wordings of the prompt: templates, or the name of a column."""
    doc_to_target: str | None = None
    """The answer: a template or a column. With ``doc_to_choice``, an index into the choices or a choice."""
    doc_to_choice: Choices | None = None
    """The choices: a list, a list column, or a template that renders a list."""
    messages: str | None = None
    """The column that holds a conversation, in place of ``doc_to_text`` and ``doc_to_target``."""
    target_delimiter: str = " "
    """What stands between prompt and answer where roles are not marked."""
    generation_kwargs: Generation = Generation()
    """When an answer ends."""
    metric_list: tuple[Metric, ...] = ()
    """The metrics, the one that fills R first. Left out: acc for choices, exact_match for writing."""
    metadata: Metadata = {}
    """Everything else."""

    _document: Document | None = PrivateAttr(None)

    @property
    def family(self) -> str:
        """The folder that the task file lies in; empty for a task that was made in Python."""
        return self._document.path.absolute().parent.name if self._document else ""

    @property
    def file(self) -> Path | None:
        """The task file."""
        return self._document.path if self._document else None

    @property
    def summary(self) -> str:
        """One line for people."""
        return self.metadata.get("summary", "")

    @property
    def metric(self) -> str:
        """The metric that fills R."""
        if self.metric_list:
            return self.metric_list[0].metric
        return "acc" if self.output_type == "multiple_choice" else "exact_match"

    @property
    def multiple_choice(self) -> bool:
        """Whether answers are scored by the likelihood of each choice."""
        return self.output_type == "multiple_choice"

    @property
    def until(self) -> tuple[str, ...]:
        """Texts at which an answer is cut."""
        return self.generation_kwargs.until

    @property
    def max_gen_toks(self) -> int:
        """The longest answer, in tokens."""
        return self.generation_kwargs.max_gen_toks

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set that all rows share; empty where there is none."""
        if isinstance(self.doc_to_choice, tuple):
            return self.doc_to_choice
        return self.metadata.get("labels", ())

    def at(self, *keys: Key) -> str:
        """``file:line`` of a key, for errors."""
        return self._document.at(*keys) if self._document else f"task '{self.task}'"

    @field_validator("tag", "doc_to_text", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("doc_to_text")
    @classmethod
    def _texts(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        _refuse(_wordings(texts))
        return texts

    @field_validator("doc_to_target", "doc_to_choice")
    @classmethod
    def _templates(cls, text: Any) -> Any:
        _refuse(_template(text) if isinstance(text, str) else [])
        return text

    @field_validator("metadata")
    @classmethod
    def _known(cls, metadata: Metadata) -> Metadata:
        known = Metadata.__annotations__
        problems = [
            Problem((key,), f"unknown key{did_you_mean(key, known)}")
            for key in metadata
            if key not in known and difflib.get_close_matches(key, known, cutoff=0.8)
        ]
        plain: dict[str, Any] = {**metadata}
        local: dict[str, Any] = plain.get("local", {})
        for key in ("where", "references", "dialogue", "doc_to_target"):
            problems += _template(plain.get(key), key)
            problems += _template(local.get(key), "local", key)
        problems += _wordings(listed(local.get("doc_to_text", ())), "local", "doc_to_text")
        for name, text in local.get("columns", {}).items():
            problems += _template(text, "local", "columns", name)
        _refuse(problems)
        return metadata

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        problems = []
        if bool(self.doc_to_text) != bool(self.doc_to_target):
            given, other = ("doc_to_text", "doc_to_target")[:: 1 if self.doc_to_text else -1]
            problems.append(Problem((given,), f"needs {other} as well"))
        if self.messages and self.doc_to_text:
            problems.append(Problem(("messages",), "give this, or doc_to_text and doc_to_target, not both"))
        if self.output_type == "multiple_choice" and not self.doc_to_choice:
            problems.append(Problem(("output_type",), "multiple_choice needs doc_to_choice"))
        texts = self.metadata.get("local", {}).get("doc_to_text")
        if texts and len(listed(texts)) != len(self.doc_to_text):
            problems.append(Problem(("metadata", "local", "doc_to_text"), "needs as many wordings as doc_to_text"))
        if self.doc_to_choice and "labels" in self.metadata:
            problems.append(Problem(("metadata", "labels"), "doc_to_choice already says the labels"))
        _refuse(problems)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _supported(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        problems = [Problem((key,), "not supported in a training task") for key in data if key in UNSUPPORTED]
        try:
            task = handler({key: value for key, value in data.items() if key not in UNSUPPORTED})
        except ValidationError as error:
            raise problems_error([*problems, *problems_of(error, cls, data)]) from None
        _refuse(problems)
        return task


def listed(value: str | Sequence[str]) -> Sequence[str]:
    """One text as a list of one."""
    return (value,) if isinstance(value, str) else value


def _template(text: str | None, *keys: Key) -> list[Problem]:
    try:
        Wording(text or "", *keys)
    except WordingError as error:
        return [Problem(keys, str(error))]
    return []


def _wordings(texts: Sequence[str], *keys: Key) -> list[Problem]:
    many = len(texts) > 1
    return [one for i, text in enumerate(texts) for one in _template(text, *keys, *([i] if many else []))]


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise problems_error(problems)
