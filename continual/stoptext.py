"""Texts that end a continuation, whichever tokens they are written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def certain(text: str, stops: Sequence[str]) -> str:
    """Return a text without an end that may be the beginning of a stop text."""
    lengths = range(min(len(text), max(map(len, stops), default=1) - 1), 0, -1)
    begun = next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in stops)), 0)
    return text[: len(text) - begun]


class StopTexts:
    """Notices them as a row is written, reading back only where a new token may be the end of one.

    Args:
        text: ids to text.
    """

    def __init__(self, text: Callable[[Sequence[int]], str]) -> None:
        self.text = text
        self._pieces: dict[int, str] = {}

    def end(self, until: Sequence[str], ids: Sequence[int], skips: int = 0) -> bool:
        """Whether ids whose last one is new contain one of some texts, more than `skips` times."""
        if not until:
            return False
        newest = ids[-1]
        if newest not in self._pieces:
            self._pieces[newest] = self.text([newest])
        piece = self._pieces[newest]
        # A part of a character reads as U+FFFD: it may be the end of anything. So may an empty piece: a tokenizer
        # strips what stands alone.
        if piece.strip() and "\ufffd" not in piece and not any(stop[-1] in piece for stop in until):
            return False
        written = self.text(ids)
        return any(written.count(stop) > skips for stop in until)
