"""The next token of every row of a batch, and how likely it was where that is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from continual.guard import guard
from continual.request import Likelihood, Row
from continual.sampling import Sampling, choose, penalise

guard()

import torch  # noqa: E402


def next_tokens(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[list[int], dict[int, Likelihood]]:
    """The next token of every row, and by row the likelihood of the tokens of those that ask for it.

    Args:
        logits: (rows, vocab) float32; may be changed in place.
        rows: each with its own way of sampling.
    """
    asking = [n for n, row in enumerate(rows) if row.request.logprobs is not None]
    # What the model says, before any penalty; a copy.
    log_p = logits[torch.tensor(asking, device=logits.device)].log_softmax(-1) if asking else None
    groups: dict[Sampling, list[int]] = {}
    for n, row in enumerate(rows):
        groups.setdefault(row.request.sampling, []).append(n)
        if row.request.sampling.repetition_penalty != 1:
            penalise(logits[n], [*row.request.prompt, *row.ids], row.request.sampling.repetition_penalty)
    tokens = [0] * len(rows)
    for sampling, members in groups.items():
        draws = None
        if sampling.temperature > 0:
            numbers = np.array(
                [row.draws[len(row.ids)] for row in (rows[n] for n in members) if row.draws is not None]
            )
            draws = torch.from_numpy(numbers).to(logits.device)
        mine = logits if len(groups) == 1 else logits[torch.tensor(members, device=logits.device)]
        for n, token in zip(members, choose(mine, sampling, draws).tolist(), strict=True):
            tokens[n] = token
    return tokens, {} if log_p is None else _likelihoods(log_p, rows, tokens, asking)


def _likelihoods(
    log_p: torch.Tensor, rows: Sequence[Row], tokens: Sequence[int], asking: Sequence[int]
) -> dict[int, Likelihood]:
    """By row, for the rows that ask; `log_p` has one row for each of these."""
    own = log_p.gather(1, torch.tensor([tokens[n] for n in asking], device=log_p.device)[:, None])[:, 0].tolist()
    most = max(rows[n].request.logprobs or 0 for n in asking)
    values, ids = (found.tolist() for found in log_p.topk(min(most, log_p.shape[-1]), -1))
    told = {}
    for place, n in enumerate(asking):
        count = rows[n].request.logprobs or 0
        top = tuple(zip(ids[place][:count], values[place][:count], strict=True))
        told[n] = Likelihood(own[place], top)
    return told
