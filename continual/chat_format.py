"""The two ways to write a conversation down as ids: by a chat template, or in the plain form.

A template's text is tokenised whole, as transformers does it, and cut where its prompt ends. The plain form is
tokenised piece by piece.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from continual.chat_template import ChatTemplate, Marks, plain_template, token_ends
from continual.errors import ContinualError
from continual.sample import Message


@dataclass(frozen=True)
class Conversation:
    """What is to be written."""

    messages: Sequence[Message]
    delimiter: str = " "
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Layout:
    """A conversation as ids, those of `Marks.bos` left out."""

    ids: list[int]
    answer: list[int]
    """1 where the answer loss falls."""
    lead: int
    """How many of the first ids a cue takes the place of."""
    words: Callable[[tuple[str, str]], tuple[int, int]]
    """Where the last question's own words begin and end in `ids`, given the instruction around them."""


class ChatFormat(Protocol):
    """A way to write conversations down."""

    name: str
    template: str
    """As Jinja, for other programs."""
    marks: Marks
    stop_texts: tuple[str, ...]
    """Texts that end an answer where no token does."""
    end_ids: list[int]

    def layout(self, talk: Conversation, asked: bool) -> Layout:
        """Write a conversation, up to the place where the answer begins if it is `asked`.

        Raises:
            ContinualError: it cannot be written.
        """
        ...

    def answer_ids(self, answer: str, delimiter: str) -> list[int]:
        """The ids of an answer without its end, as they follow a prompt."""
        ...

    def rows(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Sequence[Message]]:
        """The conversations by which all answers of one are taught as they will be asked."""
        ...


