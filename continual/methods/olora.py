"""O-LoRA (Wang et al., "Orthogonal Subspace Learning for Language Model Continual Learning", Findings of EMNLP 2023,
arXiv 2310.14152).

Each task learns in a LoRA adapter of its own, whose subspace (the rows of A) is to be orthogonal to those of all
earlier ones, which are frozen:

    loss + lambda_1 * sum_l sum_{i < t} sum_{jk} |A_i A_t^T|_jk  +  lambda_2 * sum_l (||A_t||_2 + ||B_t||_2)

over adapted layers l. The sum of absolute values is that of the authors' code (cmnfriend/O-LoRA,
uie_trainer_lora.py), which also stacks earlier adapters; the paper writes squares. The code applies `lora_dropout` to
frozen adapters too; here only to the one that is learnt.
"""

from __future__ import annotations

from typing import Any

import torch

from continual.catalogue import OLoRAArguments
from continual.methods.inclora import IncLoRAPlugin
from continual.methods.lesson import Lesson
from continual.methods.stack import DEFAULT, NEW, layers


def overlap(model: Any) -> torch.Tensor:
    """The sum of |A_old A_new^T| over the adapted layers, a scalar."""
    products = [layer.lora_A[DEFAULT].weight.detach() @ layer.lora_A[NEW].weight.T for layer in layers(model)]
    return torch.stack([product.abs().sum() for product in products]).sum()


def norm(model: Any) -> torch.Tensor:
    """The Frobenius norms of all factors of the new adapter, summed: a scalar."""
    factors = [part[NEW].weight for layer in layers(model) for part in (layer.lora_A, layer.lora_B)]
    return torch.stack([factor.norm() for factor in factors]).sum()


class OLoRAPlugin(IncLoRAPlugin):
    """Adds the penalty to the loss of each step, from the second task on."""

    def __init__(self, arguments: OLoRAArguments, adapter: Any, seed: int) -> None:
        super().__init__(adapter, seed)
        self.lambda_1, self.lambda_2 = arguments.lambda_1, arguments.lambda_2

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience > 0:
            strategy.loss = strategy.loss + self.lambda_1 * overlap(strategy.lm)
            if self.lambda_2 > 0:  # where B is still zero, the gradient of its norm is 0 in torch
                strategy.loss = strategy.loss + self.lambda_2 * norm(strategy.lm)


def build(arguments: OLoRAArguments, lesson: Lesson) -> OLoRAPlugin:
    """The method of a recipe."""
    assert lesson.adapter is not None
    return OLoRAPlugin(arguments, lesson.adapter, lesson.seed)
