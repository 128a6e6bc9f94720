"""Samples to an Avalanche data set of encoded rows, and from there to token-budget batches."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from continual.batch import Collate, Triple
from continual.chat import Chat, Encoded
from continual.errors import ContinualError
from continual.guard import guard
from continual.sample import Sample
from continual.seeds import derive

if TYPE_CHECKING:
    from avalanche.benchmarks.utils import AvalancheDataset

T = TypeVar("T")

CPU_PASS, GPU_PASS = 64, 1024
"""What one more forward and backward pass costs, in tokens of padding that take as long. The first is the best of
0 to 256 on models of one and four million parameters; the second is an estimate, for kernels that must be launched."""


class Rows(Sequence[dict[str, Any]]):
    """Encoded samples, five bytes a token.

    Row i is a dict of `input_ids` and `answer`, arrays of equal length, and of `lead` (see `chat.Encoded`).
    """

    def __init__(self, encoded: Iterable[Encoded]) -> None:
        ids, answer, self.lengths, self.leads = array("i"), array("b"), array("i"), array("i")
        for one in encoded:
            ids.extend(one.input_ids)
            answer.extend(one.answer)
            self.lengths.append(len(one.input_ids))
            self.leads.append(min(one.lead, len(one.input_ids)))
        self._ids, self._answer = np.array(ids, dtype=np.int32), np.array(answer, dtype=np.int8)
        self._ends = np.cumsum(self.lengths, dtype=np.int64).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        end = self._ends[index]
        row = slice(end - self.lengths[index], end)
        return {"input_ids": self._ids[row], "answer": self._answer[row], "lead": self.leads[index]}


def encode(
    samples: Sequence[Sample], chat: Chat, max_length: int, label: int, collate: Collate, rehearsed: bool = False
) -> AvalancheDataset:
    """Encode samples of one task into an Avalanche data set.

    Args:
        max_length: the most tokens of a row, its cue included.
        label: the task's number in the curriculum, given to every supervised token.
        rehearsed: whether the samples are rehearsed ones.

    Raises:
        ContinualError: the cue leaves no room.
    """
    space = room(max_length, collate)
    rows = Rows(chat.encode(sample, space) for sample in samples)
    return dataset(rows, label, collate, collate.keys(samples, label), rehearsed)


def room(max_length: int, collate: Collate) -> int:
    """The most tokens of a sample without its cue.

    Raises:
        ContinualError: the cue leaves too few.
    """
    left = max_length - len(collate.bos_ids) - max((len(ids) for ids in collate.cues.values()), default=0)
    if left < 8:
        raise ContinualError(f"training.max_length: {max_length} tokens leave no room beside the cue of a sample")
    return left


def dataset(
    rows: Rows, label: int, collate: Collate, cue_keys: Sequence[int] | None = None, rehearsed: bool = False
) -> AvalancheDataset:
    """Rows of one task as an Avalanche data set, with the attributes `targets_task_labels`, `cue_key`, `rehearsed`,
    `row_length` and `row_lead`.

    Args:
        cue_keys: of each row; its task's label by default.
    """
    guard()
    from avalanche.benchmarks.utils import AvalancheDataset, ConstantSequence, DataAttribute

    labels = DataAttribute(ConstantSequence(label, len(rows)), "targets_task_labels", use_in_getitem=True)
    # As an attribute, lengths can be read without the rows, of parts and sums of data sets too.
    lengths, leads = DataAttribute(rows.lengths, "row_length"), DataAttribute(rows.leads, "row_lead")
    marks = DataAttribute(ConstantSequence(int(rehearsed), len(rows)), "rehearsed", use_in_getitem=True)
    keys = DataAttribute(cue_keys or ConstantSequence(label, len(rows)), "cue_key", use_in_getitem=True)
    return AvalancheDataset([rows], data_attributes=[labels, keys, marks, lengths, leads], collate_fn=collate)


def ahead(items: Iterable[T]) -> Generator[T]:
    """The same items in the same order; while one is in use, a thread makes the next.

    Close it (`contextlib.closing`) where it may not be read to its end: the thread then ends too.
    """
    rest, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as thread:
        following: Any = thread.submit(next, rest, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, rest, end)
            yield item


def cuts(lengths: np.ndarray, pass_tokens: int) -> list[int]:
    """Where to cut rows, sorted by length, so that padding and forward passes together cost least.

    Args:
        lengths: tokens of each row, (rows,), ascending.
        pass_tokens: what a pass costs, in tokens.
    """
    # least[n]: the cost of the first n rows, the last batch of which begins at row begin[n].
    least, begin = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=np.int64)
    for end in range(1, len(lengths) + 1):
        cost = least[:end] + pass_tokens + lengths[end - 1] * np.arange(end, 0, -1)
        begin[end] = cost.argmin()
        least[end] = cost[begin[end]]
    found, at = [], int(begin[-1])
    while at > 0:
        found.append(at)
        at = int(begin[at])
    return found[::-1]


class TokenBatches:
    """The batches of one experience: each optimizer step takes rows at random, up to a budget of tokens or of
    rows.

    Inside a step, rows are sorted by length and forwarded in micro-batches, so that a step mixes what a
    shuffled epoch mixes and yet computes almost no padding. Iterating gives one triple per step. The order,
    and which rows carry their cue, are drawn anew in each epoch from `seed`; an epoch always gives the same
    steps, on any number of ranks.

    Args:
        dataset: as `encode` makes it, or several such one after another.
        tokens_per_batch: tokens of a step on one rank; or None with
        rows_per_batch: the most rows of a micro-batch; `accumulation` times as many make a step on one rank.
        cue_dropout: the share of rows that go without their cue.
        whole: one forward per step, padded, for plugins that must see the output of a whole step.
        pass_tokens: what one more micro-batch costs, in tokens.
        turns: row numbers that take part in every len(turns)-th epoch only, equally many; all others always do.
        rank, ranks: this process takes every `ranks`-th row of each step.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Collate,
        *,
        seed: int,
        tokens_per_batch: int | None = None,
        rows_per_batch: int | None = None,
        accumulation: int = 1,
        cue_dropout: float = 0.5,
        whole: bool = False,
        pass_tokens: int = CPU_PASS,
        turns: Sequence[np.ndarray] = (),
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.dataset, self.collate, self.seed = dataset, collate, seed
        self.tokens_per_batch, self.rows_per_batch, self.accumulation = (
            tokens_per_batch,
            rows_per_batch,
            accumulation,
        )
        self.cue_dropout, self.whole, self.rank, self.ranks = cue_dropout, whole, rank, ranks
        self.pass_tokens, self.turns = pass_tokens, turns
        self.epoch = 0
        self.skip = 0
        """Steps of the next epoch that were taken before, by a run that was stopped."""
        rows = len(dataset)
        self._bare = np.fromiter(dataset.row_length, np.int64, rows) + len(collate.bos_ids)
        cues = {key: len(ids) for key, ids in collate.cues.items()}
        self._cue = np.fromiter((cues.get(key, 0) for key in dataset.cue_key), np.int64, rows)
        self._cue -= np.fromiter(dataset.row_lead, np.int64, rows)
        self._document = np.fromiter((key in collate.documents for key in dataset.cue_key), np.bool_, rows)
        self._always = np.setdiff1d(np.arange(rows), np.concatenate(turns)) if turns else np.arange(rows)
        # The number of steps is the same in every epoch, so that a schedule knows its end before the first
        # one.
        rows = len(self._rows(0))
        if rows_per_batch is not None:
            self._steps = int(np.ceil(rows / (rows_per_batch * accumulation * ranks)))
        else:
            assert tokens_per_batch is not None
            each = self._tokens(np.full(len(dataset), 1 - cue_dropout))
            expected = np.mean([each[self._rows(turn)].sum() for turn in range(max(1, len(turns)))])
            self._steps = min(rows, int(np.ceil(expected / (tokens_per_batch * ranks))))

    def __len__(self) -> int:
        return self._steps

    @property
    def rows_per_step(self) -> int:
        """The mean number of rows in a step on one rank, for plugins that ask for a batch size."""
        return max(1, len(self._rows(0)) // max(1, self._steps * self.ranks))

    def _rows(self, epoch: int) -> np.ndarray:
        """The row numbers of an epoch."""
        if not self.turns:
            return self._always
        return np.concatenate([self._always, self.turns[epoch % len(self.turns)]])

    def _tokens(self, cued: np.ndarray) -> np.ndarray:
        """Tokens that each row takes, given how likely (or whether) it carries its cue, (rows,)."""
        if not self.collate.cues:
            return self._bare
        cued = np.where(self._document, 1, cued)
        second = np.where(self._document, 0, self._bare) if self.collate.passes == "two" else 0
        return self._bare + cued * (self._cue + second)

    def _epoch_steps(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Row numbers of every step, and which rows carry their cue, (rows,) bool."""
        cued = np.random.default_rng(derive(self.seed, epoch, "cue")).random(len(self._bare)) >= self.cue_dropout
        order = np.random.default_rng(derive(self.seed, epoch, "order")).permutation(self._rows(epoch))
        if self.rows_per_batch is not None:
            size = self.rows_per_batch * self.accumulation * self.ranks
            return [order[i : i + size] for i in range(0, len(order), size)], cued
        # Equal shares of the epoch's tokens, so that no step rests on a handful of leftover rows.
        cost = np.cumsum(self._tokens(cued)[order])
        step = np.arange(1, self._steps)
        bounds = np.searchsorted(cost, cost[-1] * step / self._steps) if len(cost) else step
        bounds = np.clip(np.maximum.accumulate(bounds - step) + step, step, len(order) - self._steps + step)
        return np.split(order, bounds), cued

    def _micro_batches(self, rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """This rank's rows of a step, sorted by length and cut."""
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        mine = rows[self.rank :: self.ranks] if len(rows) >= self.ranks else rows[:1]
        if self.whole:
            return [mine]
        size = self.rows_per_batch or len(mine)
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        return [part for rows in parts for part in np.split(rows, cuts(lengths[rows], self.pass_tokens))]

    def __iter__(self) -> Iterator[Triple]:
        steps, cued = self._epoch_steps(self.epoch)
        lengths = self._tokens(cued)
        skip, self.skip = self.skip, 0
        for rows in steps[skip:]:
            triples = [
                self.collate([self._row(int(i), bool(cued[i])) for i in part])
                for part in self._micro_batches(rows, lengths)
            ]
            x, y, t = triples[-1]
            x.earlier = [(batch, labels) for batch, labels, _ in triples[:-1]]
            yield x, y, t

    def _row(self, index: int, cue: bool) -> dict[str, Any]:
        return {**self.dataset[index], "cue": cue and bool(self.collate.cues)}
