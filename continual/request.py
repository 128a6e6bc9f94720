"""What is asked of the decoding engine, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from continual.sampling import Sampling

Mix: TypeAlias = tuple[tuple[str, float], ...]
"""Names of adapters with weights: the change of the weights is the weighted sum of theirs."""


class HeldAdapter:
    """An adapter, or a mix, as it was when a request came: it lives, unchanged, as long as somebody refers to it."""


Chosen: TypeAlias = str | Mix | HeldAdapter | None
"""Who answers: an adapter by name, a mix, one that is held already, or the base model."""


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is to be continued."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    seed: int | None = None
    """Needed where something is drawn."""
    skip_stops: int = 0
    """This many stop tokens, or stop texts, do not end it (in many chat templates a prompt ends with the same one as
    an answer, and rehearsal writes both)."""
    until: tuple[str, ...] = ()
    """Texts that end it as well."""
    adapter: Chosen = None
    logprobs: int | None = None
    """Tell the log-probability of each token, and this many of the likeliest beside it."""

    def check(self, texts: bool, adapters: bool) -> None:
        """See that it can be answered.

        Args:
            texts: whether stop texts are understood.
            adapters: whether there are adapters.

        Raises:
            ValueError: it cannot.
        """
        if not self.prompt:
            raise ValueError("a prompt needs at least one token")
        if self.sampling.temperature > 0 and self.seed is None:
            raise ValueError("sampling needs a seed for each prompt")
        if self.until and not texts:
            raise ValueError("stop texts need a decoder that knows its tokenizer")
        if self.adapter is not None and not adapters:
            raise ValueError("an adapter needs a decoder that has adapters")


@dataclass(frozen=True)
class Likelihood:
    """How likely a token was, as the model says: natural logarithms, before temperature, penalty and cuts."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """Ids and log-probabilities of the likeliest tokens, the best first."""


@dataclass(frozen=True)
class Event:
    """One new token of one request."""

    number: int
    """What `Decoder.add` returned."""
    id: int
    done: bool
    """Whether it is the last one."""
    finished: bool
    """Whether it ended by itself, in a stop token or text."""
    likelihood: Likelihood | None = None
    """Where the request asks for it."""


@dataclass(frozen=True)
class Output:
    """What one prompt was continued with."""

    ids: tuple[int, ...]
    """Without the prompt; the stop token is the last one where there is one."""
    finished: bool
    """Whether it ended in a stop token or text, not at the length limit."""


class RowAdapters(Protocol):
    """Adapters that are chosen per row of a batch, as data."""

    def hold(self, adapter: Chosen) -> HeldAdapter | None:
        """What is chosen, as it is now.

        Raises:
            ContinualError: there is no such adapter.
        """

    def use(self, rows: Sequence[Chosen]) -> None:
        """Called before every forward pass with what was chosen for each of its rows; with no rows at the end."""


@dataclass(eq=False)
class Row:
    """A request at work."""

    number: int
    request: Request
    start: int
    """The column of its first token."""
    draws: np.ndarray | None
    skips: int
    ids: list[int] = field(default_factory=list)
    gone: bool = False
    """Whether it has ended or was cancelled; its place is filled before the next step."""

    @property
    def left(self) -> int:
        """The most tokens that are still to come."""
        return self.request.max_new_tokens - len(self.ids)

    @property
    def newest(self) -> int:
        return self.ids[-1] if self.ids else self.request.prompt[-1]


def beginning(*prompts: Sequence[int]) -> Sequence[int]:
    """What all prompts begin with."""
    low, high = (
        min(map(tuple, prompts)),
        max(map(tuple, prompts)),
    )  # in the order of a dictionary these two differ first
    same = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:same]
