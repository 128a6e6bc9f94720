"""Cross-entropy over a large vocabulary without ever holding all logits.

As in Liger Kernel's fused linear cross-entropy (Hsu et al., 2024, arXiv 2410.10989): gradients are computed in the
forward pass, one chunk of positions after another, so that only one chunk's logits exist at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A scalar, from the logits of positions (n, vocab), their right tokens (n,) and what each of them weighs (n,)."""

LossOf = Callable[[slice], Loss]
"""Gives the loss of a slice of the supervised positions of a micro-batch; it is a sum over them."""


def weighted(logits: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The sum of cross-entropy times weight over N positions, a scalar.

    Args:
        logits: (N, vocab); computed on in float32.
        y: the right tokens, (N,).
        weight: (N,).
    """
    return (F.cross_entropy(logits.float(), y, reduction="none") * weight).sum()


def plain(part: slice) -> Loss:
    """The loss of some positions where nobody has more to say than the data."""
    return weighted


def chunked(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    rows: int,
    loss_of: LossOf = plain,
) -> torch.Tensor:
    """The loss of the logits that hidden states lead to, with its gradients; not differentiable twice.

    Args:
        logits_of: (n, width) to (n, vocab), each row for itself.
        hidden: (N, width).
        parameters: those that `logits_of` reads and that are trained.
        rows: positions of a chunk.
        loss_of: of each chunk.
    """
    if not torch.is_grad_enabled():
        parts = [slice(start, start + rows) for start in range(0, len(y), rows)]
        return torch.stack([loss_of(part)(logits_of(hidden[part]), y[part], weight[part]) for part in parts]).sum()
    return _Chunked.apply(logits_of, loss_of, y, weight, rows, hidden, *parameters)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_of: Callable[[torch.Tensor], torch.Tensor],
        loss_of: LossOf,
        y: torch.Tensor,
        weight: torch.Tensor,
        rows: int,
        hidden: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        of_hidden = torch.empty_like(hidden)
        of_parameters = [torch.zeros_like(p) for p in parameters]
        for start in range(0, len(y), rows):
            part = slice(start, start + rows)
            own_loss = loss_of(part)  # what a teacher says there is no part of the graph
            with torch.enable_grad():
                chunk = hidden[part].detach().requires_grad_()
                loss = own_loss(logits_of(chunk), y[part], weight[part])
            gradients = torch.autograd.grad(loss, [chunk, *parameters], materialize_grads=True)
            of_hidden[part] = gradients[0]
            for sum_, gradient in zip(of_parameters, gradients[1:], strict=True):
                sum_ += gradient
            total += loss.detach()
        ctx.save_for_backward(of_hidden, *of_parameters)
        return total

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, None, None, None, *(gradient * above[0] for gradient in ctx.saved_tensors))
