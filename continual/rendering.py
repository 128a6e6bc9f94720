"""Rows become samples: wordings, answers, choices, conversations, and the fixed hash of each row."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from continual.conversations import Conversation, conversation
from continual.errors import ContinualError
from continual.problems import dotted
from continual.sample import Message, Sample
from continual.seeds import derive
from continual.taskfile import TaskFile, listed
from continual.wording import Row, Wording, WordingError


@dataclass(frozen=True)
class Rendered:
    """A row under the first wording of its task."""

    row: Row
    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    references: tuple[str, ...]
    key: int
    """A fixed hash of what is said, the same on every machine and wherever the row was read from."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions on offer."""
    dialogue: str = ""

    @property
    def unit(self) -> int:
        """The fixed hash by which splits and subsets are drawn: turns of a dialogue stay together."""
        return derive("dialogue", self.dialogue) if self.dialogue else self.key


class Renderer:
    """The compiled templates of a task, for rows of the data set or of a local copy of it.

    Args:
        task: the task.
        local: whether the rows come from the local copy, whose columns ``metadata.local`` maps.
    """

    def __init__(self, task: TaskFile, local: bool) -> None:
        metadata, copy = task.metadata, task.metadata.get("local", {})
        above = ("metadata", "local") if local else ("metadata",)
        columns = copy.get("columns", {}) if local else {}
        references = copy.get("references") if local else metadata.get("references")
        where = copy.get("where") if local else metadata.get("where")
        self.task = task
        self.unread: set[str] = set()
        """What conversations held that was not read, of the rows rendered so far."""
        self.columns = {name: Wording(text, *above, "columns", name) for name, text in columns.items()}
        self.where = Wording(where, *above, "where") if where else None
        self.references = Wording(references, *above, "references") if references else None
        dialogue = copy.get("dialogue") if local else metadata.get("dialogue")
        self.dialogue = Wording(dialogue, *above, "dialogue") if dialogue else None
        texts = listed(copy["doc_to_text"]) if local and "doc_to_text" in copy else None
        target = copy.get("doc_to_target") if local else None
        self.texts = [Wording(text, "doc_to_text") for text in task.doc_to_text]
        # A local copy says the same in all, but its rows may hold whole prompts.
        self.instructions = [text.fixed for text in self.texts]
        if texts is not None:
            self.texts = [Wording(text, *above, "doc_to_text") for text in texts]
        if target is None:
            self.target = Wording(task.doc_to_target, "doc_to_target") if task.doc_to_target else None
        else:
            self.target = Wording(target, *above, "doc_to_target")
        self.choices = Wording(task.doc_to_choice, "doc_to_choice") if isinstance(task.doc_to_choice, str) else None

    def render(self, rows: Iterable[Row], split: str) -> list[Rendered]:
        """Every row that ``where`` keeps, in order.

        Raises:
            ContinualError: a template does not fit a row, or an answer is none of the choices.
        """
        each = (self.render_row(row, number, split) for number, row in enumerate(rows, start=1))
        return [rendered for rendered in each if rendered is not None]

    def render_row(self, row: Row, number: int, split: str) -> Rendered | None:
        """One row under the first wording; None where ``where`` leaves it out.

        Args:
            number: the row's place in its split, from 1, for errors.

        Raises:
            ContinualError: as `render`.
        """
        try:
            mapped = self._mapped(row)
            if self.where is None or _truth(self.where, mapped):
                return self._render(mapped)
        except WordingError as error:
            key = f"{dotted(error.keys)}: " if error.keys else ""
            place = self.task.at(*error.keys)
            raise ContinualError(f"{place}: {key}{error} (row {number} of {split})") from None
        except UnicodeEncodeError:
            place = self.task.at("dataset_path")
            half = "holds half a character (a lone surrogate), which is no text"
            raise ContinualError(f"{place}: row {number} of {split} {half}") from None
        return None

    def sample(self, rendered: Rendered, choice: int) -> Sample:
        """The sample under the wording that a random number chooses."""
        messages = rendered.messages
        index = choice % len(self.texts) if self.texts else 0
        if index:
            messages = (Message("user", self.texts[index].text(rendered.row)), *messages[1:])
        instruction = self.instructions[index] if self.instructions else ("", "")
        delimiter = self.task.target_delimiter
        return Sample(
            self.task.task,
            messages,
            rendered.choices,
            rendered.references,
            delimiter,
            instruction,
            rendered.tools,
            dialogue=rendered.dialogue,
        )

    def _mapped(self, row: Row) -> Row:
        if not self.columns:
            return row
        mapped = dict(row)
        for name, wording in self.columns.items():
            mapped[name] = wording.text(mapped)
        return mapped

    def _render(self, row: Row) -> Rendered:
        tools: tuple[Mapping[str, Any], ...] = ()
        if self.target is None:
            talk = self._conversation(row)
            messages, tools = talk.messages, talk.tools
            choices: tuple[str, ...] = self.task.labels
            answers: tuple[str, ...] = (messages[-1].content,)
        else:
            choices = self.choices.texts(row) if self.choices else self.task.labels
            answers = self._answers(self.target, row, choices)
            messages = (Message("user", self.texts[0].text(row)), Message("assistant", answers[0]))
        if self.references:
            answers = tuple(dict.fromkeys((answers[0], *self.references.texts(row))))
        texts = [text for message in messages for text in message.texts]
        texts += [json.dumps(tool, sort_keys=True) for tool in tools]
        key = derive("row", self.task.task, *texts)
        dialogue = self.dialogue.text(row) if self.dialogue else ""
        return Rendered(row, messages, choices, answers, key, tools, dialogue)

    def _conversation(self, row: Row) -> Conversation:
        talk = conversation(row, self.task.messages)
        self.unread |= talk.unread
        return talk

    def _answers(self, target: Wording, row: Row, choices: tuple[str, ...]) -> tuple[str, ...]:
        value = target.value(row)
        if isinstance(value, list | tuple):
            if not value:
                raise target.error("the list of answers is empty")
            return tuple(dict.fromkeys(str(one) for one in value))
        if self.task.doc_to_choice is not None:
            value = _by_index(target, value, choices)
        if choices and str(value) not in choices:
            raise target.error(
                f"the answer {str(value)!r} is none of {', '.join(map(repr, choices))}; "
                "rows without a label can be left out by metadata.where"
            )
        return (str(value),)


def _by_index(target: Wording, value: Any, choices: tuple[str, ...]) -> Any:
    """The choice at an index; anything else as it is. As in lm-evaluation-harness, digits are an index."""
    if isinstance(value, str) and value.isdigit():
        index = int(value)
        if value in choices and choices.index(value) != index:
            raise target.error(f"the answer '{value}' is an index into the choices and also a choice at another place")
        value = index
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(choices):
            raise target.error(
                f"{value} is no index into the {len(choices)} choices; "
                "rows without a label can be left out by metadata.where"
            )
        return choices[value]
    return value


def _truth(where: Wording, row: Row) -> bool:
    text = where.text(row).strip()
    if text not in ("True", "False"):
        raise where.error(f"should render True or False, renders {text!r}")
    return text == "True"