class PlainFormat:
    """Turns as ``User:`` and ``AI:``, or without any mark (``roles: none``), which shows what goes wrong then."""

    def __init__(self, tokenizer: Any, roles: bool) -> None:
        self.tokenizer = tokenizer
        self.name = "plain" if roles else "none"
        adds_bos = tokenizer.bos_token is not None and tokenizer("").input_ids[:1] == [
            tokenizer.bos_token_id
        ]
        bos = tokenizer.bos_token if adds_bos else ""
        self.template = plain_template(bos, roles)
        system, user, answer = ("System: ", "User: ", "\nAI:") if roles else ("", "", "")
        eos = tokenizer.eos_token
        self.marks = Marks(
            bos=bos,
            lead="",
            cue=(system, "\n"),
            system=(system, "\n"),
            user_head=user,
            answer_head=answer,
            thought="",
            asked=answer,
            opening="",
            next_user=f"{eos}\n{user}",
            end=eos,
            tail=eos,
            rewrites=False,
        )
        self.stop_texts: tuple[str, ...] = ()
        self.end_ids = [tokenizer.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def layout(self, talk: Conversation, asked: bool) -> Layout:
        marks, head = self.marks, self.marks.user_head
        if talk.tools:
            raise ContinualError(
                "the plain form has no place for tools; a model with a chat template may have"
            )
        ids: list[int] = []
        answer: list[int] = []
        question = (0, 0)
        for message in talk.messages:
            content = message.content.strip()
            if message.role == "system":
                piece = self._ids("".join((marks.cue[0], content, marks.cue[1])))
            elif message.role == "user":
                piece = self._ids(head + content + marks.answer_head)
                question = (len(ids), len(ids) + len(piece))
                head = marks.next_user.removeprefix(marks.end)
            elif message.role == "assistant" and not message.tool_calls:
                piece = [*self._ids(talk.delimiter + content), *self.end_ids]
            else:
                raise ContinualError(
                    "the plain form has no place for tool turns; a model with a chat template may have"
                )
            ids += piece
            answer += [int(message.role == "assistant")] * len(piece)

        def words(instruction: tuple[str, str]) -> tuple[int, int]:
            before, after = instruction
            first = len(self._ids(marks.user_head + before))
            return question[0] + first, question[1] - len(self._ids(after + marks.answer_head))

        return Layout(ids, answer, 0, words)

    def answer_ids(self, answer: str, delimiter: str) -> list[int]:
        return self._ids(delimiter + answer.strip())

    def rows(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Sequence[Message]]:
        return [messages]


class TemplateFormat:
    """A tokenizer's chat template.

    Raises:
        UnusableTemplate: it cannot be taught.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.name = tokenizer, "template"
        self._template = ChatTemplate(tokenizer)
        self.template, self.marks = self._template.text, self._template.marks
        tokens = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        end, following = self.marks.end, self.marks.next_user
        if end in tokens:
            self.end_ids = [tokens[end]]
            self.stop_texts: tuple[str, ...] = ()
            # A base model that was not taught an end writes the next question's mark instead.
            if end not in following and not any(token in following for token in tokens):
                self.stop_texts = (following.strip(),)
        else:
            self.end_ids = list(tokenizer(end, add_special_tokens=False).input_ids)
            self.stop_texts = (end,)

    def layout(self, talk: Conversation, asked: bool) -> Layout:
        marks, text = self.marks, self._render(talk, asked)
        # What follows a prompt decides how its last characters are cut into tokens.
        ids, ends = token_ends(self.tokenizer, text + marks.opening + "A" if asked else text)
        first, last = (
            bisect_right(ends, len(marks.bos)),
            bisect_right(ends, len(text)) if asked else len(ids),
        )
        answer = [0] * last
        end_of_prompt = len(text)
        for start, end in [] if asked else self._spans(talk, text):
            end_of_prompt = start
            for n in range(bisect_right(ends, start), bisect_right(ends, end - 1) + 1):
                answer[n] = 1
        lead = 0
        if text.startswith(marks.bos + marks.lead):
            lead = bisect_right(ends, len(marks.bos + marks.lead)) - first

        def words(instruction: tuple[str, str]) -> tuple[int, int]:
            question = next(m.content.strip() for m in reversed(talk.messages) if m.role == "user")
            start = text.rfind(question, 0, end_of_prompt)
            if start < 0:
                raise ContinualError(
                    "the chat template changes the words of a question that is too long"
                )
            before, after = instruction[0].lstrip(), instruction[1].rstrip()
            end = start + len(question) - (len(after) if question.endswith(after) else 0)
            start += len(before) if question.startswith(before) else 0
            return bisect_right(ends, start) - first, bisect_right(ends, max(start, end)) - first

        return Layout(ids[first:last], answer[first:last], lead, words)

    def answer_ids(self, answer: str, delimiter: str) -> list[int]:
        asked = self.marks.asked
        ids, ends = token_ends(self.tokenizer, asked + self.marks.opening + answer)
        return ids[bisect_right(ends, len(asked)) :]

    def rows(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Sequence[Message]]:
        answers = [n for n, message in enumerate(messages) if message.role == "assistant"]
        talk = Conversation(messages, tools=tools)
        if len(answers) < 2 or len(self._spans(talk, self._render(talk, False))) == len(answers):
            return [messages]
        return [messages[: n + 1] for n in answers]

    def _render(self, talk: Conversation, asked: bool) -> str:
        text = self._template.render(talk.messages, talk.tools, asked)
        for message in talk.messages:
            if message.role in ("system", "tool") and not _holds(text, message.content.strip()):
                raise ContinualError(
                    f"the chat template leaves out the words of a {message.role} turn"
                )
        calls = [call for message in talk.messages for call in message.tool_calls]
        # The names of functions stand among the tools as well.
        without = self._template.render(talk.messages, (), asked) if calls and talk.tools else text
        for call in calls:
            _check_function(without, call)
        for tool in talk.tools:
            _check_function(text, tool)
        return text

    def _spans(self, talk: Conversation, text: str) -> list[tuple[int, int]]:
        """Where each answer, with its end, stands in a text; of those that stand there as they will be asked."""
        answers = [n for n, message in enumerate(talk.messages) if message.role == "assistant"]
        spans = [
            self._span(talk, text, n) for n in (answers[-1:] if self.marks.rewrites else answers)
        ]
        if spans[-1] is None:
            raise ContinualError(
                "the chat template writes an answer otherwise than its prompt begins it"
            )
        return [span for span in spans if span is not None]

    def _span(self, talk: Conversation, text: str, n: int) -> tuple[int, int] | None:
        messages = talk.messages
        prompt = self._template.render(messages[:n], talk.tools, asked=True)
        if not text.startswith(prompt):
            return None
        alone = (
            self._template.render(messages[: n + 1], talk.tools) if n + 1 < len(messages) else text
        )
        place = alone.rfind(self.marks.end, len(prompt))
        end = place + len(self.marks.end) if place >= 0 else len(alone.rstrip())
        return (len(prompt), end) if len(os.path.commonprefix([alone[:end], text])) == end else None


def _holds(text: str, words: str) -> bool:
    """Whether a text has some words, as they are or as JSON."""
    return words in text or json.dumps(words, ensure_ascii=False)[1:-1] in text


def _check_function(text: str, function: Mapping[str, Any]) -> None:
    name = function.get("function", function).get("name", "")
    if name not in text:
        raise ContinualError(f"the chat template leaves out the function '{name}'")
