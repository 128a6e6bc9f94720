"""Samples to token ids, and which tokens bear loss; roles; cues; and back from text to a sample.

Every way of writing a conversation down, a tokenizer's chat template or the plain ``User:`` / ``AI:`` form,
is brought into one shape, a `Form`: the strings that stand around the contents. Prompt and answer are
tokenised apart, at the same seams in training and in use, so that a model meets in use exactly the ids that
it was taught.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from continual.errors import ContinualError
from continual.sample import Message, Sample

log = logging.getLogger(__name__)

Roles = Literal["auto", "plain", "none"]


@dataclass(frozen=True)
class Form:
    """The strings around the contents of a conversation."""

    bos: str
    system_head: str
    system_end: str
    user_head: str
    answer_head: str
    """Between a user's words and the answer."""
    answer_end: str
    """After the answer; its first special token (or the end of text) ends a turn."""
    next_user: str
    """Between an answer and the user's next words; begins with `answer_end`."""
    delimited: bool
    """Whether a sample's delimiter stands before the answer (plain forms)."""


@dataclass(frozen=True)
class Encoded:
    """One sample as ids: the tokens after `Chat.bos_ids` and any cue."""

    input_ids: list[int]
    answer: list[int]
    """1 where the answer loss falls: assistant turns with their end tokens."""
    truncated: bool


def plain_form(bos: str, eos: str) -> Form:
    """The form for tokenizers without a (usable) chat template."""
    return Form(bos, "System: ", "\n", "User: ", "\nAI:", eos, f"{eos}\nUser: ", True)


def bare_form(bos: str, eos: str) -> Form:
    """No roles at all (``roles: none``): exists to show what goes wrong without."""
    return Form(bos, "", "\n", "", "", eos, f"{eos}\n", True)


def template_form(tokenizer: Any, bos: str) -> Form | str:
    """The form of a tokenizer's chat template, or the reason why it cannot be brought into this shape.

    Templates that refuse a system role, put in one of their own, or rewrite earlier turns have no such form.
    """

    def render(*contents: tuple[str, str], generation: bool = False) -> str:
        messages = [{"role": role, "content": content} for role, content in contents]
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation, enable_thinking=False
        )
        return str(text)

    s, u, a, u2, a2 = "SYSTEMWORDS", "USERWORDS", "ANSWERWORDS", "SECONDUSERWORDS", "SECONDANSWERWORDS"
    user, answer = ("user", u), ("assistant", a)
    try:
        one = render(user, answer)
        asked = render(user, generation=True)
        two = render(user, answer, ("user", u2), ("assistant", a2))
        with_system = render(("system", s), user, answer)
    except Exception as error:  # a template may raise anything it likes; its words are the reason
        return f"it refuses a conversation of system, user and assistant ({str(error).splitlines()[0]})"

    start = bos if one.startswith(bos) else ""
    before, found_user, rest = one[len(start) :].partition(u)
    answer_head, found_answer, answer_end = rest.partition(a)
    if not (found_user and found_answer):
        return "it changes the words of a message"
    if asked != start + before + u + answer_head:
        return "its generation prompt differs from the start of an answer"
    system, found_system, after_system = with_system[len(start) :].partition(s)
    if not found_system or not after_system.endswith(before + u + answer_head + a + answer_end):
        return "it has no system role of its own"
    system_end = after_system[: -len(before + u + answer_head + a + answer_end)]
    next_user = two[len(start + before + u + answer_head + a) :].partition(u2)[0]
    if two != start + before + u + answer_head + a + next_user + u2 + answer_head + a2 + answer_end:
        return "it rewrites earlier turns"
    if not next_user.startswith(answer_end.rstrip()):
        return "it ends an answer differently when the conversation goes on"
    return Form(start, system, system_end, before, answer_head, answer_end, next_user, False)


