"""What the training loop moves about: `LMBatch`, and the collate function that makes (x, y, t) of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from continual.sample import Sample

if TYPE_CHECKING:
    import torch

Passes = Literal["one", "two"]


@dataclass
class LMBatch:
    """Rows of tokens, and where loss falls: what Avalanche calls x.

    Position p of `supervised` tells whether token p + 1 is predicted with loss. Rows are padded on the right
    and need no attention mask: a causal model never looks to the right of a real token.
    """

    input_ids: torch.Tensor
    """(rows, length) int64"""
    supervised: torch.Tensor
    """(rows, length - 1) bool"""
    answer: torch.Tensor
    """(N,) float32: 1 where the answer loss falls, over the N supervised positions in reading order"""
    cued: torch.Tensor
    """(N,) float32: 1 where the sample loss falls"""
    rehearsed: torch.Tensor
    """(N,) int64: 0 at positions of real samples; at those of rehearsed ones, 1 + the number of their task"""
    lengths: list[int]
    """Real tokens of each row, padding not counted."""
    earlier: list[tuple[LMBatch, torch.Tensor]] = field(default_factory=list)
    """The micro-batches before this one that belong to the same optimizer step, each with its y."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: Any, non_blocking: bool = False) -> LMBatch:
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> LMBatch:
        return self._map(lambda t: t.pin_memory())

    def _map(self, move: Any) -> LMBatch:
        return LMBatch(
            move(self.input_ids),
            move(self.supervised),
            move(self.answer),
            move(self.cued),
            move(self.rehearsed),
            self.lengths,
            [(batch._map(move), move(y)) for batch, y in self.earlier],
        )

    @property
    def tokens(self) -> int:
        """Real tokens of all rows."""
        return sum(self.lengths)

    @property
    def step(self) -> list[LMBatch]:
        """All micro-batches of this optimizer step, this one last."""
        return [*(batch for batch, _ in self.earlier), self]

    def split(self, y: torch.Tensor, parts: int) -> list[tuple[LMBatch, torch.Tensor]]:
        """These rows, without `earlier`, in at most so many batches of about equal size, each with its y, (N,)."""
        rows = -(-len(self) // parts)
        starts = range(0, len(self), rows)
        # Supervised positions are in reading order: each batch has its own stretch of them.
        positions = [int(self.supervised[i : i + rows].sum()) for i in starts]
        of_each = zip(*(v.split(positions) for v in (y, self.answer, self.cued, self.rehearsed)), strict=True)
        cut = []
        for i, (own_y, answer, cued, rehearsed) in zip(starts, of_each, strict=True):
            lengths = self.lengths[i : i + rows]
            ids = self.input_ids[i : i + rows, : max(lengths)]
            supervised = self.supervised[i : i + rows, : max(lengths) - 1]
            cut.append((LMBatch(ids, supervised, answer, cued, rehearsed, lengths), own_y))
        return cut


Triple = tuple[LMBatch, "torch.Tensor", "torch.Tensor"]


@dataclass(frozen=True)
class Collate:
    """Encoded rows to the triple (x, y, t) that Avalanche expects.

    A row is a dict with `input_ids`, `answer` and `lead` (see `chat.Encoded`), `targets_task_labels`, `rehearsed`
    (0 or 1), `cue_key` (which cue is its own), and in training `cue`: whether this time it starts with it.

    Args:
        bos_ids: stand before everything.
        cues: cue ids by key; empty where nothing is rehearsed.
        key_of: the key of a sample; by default its task's label.
        documents: keys of rows that are plain text: all of it bears the sample loss, always and once.
        pad_id: any id; no loss and no attention ever falls on it.
        passes: ``one`` gives a cued row both losses. ``two`` writes each sample twice, as LAMOL's two forward
            passes: without cue and with answer loss, then with cue and with the sample loss.
    """

    bos_ids: Sequence[int]
    cues: dict[int, list[int]]
    pad_id: int
    passes: Passes = "one"
    key_of: Callable[[Sample], int] | None = None
    documents: frozenset[int] = frozenset()

    def keys(self, samples: Sequence[Sample], label: int) -> list[int]:
        """The cue key of each sample of a task."""
        return [label if self.key_of is None else self.key_of(sample) for sample in samples]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Triple:
        import torch

        written = [w for row in rows for w in self._written(row)]
        lengths = [len(head) + len(row["input_ids"]) for head, row, *_ in written]
        shape = (len(written), max(lengths))
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        answer, cued = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        task = np.zeros((len(written), 1), dtype=np.int64)
        rehearsed = np.zeros((len(written), 1), dtype=np.int64)
        for i, (head, row, bears_answer, bears_sample) in enumerate(written):
            start, end = len(head), lengths[i]
            ids[i, :start] = head
            ids[i, start:end] = row["input_ids"]
            if bears_answer:
                answer[i, start:end] = row["answer"]
            if bears_sample:
                cued[i, start:end] = 1
            task[i] = row["targets_task_labels"]
            rehearsed[i] = row["rehearsed"] * (1 + row["targets_task_labels"])
        # The first token is never predicted; position p stands for token p + 1 from here on.
        answer, cued = answer[:, 1:], cued[:, 1:]
        supervised = (answer + cued) > 0
        y = torch.from_numpy(ids[:, 1:][supervised])
        t = torch.from_numpy(np.broadcast_to(task, supervised.shape)[supervised])
        x = LMBatch(
            torch.from_numpy(ids),
            torch.from_numpy(supervised),
            torch.from_numpy(answer[supervised]),
            torch.from_numpy(cued[supervised]),
            torch.from_numpy(np.broadcast_to(rehearsed, supervised.shape)[supervised]),
            lengths,
        )
        return x, y, t

    def _written(self, row: Mapping[str, Any]) -> list[tuple[Sequence[int], Mapping[str, Any], bool, bool]]:
        """What stands before a row each time it is written, and whether it then bears answer and sample loss."""
        bare = (self.bos_ids, row, True, False)
        document = row["cue_key"] in self.documents
        if not row.get("cue") and not document:
            return [bare]
        head = [*self.bos_ids, *self.cues[row["cue_key"]]]
        lead = row["lead"]
        cued = {**row, "input_ids": row["input_ids"][lead:], "answer": row["answer"][lead:]}
        if document:
            return [(head, cued, False, True)]
        if self.passes == "two":
            return [bare, (head, cued, False, True)]
        return [(head, cued, True, True)]
