"""How the next token is chosen from the logits: greedy, or drawn from what truncation leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from continual.guard import guard

guard()

import torch  # noqa: E402

NUCLEUS = 256
"""The likeliest tokens that top-p looks at first; all of them are sorted only where these do not reach p."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; a temperature of 0 takes the likeliest.

    The cuts are made in transformers' order: repetition penalty, temperature, top-k, top-p, min-p.
    """

    temperature: float = 0.0
    top_k: int = 0
    """Only the k likeliest; 0 is all."""
    top_p: float = 1.0
    """Only the likeliest that together reach this probability (Holtzman et al., 2020)."""
    min_p: float = 0.0
    """Only those at least this share as likely as the likeliest (Nguyen et al., 2024)."""
    repetition_penalty: float = 1.0
    """Logits of tokens seen before are divided by it, or multiplied where negative (Keskar et al., 2019)."""


def choose(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row, by inverse transform sampling in float64: one number decides a row, whatever
    the other rows are.

    Args:
        logits: (rows, vocab) float32.
        draws: (rows,) float64, uniform in [0, 1), one for each row; unused when greedy.

    Returns:
        (rows,) token ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    assert draws is not None
    values, tokens = (logits.topk(min(sampling.top_k, logits.shape[-1]), -1)) if sampling.top_k else (logits, None)
    values = values.double() / sampling.temperature
    whole = values.logsumexp(-1, keepdim=True)
    if sampling.top_p < 1 and not sampling.top_k:
        values, tokens = _nucleus(values, whole, sampling.top_p)
    probabilities = (values - whole).exp()
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities * (before < sampling.top_p)
    if sampling.min_p > 0:
        probabilities = probabilities * (probabilities >= sampling.min_p * probabilities.amax(-1, keepdim=True))
    total = probabilities.cumsum(-1)
    place = torch.searchsorted(total, (draws * total[:, -1])[:, None], right=True)
    # A draw just below 1 may round up to the total: it means the last token that has a probability.
    last = (total < total[:, -1:]).sum(-1, keepdim=True)
    place = torch.minimum(place, last)
    return (place if tokens is None else tokens.gather(1, place))[:, 0]


def _nucleus(scaled: torch.Tensor, whole: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens, enough of them to reach top-p in every row: (rows, n) values and tokens, best first."""
    if scaled.shape[-1] > NUCLEUS:
        values, tokens = scaled.topk(NUCLEUS, -1)
        if bool(((values - whole).exp().sum(-1) >= top_p).all()):
            return values, tokens
    return scaled.sort(-1, descending=True)


def penalise(logits: torch.Tensor, seen: Iterable[int], penalty: float) -> None:
    """Make tokens seen before less likely, in place.

    Args:
        logits: (vocab,) of one row.
        seen: ids of its prompt and of what it has written.
    """
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    values = logits[ids]
    logits[ids] = torch.where(values > 0, values / penalty, values * penalty)
