"""SLAO (Qiao and Mahdavi, "Merge before Forget: A Single LoRA Continual Learning via Continual Merging", ICLR 2026,
arXiv 2512.23017).

One LoRA adapter. Task i > 1 starts from the last fine-tuned point, with A made orthonormal,

    Q R = QR(A_{ft,i-1}^T),   A_i^(0) = (Q sign(diag(R)))^T,   B_i^(0) = B_{ft,i-1},

and after it A is replaced and B is merged, by a share that falls with time:

    A_merge = A_{ft,i},   B_merge <- B_merge + (B_{ft,i} - B_merge) / sqrt(i).
"""

from __future__ import annotations

import math

import torch

from continual.catalogue import NoArguments
from continual.methods.apart import ApartPlugin
from continual.methods.lesson import Lesson
from continual.rehearse.teacher import Weights


def orthonormal(a: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the rows of A, (r, in): its QR factor with a positive diagonal of R."""
    q, r = torch.linalg.qr(a.T.float())
    return (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).T.to(a.dtype)


class SLAOPlugin(ApartPlugin):
    """Merges B, replaces A."""

    def start(self, finetuned: Weights) -> Weights:
        return {name: orthonormal(w) if ".lora_A." in name else w for name, w in finetuned.items()}

    def merge(self, merged: Weights, finetuned: Weights, tasks: int) -> Weights:
        return {
            name: w if ".lora_A." in name else merged[name] + (w - merged[name]) / math.sqrt(tasks)
            for name, w in finetuned.items()
        }


def build(arguments: NoArguments, lesson: Lesson) -> SLAOPlugin:
    """The method of a recipe."""
    return SLAOPlugin()
