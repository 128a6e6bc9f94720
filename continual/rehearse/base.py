"""What an untaught model says by itself: the samples by which it rehearses what it could do before it was taught.

A chat model gets the bare header of a user's turn and writes the question that belongs there, then answers it (Magpie:
Xu et al., 2024, arXiv 2406.08464). Any other model writes documents from the start token.

Questions and documents are drawn at temperature 1 from all tokens: to learn such a draw is, in expectation, to keep
the distance KL(untaught || taught) small. Answers are greedy, as in Magpie and as the model is asked in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from continual.chat import Chat
from continual.decode import Decoder
from continual.errors import ContinualError
from continual.rehearse.check import Draft, Page
from continual.rehearse.text import Written
from continual.rehearse.writer import Drafts
from continual.sample import Message
from continual.sampling import Sampling
from continual.seeds import derive

Kind = Literal["chat", "documents"]

BASE = "base"
"""What stands in the place of a task's name."""
CUE = -1
"""The key of its cue."""
CHECKS: dict[Kind, tuple[str, ...]] = {
    "chat": ("eos", "parses", "non_empty", "duplicate", "near_duplicate"),
    # A document may be longer than what is drawn of it.
    "documents": ("non_empty", "duplicate", "near_duplicate"),
}


def kind_of(asked: bool | Kind, chat: Chat) -> Kind | None:
    """What is to be written, from the setting `rehearse_base`.

    Raises:
        ContinualError: conversations are asked for, and turns have no marks.
    """
    if asked is False:
        return None
    kind: Kind = ("chat" if chat.templated else "documents") if asked is True else asked
    if kind == "chat" and not chat.marks.answer_head.strip():
        raise ContinualError("rehearse_base: chat needs marks of turns, and roles is none")
    return kind


def base_cue(kind: Kind, chat: Chat) -> list[int]:
    """The tokens between `bos_ids` and a sample: nothing calls for it but the beginning itself."""
    return chat.document_start[len(chat.bos_ids) :] if kind == "documents" else []


@dataclass(frozen=True)
class BaseWriter:
    """Lets a model write by itself.

    Args:
        room: the most tokens of a sample after `bos_ids`; a question gets half of them.
        top_up: draw on until as many as `wanted` are valid, `max_tries` times as many at most.
    """

    chat: Chat
    kind: Kind
    room: int
    top_up: bool
    max_tries: int
    batch_tokens: int

    def write(self, model: Any, wanted: int, seed: int) -> list[Written]:
        """Samples, kept and rejected ones."""
        drafts = Drafts(Page(BASE), wanted, CHECKS[self.kind])
        write = self._conversations if self.kind == "chat" else self._documents
        while draws := drafts.next_draws(self.top_up, self.max_tries):
            for draft in write(model, [derive(seed, n) for n in draws]):
                drafts.put(draft)
        return drafts.samples

    def _documents(self, model: Any, seeds: Sequence[int]) -> list[Draft]:
        tokenizer = self.chat.tokenizer
        decoder = Decoder(model, (tokenizer.eos_token_id,), self.chat.end_id, self.batch_tokens)
        starts = [self.chat.document_start] * len(seeds)
        drafts = []
        for output in decoder.generate(starts, self.room, Sampling(1.0), seeds):
            # With its marks: what ended by itself is learnt with its end.
            text = self.chat.text(output.ids)
            says_something = tokenizer.decode(output.ids, skip_special_tokens=True).strip()
            message = Message("document", text if says_something else "")
            drafts.append(Draft(text, (message,), output.finished, len(output.ids)))
        return drafts

    def _conversations(self, model: Any, seeds: Sequence[int]) -> list[Draft]:
        chat = self.chat
        decoder = Decoder(model, chat.stop_ids, chat.end_id, self.batch_tokens, text=chat.text)
        heads = [chat.header_ids] * len(seeds)
        outputs = decoder.generate(heads, self.room // 2, Sampling(1.0), seeds, until=chat.question_ends)
        drafts = [self._question(output.ids, output.finished) for output in outputs]
        sound = [n for n, draft in enumerate(drafts) if draft.messages is not None and draft.messages[0].content]
        prompts = [chat.prompt_ids((drafts[n].messages or ())[:1], len(chat.bos_ids) + self.room) for n in sound]
        limits = [len(chat.bos_ids) + self.room - len(prompt) for prompt in prompts]
        answers = decoder.generate(prompts, limits, until=chat.stop_texts)
        for n, answer in zip(sound, answers, strict=True):
            question = (drafts[n].messages or ())[0]
            talk = (question, Message("assistant", chat.answer_text(answer.ids, thoughts=True)))
            drafts[n] = replace(
                drafts[n],
                messages=talk if chat.teachable(talk) else None,
                finished=answer.finished,
                tokens=drafts[n].tokens + len(answer.ids),
            )
        return drafts

    def _question(self, ids: Sequence[int], finished: bool) -> Draft:
        """A user's words, with an empty answer; without messages where they did not end or hold marks of turns."""
        marks = self.chat.marks
        words = self.chat.text(ids[:-1] if finished and ids[-1] in self.chat.stop_ids else ids)
        for end in self.chat.question_ends:
            words = words.partition(end)[0]
        messages = self.chat.parse(marks.user_head + words + marks.answer_head) if finished else None
        return Draft(words, messages, finished, len(ids))
