"""Samples to an Avalanche data set of encoded rows, and from there to token-budget batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from continual.batch import Collate, Triple
from continual.chat import Chat
from continual.errors import ContinualError
from continual.guard import guard
from continual.sample import Sample
from continual.seeds import derive

if TYPE_CHECKING:
    from avalanche.benchmarks.utils import AvalancheDataset


def encode(samples: Sequence[Sample], chat: Chat, max_length: int, label: int, collate: Collate) -> AvalancheDataset:
    """Encode samples of one task into an Arrow table inside an Avalanche data set.

    Args:
        max_length: the most tokens of a row, its cue included.
        label: the task's number in the curriculum, given to every supervised token.
    """
    guard()
    from avalanche.benchmarks.utils import AvalancheDataset, ConstantSequence, DataAttribute
    from datasets import Dataset

    room = max_length - len(collate.bos_ids) - max((len(ids) for ids in collate.cues.values()), default=0)
    if room < 8:
        raise ContinualError(f"training.max_length: {max_length} tokens leave no room beside the cue of a sample")
    encoded = [chat.encode(sample, room) for sample in samples]
    rows = Dataset.from_dict(
        {
            "input_ids": [e.input_ids for e in encoded],
            "answer": [e.answer for e in encoded],
            "length": [len(e.input_ids) for e in encoded],
        }
    )
    labels = DataAttribute(ConstantSequence(label, len(rows)), "targets_task_labels", use_in_getitem=True)
    return AvalancheDataset([rows], data_attributes=[labels], collate_fn=collate)


class TokenBatches:
    """The batches of one experience: each optimizer step takes rows at random, up to a budget of tokens or of
    rows.

    Inside a step, rows are sorted by length and forwarded in micro-batches, so that a step mixes what a
    shuffled epoch mixes and yet computes almost no padding. Iterating gives one triple per step. The order,
    and which rows carry their cue, are drawn anew in each epoch from `seed`; an epoch always gives the same
    steps, on any number of ranks.

    Args:
        dataset: rows as `encode` makes them.
        tokens_per_batch: tokens of a step on one rank; or None with
        rows_per_batch: rows of a micro-batch, `accumulation` of which make a step on one rank.
        cue_dropout: the share of rows that go without their cue.
        whole: one forward per step, padded, for plugins that must see the output of a whole step.
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
        self.epoch = 0
        self.skip = 0
        """Steps of the next epoch that were taken before, by a run that was stopped."""
        rows = [dataset[i] for i in range(len(dataset))]
        self._bare = np.array([row["length"] for row in rows], dtype=np.int64) + len(collate.bos_ids)
        self._cue = np.array([len(collate.cues.get(row["targets_task_labels"], [])) for row in rows], dtype=np.int64)
        # The number of steps is the same in every epoch, so that a schedule knows its end before the first
        # one.
        if rows_per_batch is not None:
            self._steps = int(np.ceil(len(rows) / (rows_per_batch * accumulation * ranks)))
        else:
            assert tokens_per_batch is not None
            expected = self._tokens(np.full(len(rows), 1 - cue_dropout)).sum()
            self._steps = min(len(rows), int(np.ceil(expected / (tokens_per_batch * ranks))))

    def __len__(self) -> int:
        return self._steps

    @property
    def rows_per_step(self) -> int:
        """The mean number of rows in a step on one rank, for plugins that ask for a batch size."""
        return max(1, len(self._bare) // max(1, self._steps * self.ranks))

    def _tokens(self, cued: np.ndarray) -> np.ndarray:
        """Tokens that each row takes, given how likely (or whether) it carries its cue, (rows,)."""
        if not self.collate.cues:
            return self._bare
        second = self._bare if self.collate.passes == "two" else 0
        return self._bare + cued * (self._cue + second)

    def _epoch_steps(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Row numbers of every step, and which rows carry their cue, (rows,) bool."""
        cued = np.random.default_rng(derive(self.seed, epoch, "cue")).random(len(self._bare)) >= self.cue_dropout
        order = np.random.default_rng(derive(self.seed, epoch, "order")).permutation(len(self._bare))
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
        """Cut this rank's rows of a step, sorted by length, where padding would begin to cost."""
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        mine = rows[self.rank :: self.ranks] if len(rows) >= self.ranks else rows[:1]
        if self.whole:
            return [mine]
        if self.rows_per_batch is not None:
            return [mine[i : i + self.rows_per_batch] for i in range(0, len(mine), self.rows_per_batch)]
        cuts, start = [], 0
        for end in range(1, len(mine)):
            longest, real = lengths[mine[end]], lengths[mine[start : end + 1]].sum()
            # A forward pass of few rows costs more than the padding that it saves.
            if end - start >= 8 and len(mine) - end >= 8 and longest * (end + 1 - start) > 1.15 * real:
                cuts.append(end)
                start = end
        return np.split(mine, cuts)

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