class Chat:
    """Encodes and parses conversations for one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers.
        roles: ``auto`` takes the tokenizer's chat template where it has a usable one, ``plain`` the plain
            form, ``none`` no marks at all.

    Raises:
        ContinualError: the tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, roles: Roles = "auto") -> None:
        if tokenizer.eos_token is None:
            raise ContinualError("the tokenizer has no eos_token: nothing would tell the model where an answer ends")
        self.tokenizer = tokenizer
        adds_bos = tokenizer.bos_token is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        bos = tokenizer.bos_token if adds_bos else ""
        self.templated = False
        """Whether the form is that of the tokenizer's chat template."""
        self.form = plain_form(bos, tokenizer.eos_token) if roles != "none" else bare_form(bos, tokenizer.eos_token)
        if roles == "auto" and tokenizer.chat_template is not None:
            form = template_form(tokenizer, tokenizer.bos_token or "")
            if isinstance(form, Form):
                self.form, self.templated = form, True
            else:
                log.warning("the chat template is not used, the plain User:/AI: form is: %s", form)
        self.bos_ids = self._ids(self.form.bos)
        self.end_id = self._end_id()
        end_text = tokenizer.decode([self.end_id])
        self._to_next_user = self.form.next_user.partition(end_text)[2]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return tuple(dict.fromkeys((self.end_id, self.tokenizer.eos_token_id)))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _end_id(self) -> int:
        special = set(self.tokenizer.all_special_ids)
        # A turn ends with the first special token of what follows an answer; text alone would not be a stop
        # sign.
        return next((i for i in self._ids(self.form.answer_end) if i in special), self.tokenizer.eos_token_id)

    def cue_ids(self, cue: str) -> list[int]:
        """The tokens that start a rehearsed sample: a system line with the words of the cue."""
        return self._ids(self.form.system_head + cue + self.form.system_end)

    def _pieces(self, messages: Sequence[Message], delimiter: str) -> list[tuple[list[int], bool]]:
        """Ids piece by piece, each with whether it is an assistant's; a system message is a piece of its own."""
        form, pieces, head = self.form, [], self.form.user_head
        for message in messages:
            content = message.content.strip()
            if message.role == "system":
                pieces.append((self._ids(form.system_head + content + form.system_end), False))
            elif message.role == "user":
                pieces.append((self._ids(head + content + form.answer_head), False))
                head = self._to_next_user
            else:
                answer = (delimiter if form.delimited else "") + content
                pieces.append(([*self._ids(answer), self.end_id], True))
        return pieces

    def _fitted(
        self, messages: Sequence[Message], delimiter: str, room: int, instruction: tuple[str, str]
    ) -> tuple[list[tuple[list[int], bool]], bool]:
        """The pieces that fit, and whether something had to go: the oldest turns, then the last question's middle."""
        pieces = self._pieces(messages, delimiter)
        excess = sum(len(ids) for ids, _ in pieces) - room
        if excess <= 0:
            return pieces, False
        questions = [n for n, message in enumerate(messages) if message.role == "user"]
        if len(questions) > 1:
            kept = [*messages[: questions[0]], *messages[questions[1] :]]
            return self._fitted(kept, delimiter, room, instruction)[0], True
        last = questions[-1]
        pieces[last] = (self._shortened(pieces[last][0], excess, instruction), False)
        return pieces, True

    def encode(self, sample: Sample, max_length: int) -> Encoded:
        """A whole sample. What is too long loses its oldest turns, then the middle of its last question's own words.

        Args:
            sample: a conversation that ends with the assistant; or a document, which loses its end.
            max_length: the most tokens allowed after `bos_ids` and cue; an answer that alone is longer is cut.
        """
        if sample.messages[0].role == "document":
            ids = self._ids(sample.messages[0].content)
            return Encoded(ids[:max_length], [0] * min(len(ids), max_length), len(ids) > max_length)
        pieces, truncated = self._fitted(sample.messages, sample.delimiter, max_length, sample.instruction)
        ids = [i for piece, _ in pieces for i in piece]
        answer = [int(mine) for piece, mine in pieces for _ in piece]
        return Encoded(ids[:max_length], answer[:max_length], truncated)

    def _shortened(self, ids: list[int], excess: int, instruction: tuple[str, str]) -> list[int]:
        """Drop `excess` tokens in the middle of the row's own words, or, if those are too few, of all words."""
        # A prompt without its instruction is not told from other tasks' prompts, and samples of it cannot be checked.
        # LongBench (Bai et al. 2023), which knows no templates, cuts the middle of all for the same reason.
        for before, after in (instruction, ("", "")):
            head, tail = len(self._ids(self.form.user_head + before)), len(self._ids(after + self.form.answer_head))
            kept = len(ids) - head - tail - excess
            if kept >= 0:
                break
        kept = max(0, kept)
        end = len(ids) - tail
        return ids[: head + kept // 2] + ids[end - (kept - kept // 2) :]

    def prompt_ids(
        self, messages: Sequence[Message], max_length: int, instruction: tuple[str, str] = ("", "")
    ) -> list[int]:
        """`bos_ids` and a conversation up to the mark after which the answer begins; never with a cue.

        Args:
            messages: a conversation that ends with the user.
            max_length: the most tokens; what is too long is shortened as in `encode`.
            instruction: a sample's, if it is one's prompt.
        """
        pieces, _ = self._fitted(messages, " ", max_length - len(self.bos_ids), instruction)
        return self.bos_ids + [i for piece, _ in pieces for i in piece]

    def opening_ids(self, words: str) -> list[int]:
        """The ids of a user's turn that begins with some words and is not yet ended."""
        return self._ids(self.form.user_head + words)

    @property
    def header_ids(self) -> list[int]:
        """`bos_ids` and the mark after which a user's words begin."""
        # A blank at its end would be the beginning of the first word.
        return self.bos_ids + self._ids(self.form.user_head.rstrip(" "))

    @property
    def question_ends(self) -> tuple[str, ...]:
        """Texts that end a user's words, where no stop token does."""
        head = self.form.answer_head
        return () if any(i in self.stop_ids for i in self._ids(head)) else (head.strip(),)

    @property
    def document_start(self) -> list[int]:
        """What stands before a document: `bos_ids`, or, without any, the end of the document before."""
        return self.bos_ids or [self.tokenizer.eos_token_id]

    def answer_ids(self, answer: str, delimiter: str = " ") -> list[int]:
        """The ids of an answer without its end, as `encode` writes them (for scoring choices)."""
        return self._ids((delimiter if self.form.delimited else "") + answer.strip())

    def answer_text(self, ids: Sequence[int]) -> str:
        """The words of a generated answer: up to the first stop token, special tokens left out."""
        stop = next((n for n, i in enumerate(ids) if i in self.stop_ids), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text with every mark visible."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @property
    def stops_before_answer(self) -> int:
        """How many stop tokens a model writes between a cue and the start of its answer (those that end a prompt)."""
        return sum(i in self.stop_ids for i in self._ids(self.form.user_head) + self._ids(self.form.answer_head))

    def _tight(self, text: str) -> str:
        """Without the blanks around special tokens, which some tokenizers add and others drop in decoding."""
        marks = "|".join(re.escape(token) for token in self.tokenizer.all_special_tokens)
        return re.sub(rf"\s*({marks})\s*", r"\1", text) if marks else text

    def parse(self, text: str) -> tuple[Message, ...] | None:
        """The conversation in a text that follows a cue, or None where its marks are not in their places.

        Args:
            text: as `text` gives it, up to and without the end of the last answer.
        """
        system_head, system_end, user_head, answer_head, next_user = map(
            self._tight,
            (
                self.form.system_head,
                self.form.system_end,
                self.form.user_head,
                self.form.answer_head,
                self.form.next_user,
            ),
        )
        if not answer_head.strip():  # without marks nobody can tell a prompt from its answer
            return None
        text = self._tight(text).lstrip()
        messages: list[Message] = []
        if system_head.strip() and text.startswith(system_head.strip()):
            system, found, text = text[len(system_head.strip()) :].partition(system_end)
            if not found:
                return None
            messages.append(Message("system", system.strip()))
        if not text.startswith(user_head.strip()):
            return None
        for turn in text[len(user_head.strip()) :].split(next_user):
            question, found, answer = turn.partition(answer_head)
            if not found or answer_head in answer:
                return None
            messages += [Message("user", question.strip()), Message("assistant", answer.strip())]
        marks = [mark.strip() for mark in (user_head, answer_head, *self.tokenizer.all_special_tokens) if mark.strip()]
        if any(mark in message.content for message in messages for mark in marks):
            return None
        return tuple(messages)
