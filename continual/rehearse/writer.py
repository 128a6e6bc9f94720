"""Who writes what is rehearsed: the model itself, or, as a baseline, a memory of real rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from continual.chat import Chat
from continual.decode import Decoder
from continual.rehearse.check import BEFORE_ASKING, Draft, Page, rejection
from continual.rehearse.frame import Frame
from continual.rehearse.shape import Shape
from continual.rehearse.teacher import Newest, Teachers, Weights, wearing
from continual.rehearse.text import SURPLUS, Stored, Written
from continual.sample import Message, Sample
from continual.sampling import Sampling
from continual.seeds import derive


class Writer(Protocol):
    """Gives samples of earlier tasks: of each as many as are `wanted`."""

    def write(
        self,
        model: Any,
        wanted: Mapping[str, int],
        seed: int,
        earlier: Mapping[str, Sequence[Written]] | None = None,
        shapes: Mapping[str, Shape] | None = None,
    ) -> dict[str, list[Written]]:
        """
        Args:
            earlier: what was written of each task before, if there is any.
            shapes: of the rows of each task, where they are known.
        """
        ...


@dataclass(frozen=True)
class ModelWriter:
    """LAMOL's writer: the model continues the cue until it has written whole samples.

    Args:
        chat: encodes the cue and parses what follows it.
        cues: cue texts per task, in turn where there are several.
        labels: label set per task, empty where there is none.
        checks: names from `check.CHECKS`.
        top_up: draw on until `wanted` samples are valid, `max_tries` times `wanted` at most; else draw
            `wanted` once.
        max_new_tokens: the longest sample.
        by_shape: whether a sample gets only as many tokens as the shape of its task allows.
        frames: of every task, for the check `wrong_task`.
        relabel: whether the answer is the teacher's own greedy one instead of the drawn one.
        writers: whose weights write; by default the model as it is.
        answerers: whose weights answer, where `relabel` or the check `consistent` asks.
        seed_words: how many first words of an earlier sample of the model's own stand after the cue; 0: none.
    """

    chat: Chat
    cues: Mapping[str, Sequence[str]]
    labels: Mapping[str, tuple[str, ...]]
    checks: tuple[str, ...]
    sampling: Sampling
    top_up: bool
    max_tries: int
    max_new_tokens: int
    batch_tokens: int
    frames: Mapping[str, Frame] = field(default_factory=dict)
    relabel: bool = False
    writers: Teachers = field(default_factory=Newest)
    answerers: Teachers = field(default_factory=Newest)
    seed_words: int = 0
    by_shape: bool = True

    def write(
        self,
        model: Any,
        wanted: Mapping[str, int],
        seed: int,
        earlier: Mapping[str, Sequence[Written]] | None = None,
        shapes: Mapping[str, Shape] | None = None,
    ) -> dict[str, list[Written]]:
        shapes = shapes or {}
        pages = {task: Page(task, self.labels[task], self.frames, shapes.get(task)) for task in wanted}
        drafts = {task: Drafts(pages[task], number, self.checks) for task, number in wanted.items()}
        limits = {task: self._limit(shapes.get(task)) for task in wanted}
        seeds = {task: self._beginnings((earlier or {}).get(task, ())) for task in wanted}
        # All tasks in one batch: with many of them, each one's share alone would be too few to decode well.
        while draws := [(t, n) for t, page in drafts.items() for n in page.next_draws(self.top_up, self.max_tries)]:
            written = self._drawn(model, draws, seeds, limits, seed)
            written = self._answered(model, written, limits)
            for task, page in drafts.items():
                mine = [draft for name, draft in written if name == task]
                page.page.set_band([draft.logprob for draft in mine if draft.logprob is not None])
                for draft in mine:
                    page.put(draft)
        return {task: page.samples for task, page in drafts.items()}

    def _drawn(
        self,
        model: Any,
        draws: Sequence[tuple[str, int]],
        seeds: Mapping[str, Sequence[str]],
        limits: Mapping[str, int],
        seed: int,
    ) -> list[tuple[str, Draft]]:
        """What is written after the cues."""
        chat, found = self.chat, []
        for weights, mine in _by_teacher(self.writers, model, draws):
            decoder = Decoder(model, chat.stop_ids, chat.end_id, self.batch_tokens, text=chat.text)
            cues = [chat.bos_ids + chat.cue_ids(self._cue(task, n)) for task, n in mine]
            begun = [self._begun(seeds[task], derive(seed, task, n, "beginning")) for task, n in mine]
            with wearing(model, weights or {}):
                outputs = decoder.generate(
                    [cue + ids for cue, ids in zip(cues, begun, strict=True)],
                    [max(1, limits[task] - len(begin)) for (task, _), begin in zip(mine, begun, strict=True)],
                    self.sampling,
                    [derive(seed, task, n) for task, n in mine],
                    chat.stops_before_answer,
                    chat.stop_texts,
                )
                likely: Sequence[float | None] = [None] * len(mine)
                if "likelihood" in self.checks:
                    ids = [[*begin, *output.ids] for begin, output in zip(begun, outputs, strict=True)]
                    told = decoder.choice_logprobs(cues, [[row] for row in ids])
                    likely = [values[0] / len(row) for values, row in zip(told, ids, strict=True)]
            for (task, _), begin, output, value in zip(mine, begun, outputs, likely, strict=True):
                text = chat.text_before_end([*begin, *output.ids], output.finished)
                found.append((task, Draft(text, chat.parse(text), output.finished, len(output.ids), logprob=value)))
        return found

    def _room(self, limit: int, prompt: Sequence[int]) -> int:
        """Tokens of an answer at most: a sample may not be longer than its task's, nor than the model can see."""
        return max(1, min(limit, len(self.chat.bos_ids) + self.max_new_tokens - len(prompt)))

    def _answered(
        self, model: Any, drafts: Sequence[tuple[str, Draft]], limits: Mapping[str, int]
    ) -> list[tuple[str, Draft]]:
        """The same drafts, with the teacher's greedy answers where they are asked for."""
        if not self.relabel and "consistent" not in self.checks:
            return list(drafts)
        answered = list(drafts)
        early = [check for check in self.checks if check in BEFORE_ASKING]
        sound = [
            (task, n)
            for n, (task, draft) in enumerate(drafts)
            if rejection(draft, early, Page(task, frames=self.frames)) is None
        ]
        for weights, mine in _by_teacher(self.answerers, model, sound):
            decoder = Decoder(
                model, self.chat.stop_ids, self.chat.end_id, self.batch_tokens, text=self.chat.text
            )
            asked = [drafts[n][1].messages or () for _, n in mine]
            prompts = [self.chat.prompt_ids(messages[:-1], self.max_new_tokens) for messages in asked]
            with wearing(model, weights or {}):
                # Without a cue, as whenever the model is asked something.
                rooms = [self._room(limits[task], prompt) for (task, _), prompt in zip(mine, prompts, strict=True)]
                outputs = decoder.generate(prompts, rooms, until=self.chat.stop_texts)
            for (task, n), output in zip(mine, outputs, strict=True):
                answered[n] = (
                    task,
                    self._with_answer(drafts[n][1], self.chat.answer_text(output.ids), output.finished),
                )
        return answered

    def _with_answer(self, draft: Draft, answer: str, finished: bool) -> Draft:
        messages = draft.messages or ()
        tokens = draft.tokens + len(self.chat.answer_ids(answer))
        new = (*messages[:-1], Message("assistant", answer))
        if not self.relabel or not finished or not self.chat.teachable(new):
            return replace(draft, greedy=answer, tokens=tokens)
        return replace(draft, greedy=answer, drawn=messages[-1].content, messages=new, tokens=tokens)

    def _limit(self, shape: Shape | None) -> int:
        """The most tokens that are written for a sample of a task."""
        return min(self.max_new_tokens, shape.most_tokens) if self.by_shape and shape else self.max_new_tokens

    def _cue(self, task: str, number: int) -> str:
        return self.cues[task][number % len(self.cues[task])]

    def _beginnings(self, earlier: Sequence[Written]) -> list[str]:
        """The first words of earlier samples, where the cue is to be followed by some."""
        if not self.seed_words:
            return []
        questions = [s.messages[0].content for s in earlier if s.reason is None and s.messages]
        return [" ".join(question.split()[: self.seed_words]) for question in questions]

    def _begun(self, beginnings: Sequence[str], seed: int) -> list[int]:
        """The ids of a user's turn that begins with some of these words; none where there are none."""
        if not beginnings:
            return []
        return self.chat.opening_ids(beginnings[int(np.random.default_rng(seed).integers(len(beginnings)))])


