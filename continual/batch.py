"""What the training loop moves about: `LMBatch`, and the collate function that makes (x, y, t) of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

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
    tokens: int
    """Real tokens, padding not counted."""
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
            self.tokens,
            [(batch._map(move), move(y)) for batch, y in self.earlier],
        )

    @property
    def step(self) -> list[LMBatch]:
        """All micro-batches of this optimizer step, this one last."""
        return [*(batch for batch, _ in self.earlier), self]


Triple = tuple[LMBatch, "torch.Tensor", "torch.Tensor"]


@dataclass(frozen=True)
class Collate:
    """Encoded rows to the triple (x, y, t) that Avalanche expects.

    A row is a dict with `input_ids`, `answer` (see `chat.Encoded`), `targets_task_labels`, and in training
    `cue`: whether this time it starts with its cue.

    Args:
        bos_ids: stand before everything.
        cues: cue ids per task label; empty where nothing is rehearsed.
        pad_id: any id; no loss and no attention ever falls on it.
        passes: ``one`` gives a cued row both losses. ``two`` writes each sample twice, as LAMOL's two forward
            passes: without cue and with answer loss, then with cue and with the sample loss.
    """

    bos_ids: Sequence[int]
    cues: dict[int, list[int]]
    pad_id: int
    passes: Passes = "one"

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Triple:
        import torch

        written = [w for row in rows for w in self._written(row)]
        longest = max(len(ids) for ids, *_ in written)
        ids = torch.full((len(written), longest), self.pad_id, dtype=torch.long)
        answer = torch.zeros(len(written), longest)
        cued = torch.zeros(len(written), longest)
        task = torch.zeros(len(written), dtype=torch.long)
        for i, (row_ids, row_answer, row_cued, label) in enumerate(written):
            n = len(row_ids)
            ids[i, :n] = torch.tensor(row_ids)
            answer[i, :n] = torch.tensor(row_answer, dtype=torch.float)
            cued[i, :n] = torch.tensor(row_cued, dtype=torch.float)
            task[i] = label
        # The first token is never predicted; position p stands for token p + 1 from here on.
        answer, cued = answer[:, 1:], cued[:, 1:]
        supervised = (answer + cued) > 0
        y = ids[:, 1:][supervised]
        t = task[:, None].expand_as(supervised)[supervised]
        tokens = sum(len(row_ids) for row_ids, *_ in written)
        return LMBatch(ids, supervised, answer[supervised], cued[supervised], tokens), y, t

    def _written(self, row: dict[str, Any]) -> list[tuple[list[int], list[int], list[int], int]]:
        label, body, answer = row["targets_task_labels"], row["input_ids"], row["answer"]
        bos = list(self.bos_ids)
        none = [0] * len(body)
        bare = (bos + body, [0] * len(bos) + answer, [0] * len(bos) + none, label)
        if not row.get("cue"):
            return [bare]
        head = bos + self.cues[label]
        quiet = [0] * len(head)
        if self.passes == "two":
            return [bare, (head + body, quiet + none, quiet + [1] * len(body), label)]
        return [(head + body, quiet + answer, quiet + [1] * len(body), label)]
