"""The objects that a chat and a completion are answered with, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from continual.serve.answers import Piece, Text, Token, chat_logprobs, completion_logprobs


class Form:
    """One reply of a completion.

    Args:
        model: who answers, as it was asked for.
        text: ids to text, for likelihoods.
        asked: whether likelihoods are told.
        more: put into the whole object, or the first chunk: what `auto` chose.
    """

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, text: Text, asked: bool, more: dict[str, Any]) -> None:
        self.text, self.asked, self.more = text, asked, more
        self.head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def reply(self, choices: Sequence[tuple[str, list[Token], str | None]], usage: dict[str, Any]) -> dict[str, Any]:
        """The whole object; of each choice its text, its tokens and why it ended."""
        shown = []
        for index, (text, tokens, reason) in enumerate(choices):
            logprobs = self.logprobs(tokens) if self.asked else None
            shown.append({"index": index, **self.said(text), "logprobs": logprobs, "finish_reason": reason})
        return {**self.head, "object": self.whole, "choices": shown, "usage": usage, **self.more}

    def opening(self, count: int) -> list[dict[str, Any]]:
        """Chunks before any text."""
        return []

    def part(self, piece: Piece) -> dict[str, Any]:
        """A chunk."""
        logprobs = self.logprobs(piece.tokens) if self.asked else None
        choice = {"index": piece.index, **self.added(piece), "logprobs": logprobs, "finish_reason": piece.reason}
        return self.chunked([choice])

    def chunked(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        more, self.more = self.more, {}
        return {**self.head, "object": self.chunk, "choices": choices, "usage": usage, **more}

    def said(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def added(self, piece: Piece) -> dict[str, Any]:
        return {"text": piece.text}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return completion_logprobs(tokens, self.text)


class ChatForm(Form):
    """One reply of a chat."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, count: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [
            self.chunked([{"index": n, "delta": delta, "logprobs": None, "finish_reason": None}]) for n in range(count)
        ]

    def said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def added(self, piece: Piece) -> dict[str, Any]:
        return {"delta": {"content": piece.text} if piece.text else {}}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return chat_logprobs(tokens, self.text)


def usage(prompt: int, generated: int) -> dict[str, int]:
    """Tokens that were read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
