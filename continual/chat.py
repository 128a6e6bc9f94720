"""Samples to token ids, and which tokens bear loss; roles; cues; and back from text to a sample."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from continual.chat_format import ChatFormat, Conversation, Layout, PlainFormat, TemplateFormat
from continual.chat_template import UnusableTemplate
from continual.errors import ContinualError
from continual.sample import Message, Sample

Roles = Literal["auto", "plain", "none"]


@dataclass(frozen=True)
class Encoded:
    """One sample as ids: the tokens after `Chat.bos_ids`, without a cue."""

    input_ids: list[int]
    answer: list[int]
    """1 where the answer loss falls: assistant turns with what ends them."""
    truncated: bool
    lead: int = 0
    """How many of the first ids a cue takes the place of (a system line of the template's own)."""


class Chat:
    """Encodes and parses conversations for one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        roles: ``auto`` takes the tokenizer's chat template where it has one, ``plain`` the plain form, ``none`` no
            marks at all.

    Raises:
        ContinualError: the tokenizer has no end-of-sequence token, or its chat template cannot be taught.
    """

    def __init__(self, tokenizer: Any, roles: Roles = "auto") -> None:
        if tokenizer.eos_token is None:
            raise ContinualError("the tokenizer has no eos_token: nothing would tell the model where an answer ends")
        self.tokenizer = tokenizer
        self.templated = roles == "auto" and tokenizer.chat_template is not None
        """Whether the form is that of the tokenizer's chat template."""
        self.format: ChatFormat
        if self.templated:
            try:
                self.format = TemplateFormat(tokenizer)
            except UnusableTemplate as error:
                raise ContinualError(
                    f"roles: the tokenizer's chat template cannot be used: {error}; `roles: plain` teaches User: and "
                    "AI: instead"
                ) from None
        else:
            self.format = PlainFormat(tokenizer, roles != "none")
        self.marks = self.format.marks
        self.bos_ids = self._ids(self.marks.bos)
        self.end_ids = self.format.end_ids
        """What ends an answer: one token, or several where it is a text."""
        self.end_id = self.end_ids[0] if len(self.end_ids) == 1 else tokenizer.eos_token_id
        # Of an answer that begins with an empty thought or a channel, the words stand after its last mark.
        opening = self._ids(self.marks.opening)
        added = [n for n, i in enumerate(opening) if i in tokenizer.added_tokens_decoder]
        self._opening = opening[: added[-1] + 1] if added else []
        self._before_words = self._opening[-1] if added else None
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = list(dict.fromkeys((*tokenizer.all_special_tokens, *special)))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return tuple(dict.fromkeys((self.end_id, self.tokenizer.eos_token_id)))

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end an answer where no token does."""
        return self.format.stop_texts

    @property
    def opening_tokens(self) -> int:
        """How many tokens an answer has before its own words."""
        return len(self.format.answer_ids("A", "")) - 1 if self.marks.opening.strip() else 0

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    @property
    def form(self) -> dict[str, Any]:
        """Its name, its template's hash, and whether that is the base's: what manifests say of it."""
        template = self.format.template
        return {
            "name": self.format.name,
            "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
            "of_base": template == self.tokenizer.chat_template,
        }

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, with the chat template by which conversations are taught and asked."""
        own = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.format.template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = own

    def cue_ids(self, cue: str) -> list[int]:
        """The tokens that start a rehearsed sample: a system line with the words of the cue, or what stands for it."""
        return self._ids(self.marks.cue[0] + cue + self.marks.cue[1])

    def rows(self, sample: Sample) -> list[Sample]:
        """The samples by which a sample is taught: several where the template rewrites earlier answers."""
        if sample.messages[0].role == "document":
            return [sample]
        try:
            parts = self.format.rows(sample.messages, sample.tools)
        except ContinualError as error:
            raise _at(sample, error) from None
        if len(parts) == 1:
            return [sample]
        return [
            replace(sample, messages=tuple(part), references=sample.references if n + 1 == len(parts) else ())
            for n, part in enumerate(parts)
        ]

    def _fitted(
        self, talk: Conversation, room: int, instruction: tuple[str, str], asked: bool
    ) -> tuple[Layout, bool]:
        """What fits, and whether something had to go: the oldest turns, then the middle of the last question."""
        layout = self.format.layout(talk, asked)
        if len(layout.ids) <= room:
            return layout, False
        messages = list(talk.messages)
        while True:
            questions = [n for n, message in enumerate(messages) if message.role == "user"]
            if len(questions) < 2:
                return _shortened(layout, len(layout.ids) - room, instruction), True
            messages = [*messages[: questions[0]], *messages[questions[1] :]]
            layout = self.format.layout(Conversation(messages, talk.delimiter, talk.tools), asked)
            if len(layout.ids) <= room:
                return layout, True

    def encode(self, sample: Sample, max_length: int) -> Encoded:
        """A whole sample. What is too long loses its oldest turns, then the middle of its last question's own words.

        Args:
            sample: a conversation that ends with the assistant; or a document, which loses its end.
            max_length: the most tokens allowed after `bos_ids` and cue; an answer that alone is longer is cut.

        Raises:
            ContinualError: the form has no place for one of its turns.
        """
        if sample.messages[0].role == "document":
            ids = self._ids(sample.messages[0].content)
            return Encoded(ids[:max_length], [0] * min(len(ids), max_length), len(ids) > max_length)
        talk = Conversation(sample.messages, sample.delimiter, sample.tools)
        try:
            layout, truncated = self._fitted(talk, max_length, sample.instruction, asked=False)
        except ContinualError as error:
            raise _at(sample, error) from None
        return Encoded(layout.ids[:max_length], layout.answer[:max_length], truncated, layout.lead)

    def prompt_ids(
        self,
        messages: Sequence[Message],
        max_length: int,
        instruction: tuple[str, str] = ("", ""),
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """`bos_ids` and a conversation up to the mark after which the answer begins; never with a cue.

        Args:
            messages: a conversation that ends with the user, or with a tool's result.
            max_length: the most tokens; what is too long is shortened as in `encode`.
            instruction: a sample's, if it is one's prompt.
            tools: a sample's.

        Raises:
            ContinualError: the form has no place for one of the turns.
        """
        talk = Conversation(messages, tools=tools)
        layout, _ = self._fitted(talk, max_length - len(self.bos_ids), instruction, asked=True)
        return self.bos_ids + layout.ids

    def opening_ids(self, words: str) -> list[int]:
        """The ids of a user's turn that begins with some words and is not yet ended."""
        return self._ids(self.marks.user_head + words)

    @property
    def header_ids(self) -> list[int]:
        """`bos_ids` and the mark after which a user's words begin."""
        # A blank at its end would be the beginning of the first word.
        return self.bos_ids + self._ids((self.marks.lead + self.marks.user_head).rstrip(" "))

    @property
    def question_ends(self) -> tuple[str, ...]:
        """Texts that end a user's words, where no stop token does."""
        head = self.marks.answer_head
        return () if any(i in self.stop_ids for i in self._ids(head)) else (head.strip(),)

    @property
    def document_start(self) -> list[int]:
        """What stands before a document: `bos_ids`, or, without any, the end of the document before."""
        return self.bos_ids or [self.tokenizer.eos_token_id]

    def answer_ids(self, answer: str, delimiter: str = " ") -> list[int]:
        """The ids of an answer without its end, as `encode` writes them (for scoring choices)."""
        return self.format.answer_ids(answer, delimiter)

    def answer_text(self, ids: Sequence[int], thoughts: bool = False) -> str:
        """The words of a generated answer: up to the first stop token or text, special tokens left out.

        Args:
            thoughts: keep what was thought before them; else only an answer without any is given whole.
        """
        stop = next((n for n, i in enumerate(ids) if i in self.stop_ids), len(ids))
        ids = list(ids[:stop])
        empty_thought = ids[: len(self._opening)] == self._opening
        if self._before_words in ids and (empty_thought or not thoughts):
            ids = ids[len(ids) - ids[::-1].index(self._before_words) :]
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        for mark in self.stop_texts:
            text = text.partition(mark)[0]
        return text.strip()

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text with every mark visible."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def words_so_far(self, ids: Sequence[int]) -> str:
        """The text of an answer's beginning, every mark visible, without what stands before its own words."""
        text, opening = self.text(ids).lstrip(), self.marks.opening.strip()
        if opening.startswith(text):
            return ""
        return text.removeprefix(opening).lstrip()

    def text_before_end(self, ids: Sequence[int], finished: bool) -> str:
        """Generated ids as text with every mark visible, without the token or text that ended them."""
        if not finished or ids[-1] in self.stop_ids:
            return self.text(ids[:-1] if finished else ids)
        text = self.text(ids)
        return text[: max(text.rfind(mark) for mark in self.stop_texts)]

    @property
    def stops_before_answer(self) -> int:
        """How many stops a model writes between a cue and the start of its answer (those that end a prompt)."""
        before = self.marks.user_head, self.marks.answer_head + self.marks.thought
        tokens = sum(i in self.stop_ids for part in before for i in self._ids(part))
        return max([tokens, *("".join(before).count(text) for text in self.stop_texts)])

    def _tight(self, text: str) -> str:
        """Without the blanks around special tokens, which some tokenizers add and others drop in decoding."""
        marks = "|".join(re.escape(token) for token in self._special)
        return re.sub(rf"\s*({marks})\s*", r"\1", text) if marks else text

    def parse(self, text: str) -> tuple[Message, ...] | None:
        """The conversation in a text that follows a cue, or None where its marks are not in their places.

        Args:
            text: as `text` gives it, up to and without the end of the last answer.
        """
        user_head, answer_head = self._tight(self.marks.user_head), self._tight(self.marks.answer_head)
        next_user = self._tight(self.marks.next_user)
        with_thought = self._tight(self.marks.answer_head + self.marks.thought)
        if not answer_head.strip():  # without marks nobody can tell a prompt from its answer
            return None
        text = self._tight(text).lstrip()
        messages: list[Message] = []
        system_head, system_end = map(self._tight, self.marks.system or ("", ""))
        if system_head.strip() and text.startswith(system_head.strip()):
            system, found, text = text[len(system_head.strip()) :].partition(system_end)
            if not found:
                return None
            messages.append(Message("system", system.strip()))
        if not text.startswith(user_head.strip()):
            return None
        for turn in text[len(user_head.strip()) :].split(next_user):
            head = with_thought if with_thought in turn else answer_head
            question, found, answer = turn.partition(head)
            if not found or answer_head in answer:
                return None
            messages += [Message("user", question.strip()), Message("assistant", answer.strip())]
        marks = [mark.strip() for mark in (user_head, answer_head, *self._special) if mark.strip()]
        if any(mark in message.content for message in messages for mark in marks):
            return None
        empty = not messages[-1].content  # a question by itself
        return tuple(messages) if empty or self.teachable(messages) else None

    def teachable(self, messages: Sequence[Message]) -> bool:
        """Whether the form can write a conversation so that its answer goes on from its prompt."""
        try:
            self.format.layout(Conversation(messages), asked=False)
        except ContinualError:
            return False
        return True


def _shortened(layout: Layout, excess: int, instruction: tuple[str, str]) -> Layout:
    """Drop `excess` tokens in the middle of the row's own words, or, if those are too few, of all words."""
    # A prompt without its instruction is not told from other tasks' prompts, and samples of it cannot be checked.
    # LongBench (Bai et al. 2023), which knows no templates, cuts the middle of all for the same reason.
    for around in (instruction, ("", "")):
        start, end = layout.words(around)
        kept = end - start - excess
        if kept >= 0:
            break
    kept = max(0, kept)
    first, second = start + kept // 2, end - (kept - kept // 2)
    ids, answer = ([*row[:first], *row[second:]] for row in (layout.ids, layout.answer))
    return Layout(ids, answer, layout.lead, layout.words)


def _at(sample: Sample, error: ContinualError) -> ContinualError:
    """The same error with the row that it is about."""
    words = " ".join(sample.messages[0].content.split())
    return ContinualError(f"{sample.task}: the row that begins {words[:60]!r}: {error}")
