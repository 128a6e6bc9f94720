"""One answer as it is written: its text, its tokens' likelihoods, why it ended; and how OpenAI shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from continual.request import Event, Likelihood
from continual.serve.textstream import BROKEN, TextStream

Reason = Literal["stop", "length"]
Text = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Token:
    """A token that was written, with its likelihood."""

    id: int
    start: int
    """Where its text begins in the answer."""
    likelihood: Likelihood


@dataclass(frozen=True)
class Piece:
    """What is new of one answer."""

    index: int
    text: str
    tokens: list[Token]
    """Those whose text is in the piece; empty where likelihoods are not asked for."""
    reason: Reason | None
    """Why the answer ended, in its last piece."""

    @property
    def empty(self) -> bool:
        return not self.text and not self.tokens and self.reason is None


class Answer:
    """One row of a request.

    Args:
        index: its number among the choices.
        stream: turns its ids into text.
        stop_ids: tokens that end it; they are no part of it.
    """

    def __init__(self, index: int, stream: TextStream, stop_ids: Sequence[int]) -> None:
        self.index, self.stream, self.stop_ids = index, stream, frozenset(stop_ids)
        self.count = 0
        """Tokens written, the one that ended it too."""
        self._waiting: list[Token] = []

    def take(self, event: Event) -> Piece:
        """What a new token adds."""
        self.count += 1
        text, ended = "", event.finished and event.id in self.stop_ids
        if not ended:
            text = self.stream.add(event.id)
            if event.likelihood is not None:
                self._waiting.append(Token(event.id, self.stream.starts[-1], event.likelihood))
        if event.done:
            text += self.stream.end()
        known = [t for t in self._waiting if t.start < self.stream.given or (event.done and not self.stream.stopped)]
        self._waiting = self._waiting[len(known) :]
        reason: Reason | None = None
        if event.done:
            reason = "stop" if event.finished else "length"
        return Piece(self.index, text, known, reason)


def chat_logprobs(tokens: Sequence[Token], text: Text) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""

    def shown(id: int, logprob: float) -> dict[str, Any]:
        piece = text([id])
        # Of a part of a character the text is not known, so neither are the bytes.
        return {"token": piece, "logprob": logprob, "bytes": None if BROKEN in piece else list(piece.encode())}

    entries = []
    for token in tokens:
        top = [shown(*pair) for pair in token.likelihood.top]
        entries.append({**shown(token.id, token.likelihood.logprob), "top_logprobs": top})
    return {"content": entries, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], text: Text) -> dict[str, Any]:
    """The `logprobs` of a completion's choice."""
    return {
        "tokens": [text([token.id]) for token in tokens],
        "token_logprobs": [token.likelihood.logprob for token in tokens],
        # The token itself is told too where it is not among the likeliest, as at OpenAI's.
        "top_logprobs": [
            {text([id]): p for id, p in (*token.likelihood.top, (token.id, token.likelihood.logprob))}
            for token in tokens
        ],
        "text_offset": [token.start for token in tokens],
    }
