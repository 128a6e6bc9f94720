"""The running merge of SLAO (Qiao and Mahdavi, "Merge before Forget: A Single LoRA Continual Learning via Continual
Merging", ICLR 2026, arXiv 2512.23017), in the order of the adapters.

    delta_merge <- delta_merge + (delta_i - delta_merge) / sqrt(i).

In the paper this is done to B, beside an A that each task takes over from the one before and that is replaced. Here
it is done to the changes, for adapters that were trained apart have nothing in common in their factors; where all
share A, it is the same. `continual.merge.fold` takes one further adapter in without the earlier ones.
`continual/methods/slao.py` is the paper's own way of training.
"""

import math

import torch


def shares(n: int) -> list[float]:
    """What is left of each of n adapters in the end."""
    found: list[float] = []
    for i in range(1, n + 1):
        newest = 1 / math.sqrt(i)
        found = [share * (1 - newest) for share in found] + [newest]
    return found


def slao(changes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The running merge of changes (n, out, in), each times its weight."""
    return torch.tensordot(weights * weights.new_tensor(shares(len(changes))), changes, 1)
