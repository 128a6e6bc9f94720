"""What a teacher expected at every token of the samples of a task, kept on disk beside their text.

Kept are the log-probabilities of the likeliest tokens and of all others together. So a teacher
outlives its weights: no later task can spoil it, whatever a method does to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save

from continual import model as models
from continual.batch import Collate, LMBatch
from continual.errors import ContinualError
from continual.model import CausalLM
from continual.rehearse.teacher import teacher_logits
from continual.runs import write_bytes

TARGETS = ".safetensors"
"""The ending of a file of targets; its name is that of the text."""

LIKELIEST = 32
"""Tokens kept at each position: six bytes each, so about 200 bytes a position."""

PASS = 4096
"""Tokens, padding included, of one forward pass of the teacher."""


@dataclass(frozen=True)
class Likeliest:
    """A distribution over the vocabulary at M positions, of which k tokens are told apart.

    Args:
        ids: the tokens, (M, k).
        logprobs: theirs, and last that of all other tokens together, (M, k + 1).
    """

    ids: torch.Tensor
    logprobs: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, temperature: float) -> Likeliest:
        """The likeliest tokens by logits, (M, vocab), softened by a temperature."""
        scaled = logits.float() / temperature
        ids = scaled.topk(min(LIKELIEST, scaled.shape[-1] - 1)).indices
        return cls(ids, _grouped(scaled, ids))

    def __getitem__(self, part: slice) -> Likeliest:
        return Likeliest(self.ids[part], self.logprobs[part])

    def divergence(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """KL of a student's softened distribution from this one, (M,); `logits` are (M, vocab)."""
        student = _grouped(logits.float() / temperature, self.ids)
        return F.kl_div(student, self.logprobs, reduction="none", log_target=True).sum(-1)


def _grouped(scaled: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of some tokens, and last of all others together, (M, k + 1)."""
    rest = scaled.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([scaled.gather(-1, ids), rest], -1).log_softmax(-1)


class TargetStore:
    """The targets of everything that is rehearsed, found again by the tokens of a row.

    Args:
        collate: as in training: each sample is asked about in every form in which it is learned.
        temperature: the distributions are softened by it.
    """

    def __init__(self, collate: Collate, temperature: float) -> None:
        self.collate, self.temperature = collate, temperature
        self._of_row: dict[tuple[int, bytes], Likeliest] = {}

    def begin(self) -> None:
        """A task begins: forget what was rehearsed in the one before."""
        self._of_row = {}

    def take(self, model: CausalLM, rows: Sequence[Mapping[str, Any]], path: Path, ask: bool) -> None:
        """Have the targets of a task's rehearsed rows at hand.

        Args:
            path: where they are kept; what is there already is not asked again.
            ask: whether this model is the teacher of these rows.

        Raises:
            ContinualError: there are none, and this model is not their teacher; or they are of other rows.
        """
        forms = list(self._forms(rows))
        if not path.exists():
            if not ask:
                raise ContinualError(f"{path}: is not there: what the model expected cannot be asked any more")
            kept = self._asked(model, [form for _, form in forms])
            write_bytes(path, save({"ids": kept.ids.int(), "logprobs": kept.logprobs.half()}))
        saved = load_file(path)
        sizes = [len(form.answer) for _, form in forms]
        if len(saved["ids"]) != sum(sizes):
            raise ContinualError(f"{path}: does not belong to the samples beside it; begin the arm anew")
        parts = zip(saved["ids"].split(sizes), saved["logprobs"].split(sizes), strict=True)
        for (key, _), (ids, logprobs) in zip(forms, parts, strict=True):
            self._of_row[key] = Likeliest(ids, logprobs)

    def of(self, x: LMBatch) -> Likeliest:
        """What was expected at the rehearsed positions of a micro-batch, in reading order."""
        found = [self._of_row[key] for key in _keys(x) if key[0]]
        ids = torch.cat([row.ids for row in found]).to(x.input_ids.device)
        logprobs = torch.cat([row.logprobs for row in found]).to(x.input_ids.device)
        # Half precision leaves a sum beside 1, which would pull the student a little.
        return Likeliest(ids.long(), logprobs.float().log_softmax(-1))

    def _forms(self, rows: Sequence[Mapping[str, Any]]) -> Iterable[tuple[tuple[int, bytes], LMBatch]]:
        """Every form of every row, once, as a batch of one row, with its key."""
        seen: set[tuple[int, bytes]] = set()
        for number in range(len(rows)):
            for cue in (False, True) if self.collate.cues else (False,):
                x, y, _ = self.collate([{**rows[number], "cue": cue}])
                for form, _ in x.split(y, len(x)):
                    (key,) = _keys(form)
                    if key not in seen:
                        seen.add(key)
                        yield key, form

    def _asked(self, model: CausalLM, forms: Sequence[LMBatch]) -> Likeliest:
        """What a model expects at the supervised positions of some rows, one after the other."""
        order = sorted(range(len(forms)), key=lambda i: forms[i].lengths[0])
        answers: dict[int, Likeliest] = {}
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * forms[i].lengths[0] > PASS:
                answers |= self._pass(model, forms, batch)
                batch = []
            batch.append(i)
        answers |= self._pass(model, forms, batch)
        parts = [answers[i] for i in range(len(forms))]
        return Likeliest(torch.cat([p.ids for p in parts]), torch.cat([p.logprobs for p in parts]))

    def _pass(self, model: CausalLM, forms: Sequence[LMBatch], batch: Sequence[int]) -> dict[int, Likeliest]:
        x = _joined([forms[i] for i in batch]).to(next(model.inner.parameters()).device)
        logits_of = teacher_logits(model, x, {})
        size = max(1, models.CHUNK // model.inner.get_output_embeddings().weight.shape[0])
        parts = [
            Likeliest.of(logits_of(slice(start, start + size)), self.temperature)
            for start in range(0, len(x.answer), size)
        ]
        sizes = [len(forms[i].answer) for i in batch]
        ids = torch.cat([part.ids.cpu() for part in parts]).split(sizes)
        logprobs = torch.cat([part.logprobs.cpu() for part in parts]).split(sizes)
        return {i: Likeliest(*told) for i, *told in zip(batch, ids, logprobs, strict=True)}


def _keys(x: LMBatch) -> list[tuple[int, bytes]]:
    """Of each row, what it is rehearsed of (see `LMBatch.rehearsed`) and its tokens."""
    sizes = x.supervised.sum(1).tolist()
    marks = x.rehearsed.cpu().split(sizes)
    rows = zip(x.input_ids.cpu().numpy().astype(np.int32), x.lengths, marks, strict=True)
    return [(int(mark[0]) if len(mark) else 0, ids[:length].tobytes()) for ids, length, mark in rows]


def _joined(rows: Sequence[LMBatch]) -> LMBatch:
    """Batches of one row each as one batch."""
    longest = max(row.lengths[0] for row in rows)
    ids = [F.pad(row.input_ids, (0, longest - row.input_ids.shape[1])) for row in rows]
    supervised = [F.pad(row.supervised, (0, longest - 1 - row.supervised.shape[1])) for row in rows]
    return LMBatch(
        torch.cat(ids),
        torch.cat(supervised),
        torch.cat([row.answer for row in rows]),
        torch.cat([row.cued for row in rows]),
        torch.cat([row.rehearsed for row in rows]),
        [row.lengths[0] for row in rows],
    )