Item = TypeVar("Item", bound=tuple[str, int])


def _by_teacher(teachers: Teachers, model: Any, items: Sequence[Item]) -> list[tuple[Weights | None, list[Item]]]:
    """Items, whose first part is a task, by who teaches it; all in one group where that is the model itself."""
    if isinstance(teachers, Newest):
        return [(None, list(items))]
    tasks = dict.fromkeys(item[0] for item in items)
    return [(teachers.of(model, task), [item for item in items if item[0] == task]) for task in tasks]


@dataclass
class Drafts:
    """What has been written of one task so far."""

    page: Page
    wanted: int
    checks: Sequence[str]
    samples: list[Written] = field(default_factory=list)
    good: int = 0

    def next_draws(self, top_up: bool, max_tries: int) -> range:
        """Numbers of the draws to come: as many as are missing, and some more where earlier ones were rejected."""
        drawn, missing = len(self.samples), self.wanted - self.good
        most = self.wanted * (max_tries if top_up else 1)
        if missing <= 0 or drawn >= most:
            return range(0)
        rate = max(self.good / drawn, 0.1) if drawn else 1.0
        return range(drawn, min(most, drawn + max(1, int(np.ceil(missing / rate)))))

    def put(self, draft: Draft) -> None:
        reason = rejection(draft, self.checks, self.page)
        if reason is None and self.good == self.wanted:
            reason = SURPLUS
        if reason is None:
            assert draft.messages is not None
            self.page.keep(draft.messages, self.checks)
            self.good += 1
        self.samples.append(Written(draft.messages, draft.text, reason, draft.tokens))


@dataclass(frozen=True)
class RealWriter:
    """The baseline: the same number of stored real rows of each old task (LAMOL_REAL).

    The rows are drawn once: a smaller quota takes the first of them, so that no more rows are stored than the
    largest quota asks for.
    """

    memory: dict[str, Sequence[Sample]]
    seed: int

    def write(
        self,
        model: Any,
        wanted: Mapping[str, int],
        seed: int,
        earlier: Mapping[str, Sequence[Written]] | None = None,
        shapes: Mapping[str, Shape] | None = None,
    ) -> dict[str, list[Written]]:
        return {task: self._rows(task, number) for task, number in wanted.items()}

    def _rows(self, task: str, wanted: int) -> list[Written]:
        rows = self.memory[task]
        picked = np.random.default_rng(derive(self.seed, task, "memory")).permutation(len(rows))[:wanted]
        return [_stored(rows[i]) for i in picked]


def _stored(row: Sample) -> Written:
    return Written(row.messages, "", None, 0, Stored(row.delimiter, row.instruction, row.tools))
